//! People who call while others attack, in a process of their own that goes before attackers on the core that both have:
//! what they notice is the node's doing, and how late they are themselves is measured, too.

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

/// The codes of two of the honest, who are paired: one of them is who hostile nodes look up.
pub const BY_CODE: [&str; 2] = ["HNSTAA", "HNSTBB"];

/// The key of the inbox of one of the honest.
pub fn inbox_key(number: u32) -> SecretKey {
    let mut seed = [0xAB; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&seed)
}

/// What the process is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Command {
    /// A new stretch begins; its number.
    NextStretch,
    /// What was noticed in these: what was sent in one may arrive later.
    Report(Vec<usize>),
    /// No more is sent, and what is under way may arrive: what was noticed in all.
    Finish,
}

/// The honest, until this is dropped.
#[derive(Debug)]
pub struct Baseline(Process);

impl Baseline {
    /// Lets so many pairs connect and call.
    ///
    /// # Panics
    /// One can't connect.
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

    /// A new stretch begins; its number.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn next_stretch(&mut self) -> usize {
        serde_json::from_value(self.ask(&Command::NextStretch).await).expect("a number")
    }

    /// What was noticed in these stretches together: what was sent in one may arrive later.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn report(&mut self, stretches: &[usize]) -> Observed {
        serde_json::from_value(self.ask(&Command::Report(stretches.to_vec())).await).expect("what was noticed")
    }

    /// Lets them say no more, waits for what is under way, and gives what was noticed in all stretches.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn finish(mut self) -> Observed {
        serde_json::from_value(self.ask(&Command::Finish).await).expect("what was noticed")
    }
}
