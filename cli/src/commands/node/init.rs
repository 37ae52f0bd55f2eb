//! `chappe node init`: writes the config, the key and the systemd unit of a new node.

pub(super) mod answers;
mod unit;

use std::{
    env,
    fs::{self, DirBuilder},
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf, absolute},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use chappe_common::{admission::TicketChain, keys::PublicKey};
use chappe_discovery::join_link::JoinLink;
use chappe_node::{
    NodeConfig,
    config::{AdmissionPolicy, Advertised},
    identity::load_or_create_key,
};
use clap::Args;
use rustix::process::geteuid;
use serde::Serialize;

use self::answers::{Answers, Tls};
use super::KEY_FILE;
use crate::{
    commands::{
        init::{create, refuse_existing, toml_list},
        owner::continue_as_owner,
    },
    config::check_text,
    output::Output,
};

const TEMPLATE: &str = include_str!("../../../templates/node.toml");
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
    #[arg(long, value_name = "LINK", conflicts_with_all = ["registry", "root", "url", "advertise"])]
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

/// What is written to the config.
#[derive(Debug, Default)]
struct Content {
    urls: Vec<String>,
    advertise: Vec<Advertised>,
    roots: Vec<PublicKey>,
    registries: Vec<String>,
    dns: Vec<String>,
    region: String,
    issuers: Vec<PublicKey>,
    ticket: Option<TicketChain>,
    answers: Answers,
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
        registries: args.registry.clone(),
        region: args.region.clone(),
        issuers: invitation.map(|invitation| invitation.issuers().to_vec()).unwrap_or_default(),
        answers,
        ..Content::default()
    };
    if let Some(link) = &link {
        content.roots = link.roots().to_vec();
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
        // A copy: whoever can change the unit that root starts is root.
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
            eprint!("Join link: ");
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

impl Content {
    /// Sets the URLs and addresses that the arguments do not name, from the answers.
    fn add_addresses(&mut self) -> Result<()> {
        let Some(host) = &self.answers.host else { return Ok(()) };
        if self.urls.is_empty() {
            self.urls = vec![self.answers.url()];
        }
        if self.advertise.is_empty() {
            self.advertise = vec![format!("{host}:8711").parse().context("--address")?];
        }
        Ok(())
    }

    /// Fills in the template.
    fn filled(&self) -> String {
        let mut text = TEMPLATE
            .replace("{{client_urls}}", &toml_list(&self.urls))
            .replace("{{advertise}}", &toml_list(&self.advertise))
            .replace("{{roots}}", &toml_list(&self.roots))
            .replace("{{registry_urls}}", &toml_list(&self.registries))
            .replace("{{region}}", &serde_json::to_string(&self.region).expect("a text is JSON"));
        let mut set = |key: &str, default: &str, value: String| {
            let line = format!("#{key} = {default}\n");
            assert!(text.contains(&line), "the template has this line: {line}");
            text = text.replace(&line, &format!("{key} = {value}\n"));
        };
        if !self.dns.is_empty() {
            set("dns", "[]", toml_list(&self.dns));
        }
        if let Some(ticket) = &self.ticket {
            set("admission", "\"open\"", toml_text(AdmissionPolicy::Invite));
            set("ticket", "\"\"", toml_text(ticket.to_string()));
        }
        if !self.issuers.is_empty() {
            set("issuers", "[]", toml_list(&self.issuers));
        }
        self.answers.settings().into_iter().for_each(|(key, default, value)| set(key, default, value));
        text
    }
}

/// A value as TOML. JSON texts are valid in TOML.
fn toml_text(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chappe_common::{federation::FederationId, keys::SecretKey, time::UnixTime};
    use chappe_discovery::join_link::Invitation;

    use super::*;
    use crate::config::{Environment, load};

    fn load_text(text: &str, change: impl Fn(&str) -> String) -> NodeConfig {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("node.toml");
        let text: String = text.lines().map(|line| change(line) + "\n").collect();
        fs::write(&file, text).expect("a writable folder");
        let mut config: NodeConfig = load(&file, Environment::Ignored, &[]).expect("a valid template");
        assert_eq!(config.node.data_dir, dir.path().join(DATA_DIR));
        config.node.data_dir = NodeConfig::default().node.data_dir;
        config
    }

    /// The number of keys in a table and the tables in it.
    fn count(value: &serde_json::Value) -> usize {
        value.as_object().map_or(1, |table| table.values().map(count).sum())
    }

    fn content() -> Content {
        Content {
            registries: vec!["https://registry.example/\"b\"".to_owned()],
            roots: vec![PublicKey::from_bytes([7; 32])],
            urls: vec!["wss://node.example.org".to_owned()],
            advertise: vec!["203.0.113.7:8711".parse().expect("an address")],
            region: "eu-west".to_owned(),
            ..Content::default()
        }
    }

    fn expected() -> NodeConfig {
        let content = content();
        let mut config = NodeConfig::default();
        config.registry.urls = content.registries;
        config.federation.roots = content.roots;
        config.client.urls = content.urls;
        config.federation.advertise = content.advertise;
        config.node.region = content.region;
        config
    }

    #[test]
    fn the_arguments_of_init_are_written_to_the_config() {
        let config = load_text(&content().filled(), str::to_owned);
        assert_eq!(format!("{config:?}"), format!("{:?}", expected()));
    }

    #[test]
    fn a_join_link_fills_in_the_federation() {
        let (root, issuer) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let federation = FederationId::of_roots(&[root.public()]);
        let expires_at = UnixTime::from(SystemTime::now()) + Duration::from_secs(60);
        let invitation =
            Invitation::create(federation, &issuer, vec![issuer.public()], expires_at).expect("an invitation");
        let node = SecretKey::from_bytes(&[3; 32]).node_id();
        for (host, tls, url, client, links, media) in [
            (
                "Node.example.org",
                Tls::Proxy,
                "wss://node.example.org",
                "127.0.0.1:8710",
                "0.0.0.0:8711",
                "0.0.0.0:3478",
            ),
            ("203.0.113.7", Tls::Acme, "wss://203.0.113.7", "0.0.0.0:443", "0.0.0.0:8711", "0.0.0.0:3478"),
            ("2001:db8::7", Tls::None, "ws://[2001:db8::7]:8710", "[::]:8710", "[::]:8711", "[::]:3478"),
        ] {
            let answers = Answers { host: Some(host.parse().expect("a host")), tls, relay_media: true };
            let mut content = Content {
                roots: vec![root.public()],
                registries: vec!["https://registry.example".to_owned()],
                dns: vec!["chappe.example.org".to_owned()],
                issuers: invitation.issuers().to_vec(),
                ticket: Some(invitation.ticket(node)),
                answers,
                ..Content::default()
            };
            content.add_addresses().expect("an address");
            let config = load_text(&content.filled(), str::to_owned);
            config.check().expect("a valid configuration");
            assert_eq!(config.federation.roots, [root.public()]);
            assert_eq!(config.federation.admission, AdmissionPolicy::Invite);
            assert_eq!(config.federation.issuers, [issuer.public()]);
            let ticket = config.federation.ticket.as_ref().expect("a ticket");
            assert_eq!(ticket.check(federation, &node, &[issuer.public()], SystemTime::now().into()), Ok(()));
            assert_eq!(config.registry.urls, ["https://registry.example"]);
            assert_eq!(config.registry.dns, ["chappe.example.org"]);
            assert_eq!(config.client.urls, [url]);
            assert_eq!(config.client.listen.to_string(), client);
            assert_eq!(config.federation.listen.to_string(), links);
            assert_eq!(config.turn.listen[0].to_string(), media);
            assert_eq!(config.client.trusted_proxies.len(), usize::from(tls == Tls::Proxy));
            assert_eq!(config.client.acme.enabled && config.client.acme.terms_agreed, tls == Tls::Acme);
            let host = config.client.urls[0].rsplit_once("//").expect("a URL").1.replace(":8710", "");
            assert_eq!(config.federation.advertise[0].to_string(), format!("{host}:8711"));
        }
    }

    #[test]
    fn hosts_that_no_node_can_have_are_refused() {
        for host in ["", "0.0.0.0", "[::]", "224.0.0.1", "https://a.example", "a b", "bücher.example"] {
            assert!(host.parse::<answers::Host>().is_err(), "{host}");
        }
    }

    #[test]
    fn the_comments_in_the_template_show_the_defaults() {
        // A line `#key = value` is a key with its default. A comment has a space after the `#`.
        let config = load_text(&content().filled(), |line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => key.to_owned(),
            _ => line.to_owned(),
        });
        let mut expected = expected();
        assert!(config.admin.listen.is_some(), "the one key without a default");
        expected.admin.listen = config.admin.listen;
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
        let keys = |text: &str| text.lines().filter(|line| line.contains(" = ") && !line.starts_with("# ")).count();
        let all = serde_json::to_value(&config).expect("a configuration is JSON");
        assert_eq!(keys(TEMPLATE), count(&all), "every key has its line");
    }
}
