//! The command line. Each command has its own file.

mod bootstrap;
mod call;
mod daemon;
mod discover;
mod doctor;
mod init;
mod listen;
mod node;
mod owner;
mod pair;
mod up;

use anyhow::Result;
use chappe_node::PassedSockets;
use clap::{Parser, Subcommand};

use crate::{log::Log, output::Output, passed_sockets};

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
    /// Find a working node and show how it was found
    Discover(discover::DiscoverArgs),
    /// Query every source, and explain problems and remedies
    Doctor(doctor::DoctorArgs),
    /// Pair with another person: show a code, or enter the code of the other side
    Pair(pair::PairArgs),
    /// Call a contact and send a tone
    Call(call::CallArgs),
    /// Wait for calls and answer them
    Listen(listen::ListenArgs),
}

impl Command {
    /// The log filter if the environment does not set one.
    pub(crate) const fn default_log(&self) -> &'static str {
        match self {
            Self::Node(_) | Self::Bootstrap(_) => "info",
            _ => "warn",
        }
    }

    /// Whether the command continues if standard output cannot be written.
    pub(crate) const fn is_daemon(&self) -> bool {
        matches!(
            self,
            Self::Node(node::NodeCommand::Run(_)) | Self::Bootstrap(bootstrap::BootstrapCommand::Run(_)) | Self::Up(_)
        )
    }

    /// Whether the command serves on the sockets that a service manager passes.
    pub(crate) const fn socket_names(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::Node(node::NodeCommand::Run(_)) => Some(passed_sockets::OF_NODE),
            Self::Bootstrap(bootstrap::BootstrapCommand::Run(_)) => Some(passed_sockets::OF_REGISTRY),
            _ => None,
        }
    }

    pub(crate) async fn run(self, output: &Output, log: &Log, passed: PassedSockets) -> Result<()> {
        match self {
            Self::Up(args) => up::run(args, *output).await,
            Self::Node(command) => node::run(command, *output, log, passed).await,
            Self::Bootstrap(command) => bootstrap::run(command, *output, log, passed).await,
            Self::Discover(args) => discover::run(&args, *output).await,
            Self::Doctor(args) => doctor::run(&args, *output).await,
            Self::Pair(args) => pair::run(&args, *output).await,
            Self::Call(args) => call::run(&args, *output).await,
            Self::Listen(args) => listen::run(&args, *output).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys_of;

    const README: &str = include_str!("../../README.md");
    const OPERATING: &str = include_str!("../../docs/operating.md");
    const OPERATING_REGISTRY: &str = include_str!("../../docs/operating-registry.md");
    /// Any root key, in place of the README's `$ROOT`.
    const ROOT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    /// The command lines in the shell blocks of a page, split into words.
    fn command_lines(text: &str) -> Vec<Vec<String>> {
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
        let lines = blocks.flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
        let words = |line: String| {
            line.split_whitespace().map(|word| word.replace("$ROOT", ROOT).replace("NODE-ID", ROOT)).collect()
        };
        lines.map(words).collect()
    }

    #[test]
    fn every_command_in_the_readme_and_of_a_registrys_operator_is_one() {
        let mut commands = 0;
        for line in command_lines(README).into_iter().chain(command_lines(OPERATING_REGISTRY)) {
            let program = line.first().map(String::as_str);
            let args = match program {
                Some("chappe") => &line[1..],
                // Of cargo's command lines, only those that run this binary.
                Some("cargo") => match line.iter().position(|word| word == "--") {
                    Some(end) if !line.iter().any(|word| word == "-p") => &line[end + 1..],
                    _ => continue,
                },
                _ => panic!("neither chappe nor cargo: {line:?}"),
            };
            let words = std::iter::once("chappe").chain(args.iter().map(String::as_str));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line:?}: {error}");
            }
            commands += 1;
        }
        assert!(commands >= 8, "only {commands} commands were found");
    }

    #[test]
    fn every_command_of_the_runbook_is_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating");
        let pages = std::fs::read_dir(folder).expect("the runbook").map(|entry| entry.expect("a page").path());
        let texts = pages.map(|page| std::fs::read_to_string(page).expect("a page"));
        let lines: Vec<_> = texts.flat_map(|text| command_lines(&text)).collect();
        let commands: Vec<_> = lines.iter().filter(|line| line.first().is_some_and(|word| word == "chappe")).collect();
        assert!(commands.len() >= 7, "only {} commands were found", commands.len());
        for line in commands {
            if let Err(error) = Cli::try_parse_from(line) {
                panic!("{line:?}: {error}");
            }
        }
    }

    #[test]
    fn every_key_of_a_node_is_in_the_operators_page() {
        let rows = OPERATING.lines().filter(|line| line.starts_with("| `"));
        let listed: Vec<&str> = rows.filter_map(|row| row.split(" | ").next()).collect();
        for key in keys_of::<chappe_node::NodeConfig>() {
            assert!(listed.iter().any(|names| names.contains(&format!("`{key}`"))), "{key} has no row");
        }
    }

    #[test]
    fn every_key_of_a_registry_is_in_its_operators_page() {
        let rows = OPERATING_REGISTRY.lines().filter(|line| line.starts_with("| `"));
        let listed: Vec<&str> = rows.filter_map(|row| row.split(" | ").next()).collect();
        for key in keys_of::<chappe_bootstrap::BootstrapConfig>() {
            assert!(listed.iter().any(|names| names.contains(&format!("`{key}`"))), "{key} has no row");
        }
    }

    #[test]
    fn every_file_that_the_readme_links_to_is_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for target in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().expect("a text has a first part");
            assert!(root.join(file).exists(), "{target} is missing");
        }
    }
}
