//! What the causes of a failed search mean, and what a person can do about it.

use std::borrow::Cow;

use chappe_common::directory::DirectoryError;
use chappe_discovery::{
    CauseError,
    dial::DialError,
    doh::DohError,
    race::confirm::{Confirmation, Disagreement, Unconfirmed},
    reach::{NameError, ReachError},
    source::{SourceError, SourceKind},
};

/// What a cause means, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// What it means.
    pub(crate) means: Cow<'static, str>,
    /// What to do.
    pub(crate) advice: Cow<'static, str>,
}

const fn explain(means: &'static str, advice: &'static str) -> Explanation {
    Explanation { means: Cow::Borrowed(means), advice: Cow::Borrowed(advice) }
}

const CLOCK: Explanation = explain(
    "its list is from the future or has expired; or this machine's clock is wrong",
    "set the clock; where it is right, tell the operator of the registry",
);
const INTERCEPTED: Explanation = explain(
    "something else than the expected server answers: a captive portal, a filter, or a wrong URL",
    "open a web page and log in where the network asks for it; check the URL; try another network",
);
const BLOCKED: Explanation = explain(
    "packets are dropped on the way, or the server is down",
    "try another network; ask a contact for a link, or add another registry, a DNS name or a node",
);

/// For a source that named nobody.
pub(crate) fn source(kind: SourceKind, error: &SourceError) -> Explanation {
    match error {
        SourceError::Timeout => BLOCKED,
        SourceError::Reach(error) => reach(*error),
        SourceError::Broken | SourceError::TooLong | SourceError::Status(_) | SourceError::Beacon(_) => INTERCEPTED,
        SourceError::Doh(error) => doh(*error),
        SourceError::NoShard => explain(
            "the name has TXT records, and none is of a federation of Chappe",
            "check the DNS name; tell its operator",
        ),
        SourceError::Directory(DirectoryError::Expired | DirectoryError::Future) => CLOCK,
        SourceError::Directory(DirectoryError::Decode(_)) => INTERCEPTED,
        SourceError::Directory(DirectoryError::Empty) => {
            explain("the federation has no node now, or all are hidden", "wait; tell the operator of the registry")
        }
        SourceError::Directory(_) => explain(
            "the list is signed, and not by those whom you trust",
            "check the root key and the URL; if both are right, somebody may want to mislead you",
        ),
        SourceError::RolledBack => explain(
            "an old list is played back: an outdated mirror, or somebody who hides newer nodes",
            "nothing is lost; should it last, tell the operator of the registry",
        ),
        SourceError::Revoked => explain(
            "a root of the federation has revoked the key that signs this list: it was stolen, or the registry is outdated",
            "don't trust that registry; other sources are not affected, and what is remembered stays",
        ),
        SourceError::InviteExpired => explain(
            "the link or QR code is too old, or this machine's clock is ahead",
            "set the clock; where it is right, ask for a new link",
        ),
        SourceError::Insecure => explain(
            "only nodes with TLS are wanted (--wss-only), and it names none",
            "add another source; or give the profile's sources anew without --wss-only",
        ),
        SourceError::Empty if kind == SourceKind::Cache => {
            explain("nothing is remembered yet", "nothing: it fills with the first node that is found")
        }
        SourceError::Empty => explain("it names nobody", "add another source"),
    }
}

