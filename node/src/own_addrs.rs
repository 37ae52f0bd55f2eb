//! At which addresses this node is dialled: those of `federation.advertise`, where a name is resolved again and again.
//!
//! The system's resolver does it: the name is the node's own, and its operator has written it down.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};

use crate::{config::Advertised, core::Core, federation::membership::Event};

/// The most addresses of a record.
const MAX_ADDRS: usize = 4;
/// How often names are resolved again. The system's resolver keeps an answer for as long as it is good.
const RESOLVE_EVERY: Duration = Duration::from_secs(20);
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
    let advertise = &core.config.federation.advertise;
    if !advertise.iter().any(|advertised| matches!(advertised, Advertised::Name { .. })) {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(RESOLVE_EVERY).await;
        match resolve(advertise).await {
            Ok(addrs) if addrs == **core.quic_addrs.load() => {}
            Ok(addrs) => {
                tracing::info!("the name in federation.advertise has another address; moving there");
                core.quic_addrs.store(Arc::new(addrs));
                if core.membership.send(Event::Moved).await.is_err() {
                    return;
                }
            }
            // The last address may be right all the same.
            Err(error) => core.note_unresolved(&error),
        }
    }
}
