//! The generator: a process with a few thousand clients of one server, which does what the bench tells it, a JSON object a
//! line, and answers with what it measured.
//!
//! One thread, and framing of its own, so that one core drives a server at more than the server can do.

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

/// Whom a generator drives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where clients connect: of two servers, every second client to the second.
    pub servers: Vec<Server>,
    /// The processes whose time is measured.
    pub pids: Vec<u32>,
    /// The folder of the certificate, where the servers want TLS.
    pub tls: Option<PathBuf>,
}

/// One server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its address for clients.
    pub addr: SocketAddr,
    /// What it speaks.
    pub speaks: Speaks,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// The client protocol.
    Chappe,
    /// What floors speak, in WebSocket frames.
    Frames,
    /// What floors speak, each with its length before it.
    Lengths,
}

/// What a generator is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Command {
    /// Opens so many sessions, an even number.
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
    /// Waits until the server is gone, and attaches the clients at others.
    Relocate {
        /// The others.
        servers: Vec<Server>,
    },
    /// Ends all sessions.
    Disconnect,
}

/// What a generator answers.
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

/// What came of a load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The cost of the measured window.
    pub usage: Use,
    /// Messages in that window: due in it (open loop), or received in it (closed loop).
    pub messages: u64,
    /// Messages sent in all, and received in all, before and after the window too.
    pub sent: u64,
    /// The same.
    pub received: u64,
    /// From when a message was due until it was there, in microseconds: half, 99 % and 99.9 % took no longer.
    pub latency_us: [f64; 3],
    /// From when a message was due until it was sent, in microseconds: 99 % took no longer.
    pub late_us: f64,
    /// What was wrong with what was received.
    pub faults: Faults,
}

/// Does what standard input says until its end.
///
/// # Panics
/// The server doesn't answer, or it is told nonsense.
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
