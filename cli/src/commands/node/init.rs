//! `chappe node init`: writes the config, the key and the systemd unit of a new node.

pub(super) mod answers;
mod content;
mod unit;

use std::{
    env,
    fs::{self, DirBuilder},
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf, absolute},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use chappe_common::{federation::FederationId, keys::PublicKey};
use chappe_discovery::join_link::JoinLink;
use chappe_node::{NodeConfig, config::Advertised, identity::load_or_create_key};
use clap::Args;
use rustix::process::geteuid;
use serde::Serialize;

use self::{
    answers::{Answers, Tls},
    content::Content,
};
use super::KEY_FILE;
use crate::{
    commands::{
        init::{create, refuse_existing},
        owner::continue_as_owner,
    },
    config::check_text,
    output::Output,
};

/// The data folder beside the config file, as in the template.
const DATA_DIR: &str = "node-data";
const UNIT_FILE: &str = "chappe-node.service";
/// The config file of the installed unit.
const INSTALLED_CONFIG: &str = "/var/lib/chappe-node/node.toml";
/// Folders of units, in the order in which systemd reads them.
const UNIT_DIRS: [&str; 3] = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// Maximal length of a link that is read.
const MAX_LINK: u64 = 4096;
/// Exists if systemd runs the machine (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Config file to write; the key is written to a subfolder [default: node.toml; for root with an installed unit and
    /// --join, /var/lib/chappe-node/node.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Link from the federation's operator (`chappe bootstrap join-link`), or `-` to read it from standard input; asks for
    /// what else is needed
    #[arg(long, value_name = "LINK", conflicts_with_all = ["registry", "root", "federation", "url", "advertise"])]
    join: Option<String>,

    /// Host name or public IP address of this machine [default with --yes: the public address
    /// of this machine]
    #[arg(long, value_name = "HOST", requires = "join")]
    address: Option<String>,

    /// How clients connect
    #[arg(long, value_enum, requires = "join")]
    tls: Option<Tls>,

    /// Agree to the terms of service of Let's Encrypt, at letsencrypt.org/repository, for --tls acme
    #[arg(long, requires = "join")]
    agree_to_terms: bool,

    /// Also relay the media of calls
    #[arg(long, requires = "join")]
    relay_media: bool,

    /// Do not ask: use the defaults
    #[arg(long, requires = "join")]
    yes: bool,

    /// Registry of the federation; it lists only nodes with its root key
    #[arg(long, value_name = "URL", requires = "root")]
    registry: Vec<String>,

    /// Root key of the federation
    // Keys are base64url, so one in 64 starts with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Id of the federation, if its root keys were rotated and --root names later ones
    #[arg(long, value_name = "ID", requires = "root")]
    federation: Option<FederationId>,

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

#[derive(Serialize)]
struct Made<'a> {
    event: &'static str,
    id: String,
    config: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a Path>,
}

/// How the node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// By the installed unit, with [`INSTALLED_CONFIG`].
    Installed,
    /// By a unit that is written beside the config.
    Written,
    /// By hand: root should not run a node, and the unit needs a user.
    None,
}

pub(super) fn run(args: &InitArgs, output: Output) -> Result<()> {
    if args.region.len() > 32 || !args.region.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        bail!("--region: at most 32 printable ASCII characters without spaces and quotes are allowed");
    }
    let service = Service::of(args);
    let config = config_file(args, service);
    // Before standard input is read.
    if let Some(error) = continue_as_owner(&config) {
        return Err(error);
    }
    let link = args.join.as_deref().map(read_link).transpose().context("--join")?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let (data_dir, unit) = (folder.join(DATA_DIR), folder.join(UNIT_FILE));
    refuse_existing(&config)?;
    refuse_existing(&data_dir.join(KEY_FILE))?;
    let writes_unit = service == Service::Written && link.is_some();
    if writes_unit {
        refuse_existing(&unit)?;
    }
    let answers = match &link {
        Some(_) => Answers::collect(args)?,
        None => Answers::default(),
    };
    let invitation = link.as_ref().and_then(JoinLink::invitation);
    let mut content = Content {
        urls: args.url.clone(),
        advertise: args.advertise.clone(),
        roots: args.root.clone(),
        federation: args.federation,
        registries: args.registry.clone(),
        region: args.region.clone(),
        issuers: invitation.map(|invitation| invitation.issuers().to_vec()).unwrap_or_default(),
        answers,
        ..Content::default()
    };
    if let Some(link) = &link {
        content.roots = link.roots().to_vec();
        content.federation = link.federation();
        content.registries = link.registries().to_vec();
        content.dns = link.dns().to_vec();
        content.add_addresses()?;
        // Nothing is written that the node would refuse.
        check_text::<NodeConfig>(&content.filled(), &config)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_dir)
        .with_context(|| format!("cannot create the folder {}", data_dir.display()))?;
    let key = load_or_create_key(&data_dir)?;
    content.ticket = invitation.map(|invitation| invitation.ticket(key.node_id()));
    create(&config, &content.filled())?;
    if writes_unit {
        create(&unit, &unit::text(&absolute(&config)?, &env::current_exe()?))?;
    }
    print(&config, writes_unit.then_some(&*unit), service, &content, key.node_id().to_string(), output);
    Ok(())
}

