//! The baseline: honest clients that call during attacks, in a process that has priority over attackers on their common
//! core. So the node is the cause of what they observe. How late the process itself is is measured, too.

mod caller;
mod callers;
mod observation;

use chappe_common::keys::SecretKey;
use chappe_harness::{cores, figures::Figures, process::Process};
use chappe_testkit::PATIENCE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    callers::{Plan, run},
    observation::Observed,
};
use super::node::{Victim, flood_binary};

/// The codes of two baseline clients that are paired. Hostile nodes look up one of them.
pub const BY_CODE: [&str; 2] = ["HNSTAA", "HNSTBB"];

/// The inbox key of a baseline client.
pub fn inbox_key(number: u32) -> SecretKey {
    let mut seed = [0xAB; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&seed)
}

/// A command to the process, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Command {
    /// Begin a stretch, and answer its number.
    NextStretch,
    /// Report these stretches together, once their messages have arrived.
    Report(Vec<usize>),
    /// Stop sending, wait for messages in flight, and report all stretches.
    Finish,
}

/// The baseline's process. It is killed when dropped.
#[derive(Debug)]
pub struct Baseline(Process);

impl Baseline {
    /// Starts it with this many pairs that call.
    ///
    /// # Panics
    /// A client can't connect.
    pub async fn start(figures: Figures, pairs: u32, node: &Victim) -> Self {
        let plan = Plan { pairs, url: node.url.clone(), addr: node.addr, tls: node.tls.clone() };
        let (mut command, is_urgent) = cores::urgent_command_on(cores::GENERATORS, &flood_binary());
        if !is_urgent {
            figures.warn(
                "the honest don't go before attackers on their core (no right to chrt -f): they are late themselves",
            );
        }
        command.args(["--honest", &json!(plan).to_string()]);
        let mut process = Process::start_told(command);
        process.line_within(PATIENCE * 3).await;
        Self(process)
    }

    async fn ask(&mut self, command: &Command) -> Value {
        self.0.tell(&json!(command)).await;
        self.0.line().await
    }

    /// Begins a stretch, and returns its number.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn next_stretch(&mut self) -> usize {
        serde_json::from_value(self.ask(&Command::NextStretch).await).expect("a number")
    }

    /// Reports these stretches together, once their messages have arrived.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn report(&mut self, stretches: &[usize]) -> Observed {
        serde_json::from_value(self.ask(&Command::Report(stretches.to_vec())).await).expect("what was noticed")
    }

    /// Stops sending, waits for messages in flight, and reports all stretches.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn finish(mut self) -> Observed {
        serde_json::from_value(self.ask(&Command::Finish).await).expect("what was noticed")
    }
}
