//! Explains the causes of a failed search, or of a relay that doesn't work, and what the user can do.

pub(crate) mod outside;

use std::borrow::Cow;

use chappe_common::directory::DirectoryError;
use chappe_discovery::{
    CauseError,
    dial::DialError,
    doh::DohError,
    operator::Health,
    race::confirm::{Confirmation, Disagreement, Unconfirmed},
    reach::{NameError, ReachError},
    source::{SourceError, SourceKind},
};
use chappe_node::NodeConfig;

use crate::{
    ice_servers::IceServersError,
    relay_check::{RelayError, Transport},
};

/// What a cause means, and what the user can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) means: Cow<'static, str>,
    pub(crate) advice: Cow<'static, str>,
}

const fn explain(means: &'static str, advice: &'static str) -> Explanation {
    Explanation { means: Cow::Borrowed(means), advice: Cow::Borrowed(advice) }
}

const CLOCK: Explanation = explain(
    "the list has expired or is from the future, or this machine's clock is wrong",
    "set the clock; if it is right, tell the operator of the registry",
);
const INTERCEPTED: Explanation = explain(
    "another server answers: a captive portal, a filter, or a wrong URL",
    "open a web page and log in if the network asks for it; check the URL; try another network",
);
const BLOCKED: Explanation = explain(
    "packets are dropped on the way, or the server is down",
    "try another network; ask a contact for a link, or add another registry, a DNS name or a node",
);

/// Explains why a source named no node.
pub(crate) fn source(kind: SourceKind, error: &SourceError) -> Explanation {
    match error {
        SourceError::Timeout => BLOCKED,
        SourceError::Reach(error) => reach(*error),
        SourceError::Broken | SourceError::TooLong | SourceError::Status(_) | SourceError::Beacon(_) => INTERCEPTED,
        SourceError::Doh(error) => doh(*error),
        SourceError::NoShard => explain(
            "the name has TXT records, but none of a Chappe federation",
            "check the DNS name; tell its operator",
        ),
        SourceError::Directory(DirectoryError::Expired | DirectoryError::Future) => CLOCK,
        SourceError::Directory(DirectoryError::Decode(_)) => INTERCEPTED,
        SourceError::Directory(DirectoryError::Empty) => {
            explain("the federation has no public node now", "wait; tell the operator of the registry")
        }
        SourceError::Directory(_) => explain(
            "the list is signed, but not by the root keys that you trust",
            "check the root key and the URL; if both are right, the list may be forged",
        ),
        SourceError::RolledBack => explain(
            "somebody replays an old list: an outdated mirror, or an attacker who hides newer nodes",
            "nothing is lost; if it lasts, tell the operator of the registry",
        ),
        SourceError::Revoked => explain(
            "a root of the federation has revoked the key that signs this list: it was stolen, or the registry is outdated",
            "do not trust that registry; other sources and the node cache are not affected",
        ),
        SourceError::InviteExpired => explain(
            "the link or QR code is too old, or this machine's clock is fast",
            "set the clock; if it is right, ask for a new link",
        ),
        SourceError::Insecure => explain(
            "only nodes with TLS are allowed (--wss-only), and the source names none",
            "add another source; or set the profile's sources again without --wss-only",
        ),
        SourceError::Empty if kind == SourceKind::Cache => {
            explain("the cache is empty", "nothing: it is filled when the first node is found")
        }
        SourceError::Empty => explain("the source names no nodes", "add another source"),
    }
}

