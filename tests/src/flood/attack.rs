//! The attacks by name, and the process that each runs in.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::{
    connections, floods, leases, messages,
    node::{Victim, flood_binary},
    notes,
    plan::Plan,
    slow,
};
use crate::bench::cores;

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// Whether it is for a node with TLS.
    pub tls: bool,
    /// How many times as long as others it takes.
    pub times: u32,
    /// Counters of the node of which at least one has to grow: a part of the name as `/metrics` has it.
    pub counted: &'static [&'static str],
}

const fn attack(name: &'static str, counted: &'static [&'static str]) -> Attack {
    Attack { name, tls: false, times: 1, counted }
}

/// All of them, in the order in which they are run.
pub const ATTACKS: &[Attack] = &[
    attack("half-open", &["connections_refused", "connections_unfinished"]),
    attack("drip", &["connections_unfinished"]),
    attack("too-large", &["too_large"]),
    attack("fragments", &["violations"]),
    attack("pings", &["rate_limited"]),
    attack("nested", &["bad_message", "rate_limited"]),
    attack("duplicate-keys", &["bad_message", "rate_limited"]),
    attack("not-utf8", &["violations"]),
    attack("unknown-types", &["unknown_type", "rate_limited"]),
    attack("binary", &["bad_message", "rate_limited"]),
    attack("compressed", &["violations"]),
    // Until five hundred are filled.
    Attack { name: "not-reading", tls: false, times: 3, counted: &["sessions_slow"] },
    attack("pair-random-one-source", &["rate_limited"]),
    attack("pair-random-many", &["rate_limited"]),
    attack("pair-one-code-one-source", &["rate_limited"]),
    attack("pair-one-code-many", &["rate_limited"]),
    attack("attach-one-source", &["rate_limited", "bad_lease", "too_many"]),
    attack("attach-many", &["rate_limited", "bad_lease", "too_many"]),
    attack("resolve-one-source", &["rate_limited", "peer_offline"]),
    attack("resolve-many", &["rate_limited", "peer_offline"]),
    attack("call-offer-one-source", &["rate_limited", "peer_offline"]),
    attack("call-offer-many", &["rate_limited", "peer_offline"]),
    attack("register-and-leave", &[]),
    attack("leave-at-once", &[]),
    attack("leases-by-a-node", &[]),
    attack("forged-leases-by-a-node", &["link_protocol_errors"]),
    attack("frames-to-nobody", &[]),
    attack("notes-to-a-session", &[]),
    attack("deliveries-of-nothing", &["link_protocol_errors"]),
    Attack { name: "tls-abandoned", tls: true, times: 1, counted: &["connections_unfinished", "connections_refused"] },
];

/// Carries an attack out, in this process, and gives what was counted as JSON.
///
/// # Panics
/// There is no such attack.
pub async fn carry_out(name: &str, plan: Plan) -> String {
    match name {
        "half-open" => connections::half_open(&plan).await,
        "drip" => connections::drip(&plan).await,
        "tls-abandoned" => connections::abandon_tls(&plan).await,
        "not-reading" => slow::run(&plan).await,
        "register-and-leave" => floods::register_and_leave(&plan).await,
        "leave-at-once" => floods::leave_at_once(&plan).await,
        "leases-by-a-node" => leases::flood(&plan, false).await,
        "forged-leases-by-a-node" => leases::flood(&plan, true).await,
        "frames-to-nobody" => leases::frames_to_nobody(&plan).await,
        "notes-to-a-session" => notes::run(&plan).await,
        "deliveries-of-nothing" => notes::deliveries(&plan).await,
        other => match messages::Message::from_name(other) {
            Some(message) => messages::run(&plan, message).await,
            None => floods::run(&plan, floods::Flood::from_name(other).expect("a known attack")).await,
        },
    }
    serde_json::to_string(&plan.tally.counts()).expect("names and numbers are JSON")
}

/// Starts an attack in a process of its own, beside the honest and not the node, and gives what it counted when it is over.
///
/// # Panics
/// It can't be started, or fails.
pub async fn start(name: &str, node: &Victim, lasts: Duration, quick: bool) -> BTreeMap<String, u64> {
    let mut command = Command::from(cores::command_on(cores::GENERATORS, Path::new("nice")));
    command.args(["-n", "19"]).arg(flood_binary()).args(["--attack", name]);
    command.args([&node.addr.to_string(), &node.quic.to_string(), &node.id, &lasts.as_millis().to_string()]);
    if quick {
        command.arg("--quick");
    }
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let done = done.expect("a process");
    assert!(done.status.success(), "the attack {name} failed");
    serde_json::from_slice(&done.stdout).expect("JSON")
}
