//! The attacks by name, and the process that each runs in.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chappe_common::keys::NodeId;
use serde_json::Value;
use tokio::{
    process::Command,
    time::{Instant, sleep_until},
};

use super::{
    connections, floods, leases, messages,
    node::{Victim, flood_binary},
    slow,
};

/// What an attacker counted: what it tried, and what the node answered.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Counts some.
    pub fn add(&self, what: &str, number: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(count) => *count += number,
            None => drop(counts.insert(what.to_owned(), number)),
        }
    }

    fn to_json(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_string(&*counts).expect("names and numbers are JSON")
    }
}

/// What an attacker knows: whom to attack, and until when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's address for clients.
    pub node: SocketAddr,
    /// The node's address for other nodes.
    pub quic: SocketAddr,
    /// The node's id.
    pub id: String,
    /// When to stop.
    pub until: Instant,
    /// A hundredth of everything: to see that it works.
    pub quick: bool,
    /// What is counted.
    pub tally: Tally,
}

impl Plan {
    /// A number of attackers, or of messages a second; far fewer where that is to be quick.
    pub const fn some(&self, number: u32) -> u32 {
        if self.quick { number.div_ceil(50) } else { number }
    }

    /// The node's id.
    ///
    /// # Panics
    /// It is none.
    pub fn node_id(&self) -> NodeId {
        self.id.parse().expect("a node's id")
    }

    /// Whether it is time to stop.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits until the turn of number `turn`, where `rate` have one in a second.
    pub async fn turn(&self, since: Instant, turn: u64, rate: u32) {
        #[expect(clippy::cast_precision_loss, reason = "turns of some seconds")]
        let due = since + Duration::from_secs_f64(turn as f64 / f64::from(rate));
        sleep_until(due.min(self.until)).await;
    }
}

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
    attack("leases-by-a-node", &[]),
    attack("forged-leases-by-a-node", &["link_protocol_errors"]),
    attack("frames-to-nobody", &[]),
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
        "leases-by-a-node" => leases::flood(&plan, false).await,
        "forged-leases-by-a-node" => leases::flood(&plan, true).await,
        "frames-to-nobody" => leases::frames_to_nobody(&plan).await,
        other => match messages::Message::from_name(other) {
            Some(message) => messages::run(&plan, message).await,
            None => floods::run(&plan, floods::Flood::from_name(other).expect("a known attack")).await,
        },
    }
    plan.tally.to_json()
}

/// Starts an attack in a process of its own, and gives what it counted when it is over.
///
/// # Panics
/// It can't be started, or fails.
pub async fn start(name: &str, node: &Victim, lasts: Duration, quick: bool) -> Value {
    let mut command = Command::new("nice");
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
