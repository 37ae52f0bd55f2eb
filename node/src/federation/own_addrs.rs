//! At which addresses this node is dialled: those of `federation.advertise`, where a name is resolved again and again.
//!
//! The system's resolver does it: the name is the node's own, and its operator has written it down.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable as _};

use crate::{
    config::{Advertised, can_be_dialled},
    core::Core,
    membership::event::Event,
};

/// The most addresses of a record.
const MAX_ADDRS: usize = 4;
/// How often names are resolved again. The system's resolver keeps an answer for as long as it is good.
const RESOLVE_EVERY: Duration = Duration::from_secs(20);
/// How long a node stays after it has moved: each move is a new run, and members let a key begin few of them. A name whose
/// resolver gives other addresses each time must not have it begin one every 20 s.
const STAY: Duration = Duration::from_secs(300);
/// How often, and after which pauses, a name is tried at the start: a machine's network may come up after its services.
const START_TRIES: usize = 5;
const START_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long one name may take.
const RESOLVE_WAIT: Duration = Duration::from_secs(10);

/// A name has no address.
#[derive(Debug, thiserror::Error)]
#[error("{advertised} (federation.advertise) has no address")]
pub struct ResolveError {
    /// The name and port.
    pub advertised: Advertised,
    /// The resolver's reason.
    pub source: io::Error,
}

/// The addresses, in the order in which they are named; of a name those that its resolver has.
///
/// # Errors
/// One of the names has none.
pub(crate) async fn resolve(advertise: &[Advertised]) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut addrs = Vec::new();
    for advertised in advertise {
        let found = match advertised {
            Advertised::Addr(addr) => vec![*addr],
            Advertised::Name { host, port } => {
                let fail = |source| ResolveError { advertised: advertised.clone(), source };
                let asking = tokio::time::timeout(RESOLVE_WAIT, tokio::net::lookup_host((host.as_str(), *port)));
                let mut found: Vec<_> = asking.await.map_err(|late| fail(late.into()))?.map_err(fail)?.collect();
                found.retain(can_be_dialled);
                if found.is_empty() {
                    return Err(fail(io::ErrorKind::NotFound.into()));
                }
                // The resolver's order may change from one answer to the next, and the first address is the one that counts.
                found.sort_by_key(|addr| (addr.is_ipv6(), *addr));
                found
            }
        };
        for addr in found {
            if !addrs.contains(&addr) && addrs.len() < MAX_ADDRS {
                addrs.push(addr);
            }
        }
    }
    Ok(addrs)
}

/// The same at the start, when the network may not be there yet.
///
/// # Errors
/// As [`resolve`].
pub(crate) async fn resolve_patiently(advertise: &[Advertised]) -> Result<Vec<SocketAddr>, ResolveError> {
    let (first, longest) = START_PAUSES;
    let pauses =
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_max_times(START_TRIES);
    (async || resolve(advertise).await)
        .retry(pauses)
        .notify(|error: &ResolveError, _| {
            tracing::warn!(error = error as &dyn std::error::Error, "trying again");
        })
        .await
}

/// Has the node move where its names do.
pub(crate) async fn watch(core: Arc<Core>) {
    let advertise = &core.context.config.federation.advertise;
    if !advertise.iter().any(|advertised| matches!(advertised, Advertised::Name { .. })) {
        return std::future::pending().await;
    }
    let mut moves = Moves::default();
    loop {
        tokio::time::sleep(RESOLVE_EVERY).await;
        match resolve(advertise).await {
            Ok(addrs) if addrs == **core.context.quic_addrs.load() || !moves.try_move(Instant::now()) => {}
            Ok(addrs) => {
                tracing::info!("the name in federation.advertise has another address; moving there");
                core.context.quic_addrs.store(Arc::new(addrs));
                if core.membership.send(Event::Moved).await.is_err() {
                    return;
                }
            }
            // The last address may be right all the same.
            Err(error) => core.health.note_unresolved(&error),
        }
    }
}

/// When the node has moved last.
#[derive(Debug, Default)]
struct Moves {
    last: Option<Instant>,
}

impl Moves {
    /// Whether the node may move now; it counts as moved then.
    fn try_move(&mut self, now: Instant) -> bool {
        let may_move = self.last.is_none_or(|last| now >= last + STAY);
        if may_move {
            self.last = Some(now);
        }
        may_move
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_whose_address_changes_each_time_moves_the_node_every_few_minutes_at_most() {
        let (start, mut moves) = (Instant::now(), Moves::default());
        let looks = (0..180).map(|look| start + RESOLVE_EVERY * look);
        assert_eq!(looks.filter(|now| moves.try_move(*now)).count(), 12, "in an hour");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_no_host_has_no_address() {
        let named = |host: &str| [Advertised::Name { host: host.to_owned(), port: 8711 }];
        for host in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(resolve(&named(host)).await.is_err(), "{host}");
        }
        assert_eq!(resolve(&named("127.0.0.1")).await.expect("an address"), ["127.0.0.1:8711".parse().expect("one")]);
    }
}