pub(crate) fn reach(error: ReachError) -> Explanation {
    match error {
        ReachError::Timeout | ReachError::Other => BLOCKED,
        ReachError::Refused => explain(
            "the machine is reachable, but the server is not running there",
            "check the port; tell its operator",
        ),
        ReachError::Reset => explain(
            "the connection was reset: by a filter on the way, or by a failing server",
            "try another network, or another source",
        ),
        ReachError::Unreachable => {
            explain("this machine has no network, or no route to the server", "check the network")
        }
        ReachError::Certificate => explain(
            "the certificate is not the server's: a captive portal or a filter intercepts the connection, or the clock is wrong",
            "do not accept the certificate; set the clock, or try another network",
        ),
        ReachError::Tls => INTERCEPTED,
        ReachError::NoTls => explain(
            "only nodes and registries with TLS are allowed (--wss-only), and this one has none",
            "use another one, or its https:// URL; or set the profile's sources again without --wss-only",
        ),
        ReachError::Name(NameError::NoSuchName) => {
            explain("the name does not exist, or is blocked", "check the spelling; set connect_to for a registry")
        }
        ReachError::Name(NameError::NoAnswer) => explain(
            "no provider of DNS over HTTPS could be reached",
            "set connect_to for a registry, other providers with --doh, or --system-resolver",
        ),
        ReachError::Name(NameError::Private) => explain(
            "the name resolves to a private address: DNS rebinding, or a lying resolver",
            "nothing; for a federation in your own network: --system-resolver --private-network",
        ),
        ReachError::Name(NameError::Proxy) => explain(
            "the environment sets the proxy by name, but no resolver can be reached before the proxy",
            "set the proxy by its IP address, as in HTTPS_PROXY=http://192.0.2.1:3128; or add --system-resolver",
        ),
        ReachError::Proxy(Some(407)) => explain(
            "the proxy in the environment requires another user or password",
            "set them in the variable: HTTPS_PROXY=http://user:password@host:port",
        ),
        ReachError::Proxy(_) => explain(
            "the proxy in the environment does not allow that host or port, or is not an HTTP proxy",
            "ask the operator of the proxy to allow it; use a node at port 443; or add the host to NO_PROXY",
        ),
        ReachError::Name(NameError::Invalid) => explain("the host name is invalid", "check the URL"),
    }
}

fn doh(error: DohError) -> Explanation {
    match error {
        DohError::Reach(error) => reach(error),
        DohError::Broken | DohError::Status(_) | DohError::NotDns | DohError::TooLong => INTERCEPTED,
        DohError::NoSuchName | DohError::NoRecords => explain(
            "the provider says that the name does not exist: it is wrong, or the provider blocks it",
            "check the DNS name; other providers may answer differently",
        ),
        DohError::ServFail | DohError::Refused(_) | DohError::Truncated => {
            explain("the provider cannot or will not answer", "nothing, if another provider answers")
        }
        DohError::Name => explain("the DNS name is invalid", "check the DNS name"),
    }
}

/// Explains why a dial failed.
pub(crate) fn dial(error: &DialError) -> Explanation {
    match error {
        DialError::Timeout => BLOCKED,
        DialError::Reach(error) => reach(*error),
        DialError::NotANode => INTERCEPTED,
        DialError::Version(_) => explain("the node uses a newer protocol version", "update this software"),
        DialError::OtherNode => {
            explain("another node now has this address", "nothing: the old entry is dropped in time")
        }
        DialError::OtherUrl { own } => Explanation {
            means: match own {
                Some(own) => {
                    format!("the server is a node that signs only for the URLs in its record, such as {own}").into()
                }
                None => "the server is a node whose record does not contain this URL".into(),
            },
            advice: match own {
                Some(own) => {
                    format!("use the node's URL {own}; or ask its operator to add this URL to client.urls").into()
                }
                None => "ask the node's operator to add this URL to client.urls".into(),
            },
        },
        DialError::Proof => explain(
            "the connection is intercepted, or another server impersonates the node",
            "try another network; other nodes are not affected",
        ),
        DialError::Leaving => explain("the node is shutting down", "nothing: other nodes are used"),
        DialError::Ended(_) => explain("the node or the network has failed", "nothing, if other nodes answer"),
        DialError::Random => explain("this machine returned no random bytes", "restart it"),
    }
}

/// Describes and explains that a node offers no relay.
pub(crate) const fn no_relay() -> (&'static str, Explanation) {
    let means = "calls between two networks with strict firewalls or carrier NATs have no way for their media";
    let advice = "the operator has to set turn.listen; if it is set: turn.external, or the month's budget is used up";
    ("the node offers no relay for media", explain(means, advice))
}

/// Describes and explains that a node's relay makes no allocations now, by the node's page `/health`. Returns `None` if the page
/// gives no reason.
pub(crate) fn relay_pauses(health: &Health) -> Option<(&'static str, Explanation)> {
    const OTHERS: &str = "running calls go on over this relay; new ones need another node";
    Some(match health.relay.as_deref()? {
        "draining" => (
            "the node is stopping: its relay makes no new allocations",
            explain(
                "running calls go on over this relay until times.drain has passed",
                "use another node; the operator has to start this one again",
            ),
        ),
        // Without a level of the month, it is the rate.
        "budget" if health.budget.as_deref().is_none_or(|level| level == "open") => (
            "the machine exceeds budget.bytes_per_second: the relay makes no new allocations",
            explain(OTHERS, "try again in a few minutes; the operator can raise budget.bytes_per_second"),
        ),
        "budget" if health.budget.as_deref() == Some("asleep") => (
            "the budget of the month is used up: the node sleeps",
            explain(
                "its calls have ended, and it accepts no clients until the next month of the budget",
                "use another node; the operator can raise budget.monthly_bytes",
            ),
        ),
        "budget" => (
            "the budget of the month is nearly used up: the relay makes no new allocations",
            explain(OTHERS, "wait for the next month of the budget; the operator can raise budget.monthly_bytes"),
        ),
        "no_address" => (
            "the relay does not know its external address: it makes no allocations",
            explain(
                "two members in different networks have to see the same address; none have yet",
                "wait a minute; if it lasts, the operator has to set turn.external",
            ),
        ),
        "stopped" => (
            "the relay's thread has stopped",
            explain(
                "the relay has failed; the node itself goes on",
                "the operator has to restart the node and see its log",
            ),
        ),
        _ => return None,
    })
}

