//! The addresses at which this node is dialled: those of `federation.advertise`, whose names are resolved periodically.
//!
//! Uses the system's resolver, because the operator has configured the name.

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

/// Maximum number of addresses in a record.
const MAX_ADDRS: usize = 4;
/// Interval between resolutions. The system's resolver caches answers for their lifetime.
const RESOLVE_EVERY: Duration = Duration::from_secs(20);
/// Minimum time between moves. Each move is a new run, and members limit the runs of a key. A resolver that returns
/// other addresses each time must not cause a run every 20 s.
const MIN_STAY: Duration = Duration::from_secs(300);
/// Attempts at the start, and their first and longest pause: a machine's network may come up after its services.
const START_TRIES: usize = 5;
const START_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Time limit for one name.
const RESOLVE_WAIT: Duration = Duration::from_secs(10);

/// A name does not resolve to an address.
#[derive(Debug, thiserror::Error)]
#[error("{advertised} (federation.advertise) has no address")]
pub struct ResolveError {
    /// The entry of `federation.advertise`.
    pub advertised: Advertised,
    /// The resolver's error.
    pub source: io::Error,
}

/// Returns the addresses in the order of the configuration. A name is replaced by its addresses.
///
/// # Errors
/// Returns an error if a name has no address.
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
                // The resolver's order may change between answers, and the first address of a record determines its
                // network.
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

/// Like [`resolve`], with retries for the start, when the network may not be up yet.
///
/// # Errors
/// See [`resolve`].
pub(crate) async fn resolve_with_retries(advertise: &[Advertised]) -> Result<Vec<SocketAddr>, ResolveError> {
    let (first, longest) = START_PAUSES;
    let pauses =
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_max_times(START_TRIES);
    (async || resolve(advertise).await)
        .retry(pauses)
        .notify(|error: &ResolveError, _| {
            tracing::warn!(error = error as &dyn std::error::Error, "retrying");
        })
        .await
}

/// Starts a new run at the new addresses whenever a name's addresses change.
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
                tracing::info!("a name in federation.advertise has other addresses now; moving there");
                core.context.quic_addrs.store(Arc::new(addrs));
                if core.membership.send(Event::Moved).await.is_err() {
                    return;
                }
            }
            // The last addresses may still be right.
            Err(error) => core.health.warn_unresolved(&error),
        }
    }
}

/// Time of the last move.
#[derive(Debug, Default)]
struct Moves {
    last: Option<Instant>,
}

impl Moves {
    /// Returns whether the node may move now, and if so records the move.
    fn try_move(&mut self, now: Instant) -> bool {
        let may_move = self.last.is_none_or(|last| now >= last + MIN_STAY);
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
    fn a_name_that_always_changes_moves_the_node_at_most_every_five_minutes() {
        let (start, mut moves) = (Instant::now(), Moves::default());
        let looks = (0..180).map(|look| start + RESOLVE_EVERY * look);
        assert_eq!(looks.filter(|now| moves.try_move(*now)).count(), 12, "in an hour");
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_no_host_has_no_address() {
        let named = |host: &str| [Advertised::Name { host: host.to_owned(), port: 8711 }];
        for host in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(resolve(&named(host)).await.is_err(), "{host}");
        }
        assert_eq!(resolve(&named("127.0.0.1")).await.expect("an address"), ["127.0.0.1:8711".parse().expect("one")]);
    }
}
