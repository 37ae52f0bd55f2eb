//! Asks a few members in different networks to try this node, every quarter of an hour and when the operator wants to know.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::{
    keys::NodeId,
    reachability::{Family, SignedReachability, Transport},
    record::{Abilities, NodeRecord},
    signed::Signed,
};
use futures_util::future::join_all;
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use super::{
    message::{self, CheckRefusal, CheckReply, CheckRequest, MessageError, StatementFault},
    rounds::{Reach, ReachCounts, RoundReport},
    targets::family_of,
};
use crate::{
    core::Core,
    links::{link::CloseReason, probe::CHECK_STREAM},
    placement::{Network, Tag},
};

/// Seconds between rounds: a quarter of an hour, at random, so that nobody knows when a node is tried.
const ROUND_EVERY: std::ops::Range<u64> = 10 * 60..20 * 60;
/// Pause before the first round, and after one in which no member could be asked. The members are known by then.
const FIRST_ROUND_AFTER: Duration = Duration::from_secs(60);
/// Members asked in a round for each family. If one of them lies, two others contradict it.
const OBSERVERS: usize = 3;
/// Random tags whose homes are considered. A member on probation is not among them while there are enough others.
const DRAWS: usize = 8;
/// Time limit for connecting to an observer.
const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// Time limit for its reply: a check takes at most 21 s, and a request two seconds.
const REPLY_WAIT: Duration = Duration::from_secs(24);
/// Time limit of a round: its observers are asked at once.
pub(crate) const ROUND_WAIT: Duration = Duration::from_secs(CONNECT_WAIT.as_secs() + REPLY_WAIT.as_secs());

/// Why a member has stated nothing that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("it cannot be reached")]
    Unreachable,
    #[error("it did not answer in time")]
    Timeout,
    #[error("the connection broke")]
    Broken,
    #[error(transparent)]
    Refused(#[from] CheckRefusal),
    #[error(transparent)]
    Statement(#[from] StatementFault),
}

/// Asks members until the node ends. Warns the operator when several of them cannot reach the node.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut unreached = Vec::new();
    let mut pause = FIRST_ROUND_AFTER;
    loop {
        sleep(pause).await;
        let report = round(&core).await;
        pause = if report.asked == 0 {
            FIRST_ROUND_AFTER
        } else {
            Duration::from_secs(rand::rng().random_range(ROUND_EVERY))
        };
        let failing = failing(core.reachability.counts(Instant::now(), core.members.own_record.load().epoch));
        for transport in &failing {
            if !unreached.contains(transport) {
                tracing::warn!(
                    transport = transport.as_str(),
                    "members cannot reach this node from outside: run chappe node doctor"
                );
            }
        }
        for transport in unreached.iter().filter(|transport| !failing.contains(transport)) {
            tracing::info!(transport = transport.as_str(), "members reach this node from outside again");
        }
        unreached = failing;
    }
}

/// The transports that at least two observers have tried, and most of them in vain.
fn failing(counts: ReachCounts) -> Vec<Transport> {
    let is_failing = |Reach { reached, failed }: &Reach| *failed >= 2 && failed > reached;
    Transport::ALL.into_iter().zip(&counts).filter(|(_, reach)| is_failing(reach)).map(|(one, _)| one).collect()
}

/// Asks members in different networks, for each family, and stores their statements.
pub(crate) async fn round(core: &Arc<Core>) -> RoundReport {
    let _running = core.reachability.begin().await;
    let families = if core.context.config.federation.listen.is_ipv4() {
        // A socket for IPv4 reaches no observer over IPv6.
        &[Family::V4][..]
    } else {
        &[Family::V4, Family::V6]
    };
    let observers: Vec<_> = families.iter().flat_map(|family| observers(core, *family)).collect();
    let mut report = RoundReport { asked: observers.len(), ..RoundReport::default() };
    let results =
        join_all(observers.iter().map(|observer| async move { (observer.node, ask(core, observer).await) })).await;
    for (node, result) in results {
        match result {
            Ok(statement) => {
                report.answered += 1;
                core.reachability.add(Instant::now(), statement);
            }
            Err(error) => {
                if let AskError::Statement(fault) = error {
                    core.context.metrics.statement_refused(fault);
                }
                tracing::debug!(observer = node.short(), %error, "no statement");
                report.errors.push(format!("{}: {error}", node.short()));
            }
        }
    }
    core.reachability.set_last(report.clone());
    report
}