fn print(config: &Path, unit: Option<&Path>, service: Service, content: &Content, id: String, output: Output) {
    let missing = [("client.urls", content.urls.is_empty()), ("federation.advertise", content.advertise.is_empty())];
    let missing: Vec<&str> = missing.iter().filter(|(_, missing)| *missing).map(|(key, _)| *key).collect();
    let mut text = match unit {
        Some(unit) => format!("created {}, {} and the key of node {id}", config.display(), unit.display()),
        None => format!("created {} and the key of node {id}", config.display()),
    };
    if let Some(host) = &content.answers.host {
        text.push_str(&format!("\nopen in the firewall: {}", content.answers.ports().join(", ")));
        if !host.is_public() {
            text.push_str(&format!("\n{host} is a private address: only machines in its network can reach the node"));
        }
    }
    let edit = if missing.is_empty() { String::new() } else { format!("set {} in it, ", missing.join(" and ")) };
    let next = match (content.answers.host.is_some(), service) {
        (false, _) => format!("read {0}, {edit}and start the node: chappe node run --config {0}", config.display()),
        (true, Service::Installed) => "sudo systemctl enable --now chappe-node".to_owned(),
        // systemd gets a copy that belongs to root. With the original, this user could have root run any program.
        (true, Service::Written) if Path::new(SYSTEMD_RUNS).exists() => {
            let unit = absolute(unit.unwrap_or(Path::new(UNIT_FILE))).unwrap_or_default();
            format!(
                "sudo install -m 644 {} {}/ && sudo systemctl enable --now chappe-node",
                shell_word(&unit),
                UNIT_DIRS[0]
            )
        }
        (true, _) => format!("chappe node run --config {}", config.display()),
    };
    text.push_str(&format!("\nnext: {next}"));
    output.print(&text, &Made { event: "made", id, config, unit });
}

/// Parses the link, or that on the first line of standard input: arguments are shown to all users of the machine.
fn read_link(text: &str) -> Result<JoinLink> {
    let mut line = String::new();
    let text = if text == "-" {
        if io::stdin().is_terminal() {
            write!(io::stderr(), "Join link: ").context("cannot write to the terminal")?;
        }
        io::stdin().lock().take(MAX_LINK).read_line(&mut line).context("cannot read it from standard input")?;
        line.trim()
    } else {
        text
    };
    Ok(JoinLink::parse(text, SystemTime::now().into())?)
}

/// A path as a word for a shell, in quotes if it needs them.
fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if is_plain { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

impl Service {
    fn of(args: &InitArgs) -> Self {
        let is_root = geteuid().is_root();
        let is_installed = || UNIT_DIRS.iter().any(|dir| Path::new(dir).join(UNIT_FILE).exists());
        let is_default = args.config.as_ref().is_none_or(|file| file == Path::new(INSTALLED_CONFIG));
        // The unit's user, as whom root's `init` continues, too.
        let owns_folder = || {
            let folder = Path::new(INSTALLED_CONFIG).parent().and_then(|folder| fs::metadata(folder).ok());
            folder.is_some_and(|folder| is_root || folder.uid() == geteuid().as_raw())
        };
        if is_default && owns_folder() && args.join.is_some() && is_installed() {
            Self::Installed
        } else if is_root {
            Self::None
        } else {
            Self::Written
        }
    }
}

fn config_file(args: &InitArgs, service: Service) -> PathBuf {
    let default = if service == Service::Installed { INSTALLED_CONFIG } else { "node.toml" };
    args.config.clone().unwrap_or_else(|| default.into())
}
