//! The command line. Each command has its file.

mod bootstrap;
mod call;
mod daemon;
mod discover;
mod init;
mod listen;
mod node;
mod pair;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::output::Output;

/// Call signalling over relays that need not be trusted.
#[derive(Debug, Parser)]
#[command(name = "chappe", version)]
pub(crate) struct Cli {
    /// Print one JSON object a line instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a local federation and make a call through it
    Up(up::UpArgs),
    /// Run a relay node, or prepare one
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Run a registry, or start a federation with one
    #[command(subcommand)]
    Bootstrap(bootstrap::BootstrapCommand),
    /// Find a node that works, and say how
    Discover(discover::DiscoverArgs),
    /// Pair with another person: show a code, or type the other's in
    Pair(pair::PairArgs),
    /// Call a contact, and send it a tone
    Call(call::CallArgs),
    /// Wait for calls, and take them
    Listen(listen::ListenArgs),
}

impl Command {
    /// What is logged unless the environment says otherwise.
    pub(crate) const fn default_log(&self) -> &'static str {
        match self {
            Self::Node(_) | Self::Bootstrap(_) => "info",
            _ => "warn",
        }
    }

    /// Does it.
    pub(crate) async fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Up(args) => up::run(args, *output).await,
            Self::Node(command) => node::run(command, *output).await,
            Self::Bootstrap(command) => bootstrap::run(command, *output).await,
            Self::Discover(args) => discover::run(&args, *output).await,
            Self::Pair(args) => pair::run(&args, *output).await,
            Self::Call(args) => call::run(&args, *output).await,
            Self::Listen(args) => listen::run(&args, *output).await,
        }
    }
}