/// Describes and explains that a node does not run, or is stopping.
pub(crate) fn not_reached(health: Option<&Health>) -> (&'static str, Explanation) {
    let stopped = || {
        let advice = "start the node; if it runs, check that its admin.listen and client.listen are those of this file";
        ("the node does not run", explain("nothing answers at its addresses on this machine", advice))
    };
    let answers = || {
        let advice = "see /health of admin.listen for the reason, and check client.urls";
        ("the node runs, and its clients cannot reach it", explain("its URL leads elsewhere, or it is full", advice))
    };
    health.map_or_else(stopped, |health| relay_pauses(health).unwrap_or_else(answers))
}

/// Describes and explains that a node's configuration has no relay.
pub(crate) const fn relay_off() -> (&'static str, Explanation) {
    let means = "this node relays no media; its clients may have another relay (ice.servers), or none";
    (
        "the relay for media is off (turn.listen is empty)",
        explain(means, "set turn.listen, usually to [\"0.0.0.0:3478\"]"),
    )
}

/// Describes and explains that a proxy in front of a node tells nobody's address, if the configuration shows that. A `wss://`
/// URL without a certificate means that a proxy terminates TLS.
pub(crate) fn hidden_clients(config: &NodeConfig) -> Option<(&'static str, Explanation)> {
    let is_behind_proxy = !config.client.has_tls() && config.client.urls.iter().any(|url| url.starts_with("wss://"));
    let means = "to the node, all clients have the proxy's address, and share the limits of one source";
    (is_behind_proxy && config.client.trusted_proxies.is_empty()).then(|| {
        (
            "a proxy terminates TLS, and client.trusted_proxies is empty",
            explain(means, "set client.trusted_proxies to the proxy's address, such as [\"127.0.0.1/32\"]"),
        )
    })
}

/// Explains why a node has not named its relay.
pub(crate) fn ice_servers(error: &IceServersError) -> Explanation {
    match error {
        IceServersError::Connection(_) | IceServersError::NoReply => {
            explain("the node or the network has failed", "try again; other nodes are not affected")
        }
        IceServersError::Refused(_) | IceServersError::RefusedOtherwise => explain(
            "the node gives no credentials now: it is busy, or too many were requested",
            "try again in a minute",
        ),
    }
}

/// Explains why a relay doesn't work over a transport.
pub(crate) fn relay(error: &RelayError, transport: Transport) -> Explanation {
    match error {
        RelayError::Forbidden => explain(
            "a packet filter on this machine drops what is sent to the relay",
            "allow outgoing UDP to the relay's port in this machine's firewall; calls use TCP or TLS until then",
        ),
        RelayError::NoAnswer(Transport::Udp) => explain(
            "UDP is blocked: by this network, or by the firewall in front of the node",
            "try another network; if it fails everywhere, the operator has to let in the UDP port of turn.listen",
        ),
        RelayError::NoAnswer(_) => explain(
            "the connection was accepted, but STUN is not answered: a proxy or a filter is in between",
            "the operator has to let clients reach client.listen without a proxy that terminates TLS",
        ),
        RelayError::OtherAddress { .. } => explain(
            "turn.external is wrong: clients and peers send to an address at which the relay is not",
            "the operator has to set turn.external to the address at which the node is reached, or to remove it",
        ),
        RelayError::NotARelay => INTERCEPTED,
        RelayError::Credential => explain(
            "this machine's and the node's clocks differ, or another server has taken the relay's place",
            "set the clock; if it is right, tell the node's operator",
        ),
        RelayError::Full(_) => explain(
            "the relay has its maximum of allocations, of all clients or of this network, or the node is stopping",
            "try again later; the operator can raise turn.max_allocations or turn.source_allocations",
        ),
        RelayError::OwnAddress => explain(
            "the relay's external address is private, and private addresses are no peers",
            "the operator has to set turn.external to the public address; in a laboratory, also turn.allowed_peers",
        ),
        RelayError::Refused(_) => explain(
            "the relay does not know the request: it is of another version, or its operator has limited it",
            "tell the node's operator",
        ),
        RelayError::Lost => explain(
            "the relay makes allocations but does not relay: turn.external is wrong, or its UDP ports are blocked",
            "the operator has to check turn.external, and to let in the UDP ports of turn.relay_ports",
        ),
        RelayError::Reach(ReachError::Refused) if transport == Transport::Udp => explain(
            "the machine is reachable, but no relay listens at that UDP port",
            "the operator has to check that the relay runs (/metrics: turn_running) and that its port is forwarded",
        ),
        RelayError::Reach(error) => reach(*error),
    }
}

