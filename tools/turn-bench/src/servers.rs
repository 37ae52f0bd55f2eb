//! The measured servers. Each is a process of its own on one core, with an address of its own in 127.0.0.0/8.

mod chappe;
mod coturn;
mod floor;
mod node;
mod turn_crate;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    process::Command,
};

use chappe_harness::{
    cores,
    process::{self, Process},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

/// The secret of the credentials.
pub(crate) const SECRET: &str = "bench";

/// The ports of relayed addresses. The generator's own ports, which the system chooses, are above.
const RELAY_PORTS: std::ops::RangeInclusive<u16> = 10_000..=32_000;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// This project's relay.
    Chappe,
    /// coturn, as the system has installed it.
    Coturn,
    /// The `turn` crate.
    TurnCrate,
    /// A relay that knows no TURN: what the system's calls alone cost.
    Floor,
    /// A node with a relay, and this project's relay in the same process.
    Node,
    /// The same, with a node whose clients' port has no relay.
    NodeWithoutRelay,
}

/// A server to be run by a process of this program.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Serve {
    kind: Kind,
    /// Its address for clients and for peers.
    ip: Ipv4Addr,
}

/// Where a server listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) udp: SocketAddrV4,
    pub(crate) tcp: Option<SocketAddrV4>,
    /// The URL of the node in the same process.
    #[serde(default)]
    pub(crate) node: Option<String>,
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) listening: Listening,
    _dir: Option<TempDir>,
}

impl Server {
    /// Stops it, so that it relays nothing.
    pub fn stop(&self) {
        self.process.signal("STOP");
    }
}

impl Kind {
    /// The name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chappe => "chappe",
            Self::Coturn => "coturn",
            Self::TurnCrate => "turn crate",
            Self::Floor => "floor",
            Self::Node => "node",
            Self::NodeWithoutRelay => "node without a relay",
        }
    }

    /// Whether it can be run here.
    pub fn is_installed(self) -> bool {
        self != Self::Coturn || coturn::is_installed()
    }

    /// Starts a server on the servers' core, at 127.0.1.`number`.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start(self, number: u8) -> Server {
        self.start_on(Some(cores::SERVERS), number).await
    }

    /// The same on another core, or on all.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start_on(self, core: Option<usize>, number: u8) -> Server {
        let ip = Ipv4Addr::new(127, 0, 1, number);
        if self == Self::Coturn {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let (process, listening) = coturn::start(ip, dir.path()).await;
            return Server { kind: self, process, listening, _dir: Some(dir) };
        }
        let program = process::beside("turn-bench");
        let mut command = match core {
            Some(core) => cores::command_on(core, &program),
            None => cores::command_on_all(&program),
        };
        command.args(["serve", &json!(Serve { kind: self, ip }).to_string()]);
        let mut process = Process::start_told(command);
        let listening = serde_json::from_value(process.line().await).expect("a server that listens");
        Server { kind: self, process, listening, _dir: None }
    }
}

/// Runs a server until the process is killed.
///
/// # Panics
/// It can't listen.
pub fn serve(server: &Serve) {
    match server.kind {
        Kind::Chappe => chappe::serve(server.ip, None),
        Kind::Node => node::serve(server.ip, true),
        Kind::NodeWithoutRelay => node::serve(server.ip, false),
        Kind::TurnCrate => turn_crate::serve(server.ip),
        Kind::Floor => floor::serve(server.ip),
        Kind::Coturn => unreachable!("it has a program of its own"),
    }
}

/// Prints where a server listens.
fn announce(listening: Listening) {
    println!("{}", json!(listening));
}

/// A command that is killed when this process ends, if the system has `setpriv` (util-linux).
fn bound_command_on(core: usize, program: &str) -> Command {
    let has_setpriv = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).status();
    if !has_setpriv.is_ok_and(|status| status.success()) {
        return cores::command_on(core, Path::new(program));
    }
    let mut command = cores::command_on(core, Path::new("setpriv"));
    command.args(["--pdeathsig", "KILL", program]);
    command
}
