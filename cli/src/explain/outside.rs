//! Explains how members reach a node from outside, and what its operator can do.

use chappe_common::reachability::{Outcome, Transport};
use chappe_discovery::operator::OperatorError;

use super::{Explanation, explain};

/// A clock that differs from those of members.
pub(crate) const WRONG_CLOCK: Explanation = explain(
    "members refuse a node whose clock differs by more than two minutes",
    "set the clock, and keep it right (timedatectl set-ntp true)",
);
/// A certificate that is not renewed.
pub(crate) const SHORT_CERTIFICATE: Explanation = explain(
    "its renewal has failed for long; clients cannot connect after that",
    "look for the reason in the log of the node (client.acme) or of your ACME client",
);

/// Explains why members cannot be asked without the operator's listener.
pub(crate) const fn no_admin() -> Explanation {
    explain(
        "only the running node can ask members, and this command asks the node at that address",
        "set admin.listen, for instance to 127.0.0.1:8712, and restart the node",
    )
}

/// Explains why the running node does not say how members reach it.
pub(crate) const fn not_asked(error: &OperatorError) -> Explanation {
    match error {
        OperatorError::Reach(_) => {
            explain("the node does not run, or uses another admin.listen", "start the node, and run this command again")
        }
        OperatorError::Setup(_) | OperatorError::Status(_) | OperatorError::Answer => {
            explain("an older node runs, or another server is at admin.listen", "restart the node with this version")
        }
    }
}

/// Explains why no member has tried a node.
pub(crate) const fn no_observers(asked: usize) -> Explanation {
    match asked {
        0 => explain(
            "the node knows no members in other networks that try others, or has not joined yet",
            "wait a minute; see /members and the log for whether the node has joined",
        ),
        _ => explain(
            "the members that were asked could not try the node",
            "run this command again in a few minutes; set federation.advertise to a public address if they name that",
        ),
    }
}

/// Names an outcome.
pub(crate) const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Works => "works",
        Outcome::NoAnswer => "no answer",
        Outcome::Refused => "connection refused",
        Outcome::Reset => "the connection was ended",
        Outcome::Unreachable => "no route to the host",
        Outcome::NoName => "the name has no address",
        Outcome::Elsewhere => "not tried, another address than the node's",
        Outcome::CertificateExpired => "the certificate has expired",
        Outcome::CertificateEarly => "the certificate is not valid yet",
        Outcome::CertificateName => "the certificate is for another name",
        Outcome::CertificateUntrusted => "the certificate is not trusted",
        Outcome::Tls => "the TLS handshake failed",
        Outcome::WrongService => "another service answers",
        Outcome::WrongNode => "another node answers",
        Outcome::Unavailable => "the node accepts nobody now",
        Outcome::NotTried => "not tried",
    }
}

/// Explains why a registry does not show a node to clients.
pub(crate) const fn hidden(outcome: Outcome) -> Explanation {
    match outcome {
        Outcome::NoAnswer | Outcome::Refused | Outcome::Reset | Outcome::Unreachable => explain(
            "the registry has tried for a quarter of an hour, and its connections to this port are dropped or refused",
            "see below whether members reach it: if not, open the port; if three of them do, the registry shows the node again",
        ),
        outcome => unreached(Transport::Client, outcome),
    }
}

/// Explains why members do not reach a transport of a node, and what its operator can do.
pub(crate) const fn unreached(transport: Transport, outcome: Outcome) -> Explanation {
    match (outcome, transport) {
        (Outcome::NoAnswer, _) => explain(
            "packets to this port are dropped: by this machine's firewall, the provider's, or a router with NAT",
            "then open the port in the provider's firewall too, if there is one",
        ),
        (Outcome::Refused, _) => explain(
            "the machine is reached, but nothing listens at this port, or a firewall rejects packets",
            "if nothing listens there, start it, or correct client.urls, federation.advertise or the proxy",
        ),
        (Outcome::Unreachable, _) => explain(
            "a firewall or router rejects packets to this port",
            "then open the port in the provider's firewall too, if there is one",
        ),
        (Outcome::Reset, _) => explain(
            "something on the way ends the connection: a proxy, or a filter of the provider",
            "look at the log of the proxy; try the node without it",
        ),
        (Outcome::NoName, _) => explain(
            "the name in client.urls is not in DNS, or only in a part of it",
            "add an A or AAAA record for the name; changes take up to its TTL",
        ),
        (Outcome::Elsewhere, _) => explain(
            "this address is not the one from which the node sends, so members send nothing there",
            "if it is a proxy or another address of yours, try it from another network: chappe doctor --node URL",
        ),
        (Outcome::CertificateExpired, _) => explain(
            "clients refuse the certificate, so none can connect",
            "renew it, and reload the node or the proxy: docs/operating/certificate-expired.md",
        ),
        (Outcome::CertificateEarly, _) => {
            explain("the certificate is from the future, or the members' clocks are wrong", "set this machine's clock")
        }
        (Outcome::CertificateName, _) => explain(
            "the certificate is for another name than the one in client.urls",
            "obtain one for each host in client.urls (client.acme does)",
        ),
        (Outcome::CertificateUntrusted, _) => explain(
            "the issuer is not one that browsers trust, or the file lacks the chain",
            "use the whole chain (fullchain.pem) of a public authority, or client.acme",
        ),
        (Outcome::Tls, _) => explain(
            "what listens there does not speak TLS, but client.urls has wss://",
            "set client.acme or client.tls_cert, or let a proxy terminate TLS",
        ),
        (Outcome::WrongService, Transport::StunTcp | Transport::StunTls) => explain(
            "STUN is not answered at the port for clients: a proxy that terminates TLS is in between",
            "let clients reach client.listen without a proxy, or turn the relay off",
        ),
        (Outcome::WrongService, _) => explain(
            "a web server or proxy answers, and does not pass WebSockets on to the node",
            "have it forward to client.listen, with the Upgrade header: deploy/README.md has samples",
        ),
        (Outcome::WrongNode, _) => explain(
            "another node is at this address, or the node does not know this URL as its own",
            "correct client.urls and federation.advertise, and restart the node",
        ),
        (Outcome::Unavailable, _) => {
            explain("the node is full, stopping or cut off", "see /health for the reason, and the log")
        }
        (Outcome::NotTried | Outcome::Works, _) => {
            explain("the member could not try it", "run this command again in a few minutes")
        }
    }
}
