//! The generator: a process with a few thousand clients of one server. It reads commands, a JSON object a line, and
//! answers with measurements.
//!
//! It has one thread and its own framing, so that one core can saturate a server.

mod connection;
mod framing;
mod load;
mod message;
mod open;
mod outgoing;
mod relocate;
mod session;

use std::{io::BufRead as _, net::SocketAddr, path::PathBuf};

use chappe_harness::cpu::Use;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::LocalSet;

pub use self::{
    load::{Load, Pace},
    message::Faults,
    open::{Depth, Opened},
    relocate::Moved,
};

/// The servers of a generator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The servers. With two, every second client connects to the second.
    pub servers: Vec<Server>,
    /// The processes whose CPU time is measured.
    pub pids: Vec<u32>,
    /// The folder of the certificate, if the servers use TLS.
    pub tls: Option<PathBuf>,
}

/// One server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its address for clients.
    pub addr: SocketAddr,
    /// Its protocol.
    pub speaks: Speaks,
}

/// A server's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// The client protocol.
    Chappe,
    /// The floors' bodies in WebSocket frames.
    Frames,
    /// The floors' bodies, each after its length.
    Lengths,
}

/// A command to a generator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Command {
    /// Open sessions.
    Connect {
        /// How many.
        sessions: u32,
        /// How far.
        depth: Depth,
    },
    /// Sends, for a time, messages that are due at random moments.
    Load(Load),
    /// Measures while nothing is sent.
    Rest {
        /// For how many seconds.
        seconds: f64,
    },
    /// Wait until the server has ended, and attach the clients at others.
    Relocate {
        /// The others.
        servers: Vec<Server>,
    },
    /// Ends all sessions.
    Disconnect,
}

/// A generator's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Connect`].
    Opened(Opened),
    /// To [`Command::Load`].
    Loaded(Loaded),
    /// To [`Command::Rest`].
    Rested(Use),
    /// To [`Command::Relocate`].
    Relocated(Moved),
    /// To [`Command::Disconnect`].
    Disconnected,
}

/// The result of a load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The cost of the measured window.
    pub usage: Use,
    /// Messages of that window: due in it (open loop), or received in it (closed loop).
    pub messages: u64,
    /// Messages sent, including those before and after the window.
    pub sent: u64,
    /// Messages received, including those before and after the window.
    pub received: u64,
    /// Latency from when a message was due, in microseconds: median, 99th and 99.9th percentile.
    pub latency_us: [f64; 3],
    /// The 99th percentile of the time from when a message was due until it was sent, in microseconds.
    pub late_us: f64,
    /// Faulty messages.
    pub faults: Faults,
}

/// Carries out the commands on standard input until it ends.
///
/// # Panics
/// The server doesn't answer, or a command isn't valid.
pub fn run(plan: &Plan) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    let mut clients = open::Clients::new(plan);
    for line in std::io::stdin().lock().lines() {
        let command = serde_json::from_str(&line.expect("a readable line")).expect("a command");
        let answer = local.block_on(&runtime, clients.handle(command));
        println!("{}", json!(answer));
    }
}
