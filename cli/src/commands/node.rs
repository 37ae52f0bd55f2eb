//! `chappe node init`. The other subcommands have their own files.

mod doctor;
mod invite;
mod run;

use std::{
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use chappe_common::keys::PublicKey;
use chappe_node::{Node, PassedSockets, config::Advertised, identity::load_or_create_key};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    daemon::DaemonArgs,
    init::{create, refuse_existing, toml_list},
};
use crate::{log::Log, output::Output};

const TEMPLATE: &str = include_str!("../../templates/node.toml");
/// The data folder beside the config file, as in the template.
const DATA_DIR: &str = "node-data";
const KEY_FILE: &str = "node.key";

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run a node until SIGTERM or Ctrl-C
    Run(DaemonArgs),
    /// Create a commented config file and a key
    Init(InitArgs),
    /// Try the relay for media of a running node, from its own machine
    Doctor(DaemonArgs),
    /// Print a node's id, for an invitation or an allowlist
    Id(invite::IdArgs),
    /// Sign a ticket for a node, for a federation that admits by invitation
    Invite(invite::InviteArgs),
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Config file to write; the key is written to a subfolder
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,

    /// Registry of the federation; it lists only nodes with its root key
    #[arg(long, value_name = "URL", requires = "root")]
    registry: Vec<String>,

    /// Root key of the federation
    // Keys are base64url, so one in 64 starts with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// URL that clients use, such as wss://node.example.org
    #[arg(long, value_name = "URL")]
    url: Vec<String>,

    /// Address that other nodes dial, such as 203.0.113.7:8711, or a host name, which is resolved again when it changes
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Vec<Advertised>,

    /// Short name of the node's location, such as eu-west
    #[arg(long, default_value = "")]
    region: String,
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

#[derive(Serialize)]
struct Made<'a> {
    event: &'static str,
    id: String,
    config: &'a Path,
}

pub(crate) async fn run(command: NodeCommand, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    match command {
        NodeCommand::Run(args) => run::run(&args, output, log, passed).await,
        NodeCommand::Doctor(args) => doctor::run(&args, output).await,
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
        .with_context(|| format!("cannot create the folder {}", data_dir.display()))?;
    create(&args.config, &filled(args))?;
    let key = load_or_create_key(&data_dir)?;
    let config = &args.config;
    let missing = [("client.urls", args.url.is_empty()), ("federation.advertise", args.advertise.is_empty())];
    let missing: Vec<&str> = missing.iter().filter(|(_, missing)| *missing).map(|(key, _)| *key).collect();
    let edit = if missing.is_empty() { String::new() } else { format!("set {} in it, ", missing.join(" and ")) };
    let text = format!(
        "created {} and the key of node {}\nnext: read {0}, {edit}and start the node: chappe node run --config {0}",
        config.display(),
        key.node_id()
    );
    output.print(&text, &Made { event: "made", id: key.node_id().to_string(), config });
    Ok(())
}

/// Fills in the template.
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
    use chappe_node::NodeConfig;

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
    fn the_arguments_of_init_are_written_to_the_config() {
        let config = load_text(&filled(&args()), str::to_owned);
        assert_eq!(format!("{config:?}"), format!("{:?}", expected()));
    }

    #[test]
    fn the_comments_in_the_template_show_the_defaults() {
        // A line `#key = value` is a key with its default. A comment has a space after the `#`.
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
