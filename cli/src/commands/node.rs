//! `chappe node run` and `chappe node init`; `invite` has the other commands about a node.

mod invite;

use std::{
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use chappe_common::keys::PublicKey;
use chappe_node::{Node, NodeConfig, config::Advertised, identity::load_or_create_key};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    daemon::{DaemonArgs, ended, explain_start},
    init::{create, refuse_existing, toml_list},
};
use crate::{open_files::OpenFiles, output::Output, signals::Signals};

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
    /// Print the id of a node, for whoever is to invite or list it
    Id(invite::IdArgs),
    /// Make the ticket with which a federation that admits by invitation takes a node in
    Invite(invite::InviteArgs),
}

/// What the new node is.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The config file to write; the key goes into a folder beside it
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,

    /// A registry of the federation, which lists only nodes that name its root key
    #[arg(long, value_name = "URL", requires = "root")]
    registry: Vec<String>,

    /// A root key of the federation
    // Keys are base64url: one in 64 begins with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// The URL that clients use, such as wss://node.example.org
    #[arg(long, value_name = "URL")]
    url: Vec<String>,

    /// The address that other nodes dial, such as 203.0.113.7:8711, or a name that is resolved again as it changes
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Vec<Advertised>,

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
            let mut signals = Signals::of_daemon()?;
            let mut config: NodeConfig = args.load()?;
            let connections = &mut config.client.max_connections;
            *connections = OpenFiles::raise().fit("client.max_connections", *connections);
            let node = Node::spawn(config).await.map_err(explain_start)?;
            let line = NodeLine::of(&node);
            let client_addr = node.addrs().client;
            output.say(
                &format!("node {}\nlistening for clients on {client_addr}", line.text()),
                &Ready { event: "ready", node: line, client_addr },
            );
            let failure = tokio::select! {
                biased;
                () = signals.stop() => None,
                failure = node.failed() => Some(failure),
            };
            output.remark("stopping: clients are told to go elsewhere");
            node.shutdown().await;
            output.say("stopped", &Stopped { event: "stopped" });
            ended(failure)
        }
        NodeCommand::Init(args) => init(&args, output),
        NodeCommand::Id(args) => invite::id(&args, output),
        NodeCommand::Invite(args) => invite::invite(&args, output),
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
    create(&args.config, &filled(args))?;
    let key = load_or_create_key(&data_dir)?;
    let config = &args.config;
    let missing = [("client.urls", args.url.is_empty()), ("federation.advertise", args.advertise.is_empty())];
    let missing: Vec<&str> = missing.iter().filter(|(_, missing)| *missing).map(|(key, _)| *key).collect();
    let edit = if missing.is_empty() { String::new() } else { format!("set {} in it, ", missing.join(" and ")) };
    let text = format!(
        "made {} and the key of node {}\nnext: read {0}, {edit}and start it: chappe node run --config {0}",
        config.display(),
        key.node_id()
    );
    output.say(&text, &Made { event: "made", id: key.node_id().to_string(), config });
    Ok(())
}

/// The template with what the command line says.
fn filled(args: &InitArgs) -> String {
    TEMPLATE
        .replace("{{client_urls}}", &toml_list(&args.url))
        .replace("{{advertise}}", &toml_list(&args.advertise))
        .replace("{{roots}}", &toml_list(&args.root))
        .replace("{{registry_urls}}", &toml_list(&args.registry))
        .replace("{{region}}", &serde_json::to_string(&args.region).expect("a text is JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load};

    fn load_text(text: &str, change: impl Fn(&str) -> String) -> NodeConfig {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("node.toml");
        let text: String = text.lines().map(|line| change(line) + "\n").collect();
        std::fs::write(&file, text).expect("a writable folder");
        let mut config: NodeConfig = load(&file, Environment::Ignored, &[]).expect("a valid template");
        assert_eq!(config.node.data_dir, dir.path().join(DATA_DIR));
        config.node.data_dir = NodeConfig::default().node.data_dir;
        config
    }

    fn args() -> InitArgs {
        InitArgs {
            config: PathBuf::new(),
            registry: vec!["https://registry.example/\"b\"".to_owned()],
            root: vec![PublicKey::from_bytes([7; 32])],
            url: vec!["wss://node.example.org".to_owned()],
            advertise: vec!["203.0.113.7:8711".parse().expect("an address")],
            region: "eu-west".to_owned(),
        }
    }

    fn expected() -> NodeConfig {
        let args = args();
        let mut config = NodeConfig::default();
        config.registry.urls = args.registry;
        config.federation.roots = args.root;
        config.client.urls = args.url;
        config.federation.advertise = args.advertise;
        config.node.region = args.region;
        config
    }

    #[test]
    fn what_init_was_told_stands_in_the_config() {
        let config = load_text(&filled(&args()), str::to_owned);
        assert_eq!(format!("{config:?}"), format!("{:?}", expected()));
    }

    #[test]
    fn the_remarks_in_the_template_say_what_the_defaults_are() {
        // Each `#key = value` is a key with its default; what people read has a space after the `#`.
        let config = load_text(&filled(&args()), |line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => key.to_owned(),
            _ => line.to_owned(),
        });
        let mut expected = expected();
        assert!(config.admin.listen.is_some(), "the one key without a default");
        expected.admin.listen = config.admin.listen;
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
        let keys = |text: &str| text.lines().filter(|line| line.contains(" = ") && !line.starts_with("# ")).count();
        let all = serde_json::to_value(&config).expect("a configuration is JSON");
        let all = all.as_object().expect("sections").values().map(|section| section.as_object().map_or(0, |s| s.len()));
        assert_eq!(keys(TEMPLATE), all.sum::<usize>(), "every key has its line");
    }
}