fn reach(error: ReachError) -> Explanation {
    match error {
        ReachError::Timeout | ReachError::Other => BLOCKED,
        ReachError::Refused => {
            explain("the machine answers, and the server does not run there", "check the port; tell its operator")
        }
        ReachError::Reset => explain(
            "the connection was cut off: a filter on the way, or a server that is failing",
            "try another network, or another source",
        ),
        ReachError::Unreachable => explain("this machine has no network, or none to there", "check the network"),
        ReachError::Certificate => explain(
            "the certificate is not the server's: a captive portal or a filter answers in its place, or the clock is wrong",
            "don't go on by trusting it; set the clock, or try another network",
        ),
        ReachError::Tls => INTERCEPTED,
        ReachError::Name(NameError::NoSuchName) => {
            explain("its name leads nowhere, or is blocked", "check the spelling; give connect_to for a registry")
        }
        ReachError::Name(NameError::NoAnswer) => explain(
            "no provider of DNS over HTTPS could be asked for its address",
            "give connect_to for a registry, other providers with --doh, or --system-resolver",
        ),
        ReachError::Name(NameError::Private) => explain(
            "whoever runs that name would have you knock at your own network; or the provider of DNS lies",
            "nothing; for a federation in a network of your own: --system-resolver --private-network",
        ),
        ReachError::Name(NameError::Proxy) => explain(
            "the environment names the proxy by a name, and nobody can be asked for it before the proxy is reached",
            "name the proxy by its address, as in HTTPS_PROXY=http://192.0.2.1:3128; or add --system-resolver",
        ),
        ReachError::Proxy(Some(407)) => explain(
            "the proxy that the environment names wants a user and a password, or others",
            "write them into the variable: HTTPS_PROXY=http://user:password@host:port",
        ),
        ReachError::Proxy(_) => explain(
            "the proxy that the environment names does not lead to that host or port, or is no HTTP proxy",
            "ask who runs the proxy to allow it; choose a node at port 443; or name the host in NO_PROXY",
        ),
        ReachError::Name(NameError::Invalid) => explain("what stands there is no name", "check the URL"),
    }
}

fn doh(error: DohError) -> Explanation {
    match error {
        DohError::Reach(error) => reach(error),
        DohError::Broken | DohError::Status(_) | DohError::NotDns | DohError::TooLong => INTERCEPTED,
        DohError::NoSuchName | DohError::NoRecords => explain(
            "the provider says that nothing stands under this name: it is wrong, or the provider blocks it",
            "check the DNS name; other providers may say otherwise",
        ),
        DohError::ServFail | DohError::Refused(_) | DohError::Truncated => {
            explain("the provider can't or won't answer", "nothing, as long as another provider does")
        }
        DohError::Name => explain("what stands there is no name", "check the DNS name"),
    }
}

/// For a node that was dialled in vain.
pub(crate) fn dial(error: &DialError) -> Explanation {
    match error {
        DialError::Timeout => BLOCKED,
        DialError::Reach(error) => reach(*error),
        DialError::NotANode => INTERCEPTED,
        DialError::Version(_) => explain("the node is of a newer version", "update this software"),
        DialError::OtherNode => {
            explain("the address has been given to another node", "nothing: it is forgotten with time")
        }
        DialError::OtherUrl { own } => Explanation {
            means: match own {
                Some(own) => {
                    format!("a node answers, and signs only for the URLs of its own record, such as {own}").into()
                }
                None => "a node answers, and this URL is none of its own record".into(),
            },
            advice: match own {
                Some(own) => format!("name the node by {own}; or have its operator add this URL to client.urls").into(),
                None => "have the node's operator add this URL to client.urls".into(),
            },
        },
        DialError::Proof => explain(
            "somebody stands between this machine and the node, or passes itself off as it",
            "try another network; other nodes are not affected",
        ),
        DialError::Leaving => explain("the node is about to stop", "nothing: others are taken"),
        DialError::Ended(_) => explain("the node or the network gave up", "nothing, as long as others answer"),
        DialError::Random => explain("this machine has no randomness to give", "restart it"),
    }
}

/// For a cause of a search that found nobody.
pub(crate) fn cause(kind: SourceKind, error: &CauseError) -> Explanation {
    match error {
        CauseError::Source(error) => source(kind, error),
        CauseError::Dials { last, .. } => dial(last),
        CauseError::OutOfTime => BLOCKED,
    }
}

/// What two sources contradict each other in.
pub(crate) fn disagreement(what: &Disagreement) -> String {
    match what {
        Disagreement::DisjointLists(a, b) => format!(
            "{a} and {b} name nodes that have nobody in common: one of them may show a federation that is not there; \
             ask the operator by another way which nodes there are"
        ),
        Disagreement::Equivocation(proofs) => {
            let keys: Vec<_> = proofs.iter().map(|proof| proof.key.short()).collect();
            format!(
                "the online key {} has signed two different lists under one number; the proof is kept beside the cache; \
                 show it to the operator, and trust neither list until then",
                keys.join(", ")
            )
        }
    }
}

/// What came of asking for a second opinion.
pub(crate) fn confirmation(confirmation: &Confirmation) -> String {
    match confirmation {
        Confirmation::Confirmed { second, vouched } => {
            let vouched = if *vouched { ", and another source names the first one, too" } else { "" };
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