/// Explains a cause of a failed search.
pub(crate) fn cause(kind: SourceKind, error: &CauseError) -> Explanation {
    match error {
        CauseError::Source(error) => source(kind, error),
        CauseError::Dials { last, .. } => dial(last),
        CauseError::OutOfTime => BLOCKED,
    }
}

/// Describes how the lists of two sources contradict each other.
pub(crate) fn disagreement(what: &Disagreement) -> String {
    match what {
        Disagreement::DisjointLists(a, b) => format!(
            "the lists of {a} and {b} have no common node: one of them may show a fake federation; \
                         ask the operator on another channel which nodes exist"
        ),
        Disagreement::Equivocation(proofs) => {
            let keys: Vec<_> = proofs.iter().map(|proof| proof.key.short()).collect();
            format!(
                "the online key {} has signed two different lists with the same number; the proof is stored beside the cache; \
                                 show it to the operator, and trust neither list until then",
                keys.join(", ")
            )
        }
    }
}

/// Describes the result of a confirmation.
pub(crate) fn confirmation(confirmation: &Confirmation) -> String {
    match confirmation {
        Confirmation::Confirmed { second, vouched } => {
            let vouched = if *vouched { ", and another source also names the first node" } else { "" };
            format!("confirmed by node {}, named by {}{vouched}", second.node, second.via)
        }
        Confirmation::Disagreement { what, .. } => disagreement(what),
        Confirmation::Unconfirmed(Unconfirmed::NoOther) => {
            "not confirmed: no other source names a node in another network".to_owned()
        }
        Confirmation::Unconfirmed(Unconfirmed::NoAnswer) => {
            "not confirmed: no node of another source answered".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn health(relay: Option<&str>, budget: Option<&str>) -> Health {
        let page = json!({
            "status": "healthy", "serverId": "", "version": "", "uptime": 1, "relay": relay, "budget": budget,
        });
        serde_json::from_value(page).expect("a page")
    }

    #[test]
    fn each_reason_why_a_relay_pauses_has_its_own_text_and_a_remedy() {
        for (relay, budget, problem, means, advice) in [
            ("draining", None, "the node is stopping", "until times.drain has passed", "start this one again"),
            ("budget", None, "exceeds budget.bytes_per_second", "running calls go on", "raise budget.bytes_per_second"),
            ("budget", Some("open"), "exceeds budget.bytes_per_second", "running calls go on", "in a few minutes"),
            ("budget", Some("no_relay"), "is nearly used up", "running calls go on", "raise budget.monthly_bytes"),
            ("budget", Some("asleep"), "the node sleeps", "its calls have ended", "use another node"),
            ("no_address", None, "does not know its external address", "two members", "set turn.external"),
            ("stopped", Some("open"), "the relay's thread has stopped", "the node itself goes on", "restart the node"),
        ] {
            let health = health(Some(relay), budget);
            let (found, explained) = relay_pauses(&health).unwrap_or_else(|| panic!("{relay} {budget:?}"));
            assert!(found.contains(problem), "{relay} {budget:?}: {found}");
            assert!(explained.means.contains(means), "{relay} {budget:?}: {}", explained.means);
            assert!(explained.advice.contains(advice), "{relay} {budget:?}: {}", explained.advice);
            // A node that cannot be reached under its URL has the same reason.
            assert_eq!(not_reached(Some(&health)).0, found);
        }
    }

    #[test]
    fn a_relay_that_works_and_a_page_of_another_version_give_no_reason() {
        for relay in [Some("open"), Some("of another version"), None] {
            assert!(relay_pauses(&health(relay, Some("open"))).is_none(), "{relay:?}");
            assert_eq!(not_reached(Some(&health(relay, None))).0, "the node runs, and its clients cannot reach it");
        }
        assert_eq!(not_reached(None).0, "the node does not run");
    }
}