/// A member to be asked, and its addresses of the family.
struct Observer {
    node: NodeId,
    addrs: Vec<SocketAddr>,
}

/// Draws members that answer such requests, no two of them in one network, and none in this node's.
fn observers(core: &Core, family: Family) -> Vec<Observer> {
    let exempt = &core.context.config.federation.exempt;
    let network_of = |addr: &SocketAddr| Network::unless_exempt(addr, exempt);
    let view = core.members.view.load();
    let mut networks: Vec<_> = core.context.quic_addrs.load().iter().filter_map(network_of).collect();
    let mut chosen: Vec<Observer> = Vec::new();
    for _ in 0..DRAWS {
        for node in view.lookup_homes(Tag::new(rand::rng().random())).home_nodes() {
            if chosen.len() == OBSERVERS || node == core.context.me || chosen.iter().any(|one| one.node == node) {
                continue;
            }
            let Some(record) = core.members.records.any(&node) else { continue };
            if !record.abilities.contains(Abilities::CHECKS) {
                continue;
            }
            // Only addresses that are known to be the member's own.
            let mut addrs = core.links.own_addrs(&record);
            addrs.retain(|addr| family_of(addr.ip()) == family);
            let Some(first) = record.quic_addrs.first().filter(|_| !addrs.is_empty()) else { continue };
            let network = network_of(first);
            if network.is_some_and(|network| networks.contains(&network)) {
                continue;
            }
            networks.extend(network);
            chosen.push(Observer { node, addrs });
        }
    }
    chosen
}

async fn ask(core: &Core, observer: &Observer) -> Result<SignedReachability, AskError> {
    let connecting = core.links.connect_for_check(observer.node, &observer.addrs);
    let connection = timeout(CONNECT_WAIT, connecting).await.ok().and_then(Result::ok).ok_or(AskError::Unreachable)?;
    let record = core.members.own_record.load_full();
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_| AskError::Broken)?;
        send.write_all(&[CHECK_STREAM]).await.map_err(|_| AskError::Broken)?;
        let request = request(core, &record, family_of(connection.remote_address().ip()));
        message::send(&mut send, &request).await.map_err(|_| AskError::Broken)?;
        message::receive::<CheckReply>(&mut receive).await.map_err(|error| match error {
            MessageError::Stream => AskError::Broken,
            MessageError::Malformed => StatementFault::Malformed.into(),
        })
    };
    let reply = timeout(REPLY_WAIT, exchange).await;
    CloseReason::Seen.close(&connection);
    match reply.map_err(|_| AskError::Timeout)?? {
        CheckReply::Refused(refusal) => Err(refusal.into()),
        CheckReply::Statement(bytes) => {
            let family = family_of(connection.remote_address().ip());
            Ok(message::check_statement(bytes, observer.node, family, &record, core.context.clock.now())?)
        }
    }
}

fn request(core: &Core, record: &Signed<NodeRecord>, family: Family) -> CheckRequest {
    let relay = core.media_relay.as_ref().filter(|relay| relay.is_offered());
    let is_family = |ip: IpAddr| family_of(ip) == family;
    let udp = relay.and_then(|relay| relay.addrs().iter().find(|addr| is_family(addr.ip())).map(SocketAddr::port));
    let has_streams = |url: &String| url.ends_with("?transport=tcp");
    CheckRequest {
        record: record.as_bytes().clone(),
        clock: core.context.clock.now(),
        stun_udp: udp,
        stun_streams: relay.is_some_and(|relay| relay.urls().iter().any(has_streams)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_observer_alone_and_a_minority_warn_nobody() {
        let failing = |reached, failed| {
            let mut counts = ReachCounts::default();
            counts[Transport::Tcp as usize] = Reach { reached, failed };
            failing(counts)
        };
        assert_eq!(failing(0, 1), []);
        assert_eq!(failing(2, 2), []);
        assert_eq!(failing(0, 2), [Transport::Tcp]);
        assert_eq!(failing(1, 2), [Transport::Tcp]);
        assert_eq!(failing(3, 0), []);
    }
}
