//! The subcommands of `chappe node`, each in its own file.

mod check;
mod doctor;
mod init;
mod invite;
mod outside;
mod run;
mod top;

use std::net::SocketAddr;

use anyhow::Result;
use chappe_node::{Node, PassedSockets};
use clap::Subcommand;
use serde::Serialize;

use super::daemon::DaemonArgs;
use crate::{log::Log, output::Output};

/// The key in the data folder.
const KEY_FILE: &str = "node.key";

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run a node until SIGTERM or Ctrl-C
    Run(DaemonArgs),
    /// Create a commented config file and a key; with a join link, also a systemd unit
    Init(init::InitArgs),
    /// Check config, ports, files, names, registries and clock before a node starts
    Check(check::CheckArgs),
    /// Try a running node and its relay for media from its own machine, and have members try it from outside
    Doctor(doctor::DoctorArgs),
    /// Show what a running node does: sessions, messages, media, budget and refusals, every two seconds
    Top(top::TopArgs),
    /// Print a node's id, for an invitation or an allowlist
    Id(invite::IdArgs),
    /// Sign a ticket for a node, for a federation that admits by invitation
    Invite(invite::InviteArgs),
}

/// The addresses of a running node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeLine {
    id: String,
    client_url: String,
    admin_url: Option<String>,
    quic_addr: SocketAddr,
    /// The UDP address of STUN and TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    turn_addr: Option<SocketAddr>,
}

impl NodeLine {
    pub(crate) fn of(node: &Node) -> Self {
        let addrs = node.addrs();
        Self {
            id: node.id().to_string(),
            client_url: node.client_url().to_owned(),
            admin_url: addrs.admin.map(|addr| format!("http://{addr}")),
            quic_addr: addrs.quic,
            turn_addr: addrs.turn,
        }
    }

    /// The line as text for people.
    pub(crate) fn text(&self) -> String {
        let admin = self.admin_url.as_ref().map_or_else(String::new, |url| format!(", metrics at {url}/metrics"));
        format!("{}… for clients at {}, for nodes at {} (UDP){admin}", &self.id[..8], self.client_url, self.quic_addr)
    }
}

pub(crate) async fn run(command: NodeCommand, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    match command {
        NodeCommand::Run(args) => run::run(&args, output, log, passed).await,
        NodeCommand::Check(args) => check::run(&args, output).await,
        NodeCommand::Doctor(args) => doctor::run(&args, output).await,
        NodeCommand::Top(args) => top::run(&args, output).await,
        NodeCommand::Init(args) => init::run(&args, output),
        NodeCommand::Id(args) => invite::id(&args, output),
        NodeCommand::Invite(args) => invite::invite(&args, output),
    }
}
