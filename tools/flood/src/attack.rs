//! The attacks by name, and the process that each runs in.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use chappe_harness::cores;
use tokio::process::Command;

use super::{
    connections, floods, leases, messages,
    node::{Victim, flood_binary},
    notes,
    plan::Plan,
    slow, unfinished,
};

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// Whether it is for a node with TLS.
    pub tls: bool,
    /// Its duration, as a multiple of an ordinary attack's.
    pub times: u32,
    /// Parts of names in `/metrics`. At least one counter with such a name has to grow.
    pub counted: &'static [&'static str],
    /// The most that the node may buffer for the attack, in MiB.
    pub held: u32,
    /// Counts that the attacker must have; otherwise the attack wasn't tried.
    pub done: &'static [&'static str],
}

/// Counts that no attacker may have: they show that the attack wasn't tried.
const MISHAPS: &[&str] = &["link refused", "codes not found"];
/// The count of links that the node has ended.
const ENDED: &[&str] = &["links ended for a breach"];

const fn attack(name: &'static str, counted: &'static [&'static str], done: &'static [&'static str]) -> Attack {
    Attack { name, tls: false, times: 1, counted, held: 0, done }
}

impl Attack {
    /// Whether a quick run may stay within the node's limits, so that nothing is refused.
    pub fn may_be_allowed(&self) -> bool {
        self.name.ends_with("-many")
            || ["new-leases-by-a-node", "leases-beyond-a-share", "unfinished-messages"].contains(&self.name)
    }

    /// Counts that the attacker lacks, or must not have.
    pub fn mishaps(&self, told: &BTreeMap<String, u64>) -> Vec<String> {
        let has = |what: &&&str| told.get(**what).is_some_and(|count| *count > 0);
        let undone = self.done.iter().filter(|what| !has(what)).map(|what| format!("no «{what}»"));
        undone.chain(MISHAPS.iter().filter(has).map(|what| format!("«{what}»"))).collect()
    }
}

/// All attacks, in the order in which they run.
pub const ATTACKS: &[Attack] = &[
    attack("half-open", &["connections_refused", "client_handshakes_failed"], &["connected"]),
    attack("drip", &["client_handshakes_failed"], &["bytes dripped"]),
    attack("http-requests", &[], &["requests answered"]),
    attack("too-large", &["too_large"], &["closed for a breach"]),
    attack("fragments", &["violations"], &["closed for a breach"]),
    attack("pings", &["rate_limited"], &["answered pong"]),
    attack("nested", &["bad_message", "rate_limited"], &["answered bad_message"]),
    attack("duplicate-keys", &["bad_message", "rate_limited"], &["answered bad_message"]),
    attack("not-utf8", &["violations"], &["closed for a breach"]),
    attack("unknown-types", &["unknown_type", "rate_limited"], &["answered unknown_type"]),
    attack("binary", &["bad_message", "rate_limited"], &["answered bad_message"]),
    attack("compressed", &["violations"], &["closed for a breach"]),
    // Long enough to fill five hundred queues.
    Attack { times: 3, held: slow::HELD, ..attack("not-reading", &["sessions_slow"], &["closed with 1013"]) },
    Attack { times: 2, held: slow::SOME.held, ..attack("reading-at-once", &[], &["read all"]) },
    Attack { times: 3, held: slow::MANY.held, ..attack("two-thousand-reading-at-once", &[], &["read all"]) },
    Attack { held: unfinished::HELD, ..attack("unfinished-messages", &["sessions_slow"], &["messages begun"]) },
    attack("pair-random-one-source", &["rate_limited"], &["answered pair_error"]),
    attack("pair-random-many", &["rate_limited"], &["answered pair_error"]),
    attack("pair-one-code-one-source", &["rate_limited"], &["answered pair_incoming"]),
    attack("pair-one-code-many", &["rate_limited"], &["answered pair_incoming"]),
    attack("attach-one-source", &["rate_limited", "bad_lease", "too_many"], &["answered attached"]),
    attack("attach-many", &["rate_limited", "bad_lease", "too_many"], &["answered attached"]),
    attack("attach-full-one-source", &["rate_limited", "bad_lease"], &["rejected bad_lease"]),
    attack("attach-full-many", &["rate_limited", "bad_lease"], &["rejected bad_lease"]),
    attack("proofs-one-source", &[], &["answered proof"]),
    attack("proofs-many", &[], &["answered proof"]),
    attack("resolve-one-source", &["rate_limited", "peer_offline"], &["sent to it"]),
    attack("resolve-many", &["rate_limited", "peer_offline"], &["sent to it"]),
    attack("call-offer-one-source", &["rate_limited", "peer_offline"], &["answered peer_offline"]),
    attack("call-offer-many", &["rate_limited", "peer_offline"], &["answered peer_offline"]),
    attack("register-and-leave", &[], &["answered registered"]),
    attack("leave-at-once", &[], &["answered registered"]),
    attack("leases-by-a-node", &[], &["leases kept"]),
    attack("leases-beyond-a-share", &["leases_refused"], &["leases kept"]),
    attack("forged-leases-by-a-node", &["link_protocol_errors"], ENDED),
    attack("new-leases-by-a-node", &["leases_refused"], &["leases kept"]),
    attack("leases-refused", &["leases_refused"], &["leases older than what is kept", "leases refused"]),
    attack("displaced-for-nobody", &["responses_unexpected"], &["words of displaced leases sent", "told lease"]),
    attack("displaced-forged", &["link_protocol_errors"], ENDED),
    attack("frames-to-nobody", &[], &["told not here"]),
    attack(
        "notes-to-a-session",
        &["pair_requests_refused"],
        &["told pair request refused", "told closed", "told not here"],
    ),
    attack("words-to-a-session", &["responses_unexpected"], &["words without an answer sent", "told not here"]),
    attack(
        "long-names",
        &["link_protocol_errors"],
        &["pair requests with a long name sent", "acceptances with a long name sent", "links ended for a breach"],
    ),
    attack("deliveries-of-nothing", &["link_protocol_errors"], ENDED),
    Attack {
        tls: true,
        ..attack("tls-abandoned", &["client_handshakes_failed", "connections_refused"], &["connected"])
    },
];

/// Carries out an attack in this process, and returns its counts as JSON.
///
/// # Panics
/// There is no such attack.
pub async fn carry_out(name: &str, plan: Plan) -> String {
    match name {
        "half-open" => connections::half_open(&plan).await,
        "unfinished-messages" => unfinished::run(&plan).await,
        "drip" => connections::drip(&plan).await,
        "http-requests" => connections::http_requests(&plan).await,
        "tls-abandoned" => connections::abandon_tls(&plan).await,
        "not-reading" => slow::run(&plan).await,
        "reading-at-once" => slow::read_at_once(&plan, slow::SOME).await,
        "two-thousand-reading-at-once" => slow::read_at_once(&plan, slow::MANY).await,
        "register-and-leave" => floods::register_and_leave(&plan).await,
        "leave-at-once" => floods::leave_at_once(&plan).await,
        "leases-by-a-node" => leases::flood(&plan, leases::Kind::Good).await,
        "leases-beyond-a-share" => leases::flood(&plan, leases::Kind::Beyond).await,
        "forged-leases-by-a-node" => leases::flood(&plan, leases::Kind::Forged).await,
        "new-leases-by-a-node" => leases::flood(&plan, leases::Kind::New).await,
        "leases-refused" => leases::flood(&plan, leases::Kind::Refused).await,
        "displaced-for-nobody" => leases::displaced(&plan, false).await,
        "displaced-forged" => leases::displaced(&plan, true).await,
        "long-names" => notes::long_names(&plan).await,
        "frames-to-nobody" => leases::frames_to_nobody(&plan).await,
        "notes-to-a-session" => notes::run(&plan, notes::ANSWERED).await,
        "words-to-a-session" => notes::run(&plan, notes::UNANSWERED).await,
        "deliveries-of-nothing" => notes::deliveries(&plan).await,
        other => match messages::Message::from_name(other) {
            Some(message) => messages::run(&plan, message).await,
            None => floods::run(&plan, floods::Flood::from_name(other).expect("a known attack")).await,
        },
    }
    serde_json::to_string(&plan.tally.counts()).expect("names and numbers are JSON")
}

/// Runs an attack in its own process, on the baseline's core, and returns its counts.
///
/// # Panics
/// It can't be started, or fails.
pub async fn start(name: &str, node: &Victim, lasts: Duration, quick: bool) -> BTreeMap<String, u64> {
    let mut command = Command::from(cores::command_on(cores::GENERATORS, Path::new("nice")));
    // A quick run doesn't judge latency, and has to attack on a busy machine, too.
    command.args(["-n", if quick { "0" } else { "19" }]).arg(flood_binary()).args(["--attack", name]);
    command.args([&node.addr.to_string(), &node.quic.to_string(), &node.id, &lasts.as_millis().to_string()]);
    if quick {
        command.arg("--quick");
    }
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let done = done.expect("a process");
    assert!(done.status.success(), "the attack {name} failed");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_that_tried_nothing_or_was_turned_away_is_found() {
        let leases = attack("leases-by-a-node", &[], &["leases kept"]);
        let mishaps = |told: &[(&str, u64)]| {
            leases.mishaps(&told.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect())
        };
        assert_eq!(mishaps(&[("leases kept", 1)]), Vec::<String>::new());
        assert_eq!(mishaps(&[("linked", 1), ("leases kept", 0)]), ["no «leases kept»"]);
        assert_eq!(mishaps(&[("link refused", 3)]), ["no «leases kept»", "«link refused»"]);
        assert_eq!(mishaps(&[("leases kept", 1), ("codes not found", 1)]), ["«codes not found»"]);
    }
}
