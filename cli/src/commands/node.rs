//! `chappe node run` and `chappe node init`.

use std::{
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use chappe_common::keys::PublicKey;
use chappe_node::{Node, NodeConfig, identity::load_or_create_key};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    daemon::{DaemonArgs, explain_start},
    init::{create, refuse_existing, toml_list},
};
use crate::{output::Output, signals::Signals};

const TEMPLATE: &str = include_str!("../../templates/node.toml");
/// The folder of key and state beside the config file, as the template names it.
const DATA_DIR: &str = "node-data";
const KEY_FILE: &str = "node.key";

/// What to do with a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run a node until SIGTERM or Ctrl-C
    Run(DaemonArgs),
    /// Write a commented config file, and a key
    Init(InitArgs),
}

/// What the new node is.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The config file to write; the key goes into a folder beside it
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,

    /// A registry of the federation
    #[arg(long, value_name = "URL")]
    registry: Vec<String>,

    /// A root key of the federation
    #[arg(long, value_name = "KEY")]
    root: Vec<PublicKey>,

    /// A short name of where the node stands, such as eu-west
    #[arg(long, default_value = "")]
    region: String,
}

/// A node that listens.
#[derive(Debug, Serialize)]
pub(crate) struct NodeLine {
    id: String,
    client_url: String,
    admin_url: Option<String>,
    quic_addr: SocketAddr,
}

impl NodeLine {
    /// What the node is bound to.
    pub(crate) fn of(node: &Node) -> Self {
        let addrs = node.addrs();
        Self {
            id: node.id().to_string(),
            client_url: node.client_url().to_owned(),
            admin_url: addrs.admin.map(|addr| format!("http://{addr}")),
            quic_addr: addrs.quic,
        }
    }

    /// The same for people.
    pub(crate) fn text(&self) -> String {
        let admin = self.admin_url.as_ref().map_or_else(String::new, |url| format!(", metrics at {url}/metrics"));
        format!("{}… for clients at {}, for nodes at {} (UDP){admin}", &self.id[..8], self.client_url, self.quic_addr)
    }
}

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    #[serde(flatten)]
    node: NodeLine,
    /// What is bound, where a proxy stands at the URL.
    client_addr: SocketAddr,
}

#[derive(Serialize)]
struct Stopped {
    event: &'static str,
}

#[derive(Serialize)]
struct Made<'a> {
    event: &'static str,
    id: String,
    config: &'a Path,
}

pub(crate) async fn run(command: NodeCommand, output: Output) -> Result<()> {
    match command {
        NodeCommand::Run(args) => {
            let mut signals = Signals::listen()?;
            let config: NodeConfig = args.load()?;
            let node = Node::spawn(config).await.map_err(explain_start)?;
            let line = NodeLine::of(&node);
            let client_addr = node.addrs().client;
            output.say(
                &format!("node {}, bound to {client_addr}", line.text()),
                &Ready { event: "ready", node: line, client_addr },
            );
            signals.stop().await;
            output.remark("stopping: clients are told to go elsewhere");
            node.shutdown().await;
            output.say("stopped", &Stopped { event: "stopped" });
            Ok(())
        }
        NodeCommand::Init(args) => init(&args, output),
    }
}

fn init(args: &InitArgs, output: Output) -> Result<()> {
    if args.region.len() > 32 || !args.region.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        bail!("--region: at most 32 printable ASCII characters without spaces and quotes are allowed");
    }
    let folder = args.config.parent().unwrap_or(Path::new(""));
    let data_dir = folder.join(DATA_DIR);
    refuse_existing(&args.config)?;
    refuse_existing(&data_dir.join(KEY_FILE))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_dir)
        .with_context(|| format!("cannot make the folder {}", data_dir.display()))?;
    let roots: Vec<String> = args.root.iter().map(PublicKey::to_base64url).collect();
    create(&args.config, &filled(&args.registry, &roots, &args.region))?;
    let key = load_or_create_key(&data_dir)?;
    let config = &args.config;
    let text = format!(
        "made {} and the key of node {}\nnext: read {0}, and start it: chappe node run --config {0}",
        config.display(),
        key.node_id()
    );
    output.say(&text, &Made { event: "made", id: key.node_id().to_string(), config });
    Ok(())
}

fn filled(registries: &[String], roots: &[String], region: &str) -> String {
    TEMPLATE
        .replace("\nurls = []", &format!("\nurls = {}", toml_list(registries)))
        .replace("\nroots = []", &format!("\nroots = {}", toml_list(roots)))
        .replace("\nregion = \"\"", &format!("\nregion = \"{region}\""))
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, load};

    use super::*;

    #[test]
    fn the_template_says_what_the_defaults_are() {
        // Each `#key = value` is a key with its default; remarks have a space after the `#`.
        let all = TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => format!("{key}\n"),
            _ => format!("{line}\n"),
        });
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, all.collect::<String>()).expect("a writable folder");
        let mut config: NodeConfig = load(&file, Environment::Ignored, &[]).expect("a valid template");
        let mut expected = NodeConfig::default();
        // What the template sets itself.
        assert_eq!(config.node.data_dir, dir.path().join(DATA_DIR));
        expected.node.data_dir = std::mem::take(&mut config.node.data_dir);
        expected.admin.listen = config.admin.listen;
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
    }

    #[test]
    fn what_init_was_told_stands_in_the_config() {
        let text = filled(&["https://a \"b\"".to_owned()], &["key".to_owned()], "eu-west");
        assert!(text.contains("\nurls = [\"https://a \\\"b\\\"\"]\n"), "{text}");
        assert!(text.contains("\nroots = [\"key\"]\n") && text.contains("\nregion = \"eu-west\"\n"), "{text}");
    }
}
