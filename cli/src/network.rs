//! Where a client looks for nodes: what the command line says, or else what the profile remembers of the last time.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_client::{Client, ClientBuilder, profile::Profile};
use chappe_common::{keys::PublicKey, time::UnixTime};
use chappe_discovery::{
    Discovery, DiscoveryBuilder, dns, doh::Provider, federation, invite::Invite, manual::ManualNode, names::Scope,
    net::Net, private_file, proxy::Proxies, registry::Endpoint, tls,
};
use clap::Args;
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";
/// The largest such file that is read: a few lines.
const MAX_FILE: u64 = 64 * 1024;

/// The profile, and where to look for nodes.
#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    /// The folder with your keys, your contacts, and where you look for nodes; it is made where there is none
    #[arg(long, value_name = "DIR")]
    profile: PathBuf,

    /// Your name, as your contacts see it at first; used when the profile is made
    #[arg(long, default_value = "somebody")]
    name: String,

    #[command(flatten)]
    network: NetworkArgs,
}

/// Where to look for nodes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NetworkArgs {
    /// A registry's base URL, or a file that is its directory; a profile remembers it. With `,connect_to=IP:PORT`,
    /// `,sni=NAME` and `,host=NAME` it is reached at another address, under another name
    #[arg(long, value_name = "URL", value_parser = parse_registry)]
    registry: Vec<String>,

    /// A name in DNS under which the federation's nodes stand, asked for over HTTPS; a profile remembers it
    #[arg(long, value_name = "NAME", value_parser = parse_zone)]
    dns: Vec<String>,

    /// A provider of DNS over HTTPS in place of the ones built in, as https://host/dns-query,IP:PORT; a profile
    /// remembers it
    #[arg(long, value_name = "URL", value_parser = parse_provider)]
    doh: Vec<String>,

    /// Resolve names of registries and nodes by this system (port 53), and not over HTTPS; a profile remembers it
    #[arg(long)]
    system_resolver: bool,

    /// Connect only to nodes with TLS (wss://), and on this machine; a profile remembers it
    #[arg(long)]
    wss_only: bool,

    /// A root key of the federation, which the registry's directory has to rest on; a profile remembers it
    // Keys are base64url: one in 64 begins with a hyphen.
    #[arg(long, value_name = "KEY", value_parser = parse_root, allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Use addresses in private networks that links, contacts and the system's resolver give; a profile remembers it
    #[arg(long = "private-network", alias = "test")]
    test: bool,

    /// A node, as wss://host:port#NODE-ID; a profile remembers it
    #[arg(long, value_name = "URL", value_parser = parse_node)]
    node: Vec<String>,
}

/// How a command of the registry's operator resolves the registry's name.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ResolverArgs {
    /// A provider of DNS over HTTPS in place of the ones built in, as https://host/dns-query,IP:PORT
    #[arg(long, value_name = "URL", value_parser = parse_provider)]
    doh: Vec<String>,

    /// Resolve the registry's name by this system (port 53), and not over HTTPS
    #[arg(long, conflicts_with = "doh")]
    system_resolver: bool,
}

impl ResolverArgs {
    /// How to reach a registry.
    pub(crate) fn net(&self) -> Result<Net> {
        if self.system_resolver {
            return Ok(Net::system_with_proxies(tls::config(), Scope::Private, Proxies::from_env()?));
        }
        over_https(&self.doh)
    }
}

/// By these providers of DNS over HTTPS, or the ones that are built in.
fn over_https(texts: &[String]) -> Result<Net> {
    let given: Vec<Provider> = read_all(texts)?;
    let providers = if given.is_empty() { Provider::defaults() } else { given };
    Ok(Net::over_https_with_proxies(&providers, tls::config(), Proxies::from_env()?)?)
}

/// Where to look for nodes, as the profile remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    registries: Vec<String>,
    roots: Vec<PublicKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    doh: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    system_resolver: bool,
    nodes: Vec<String>,
    test: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wss_only: bool,
}

impl ProfileArgs {
    /// Forgets a contact of the profile.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let unknown = || anyhow!("no contact is called `{name}`");
        if !self.profile.exists() {
            return Err(unknown());
        }
        let mut profile = Profile::open_or_create(&self.profile, &self.name)?;
        let contact = profile.contact_named(name).ok_or_else(unknown)?.id();
        Ok(profile.remove_contact(contact)?)
    }

    /// Opens the profile, and says how its client finds nodes.
    pub(crate) fn builder(&self) -> Result<(Profile, ClientBuilder)> {
        self.builder_by(None).map(|(profile, builder, _)| (profile, builder))
    }

    /// The profile's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.profile
    }

    /// The same by the nodes of a link, where there is one; it is given back as read. A profile that knows no network
    /// yet remembers the link's nodes.
    pub(crate) fn builder_by(&self, link: Option<&str>) -> Result<(Profile, ClientBuilder, Option<Invite>)> {
        // Before the profile is made: a command that fails for want of a network must not settle the name.
        let remembered = Network::remembered(&self.profile)?;
        let known = self.network.applied_to(remembered.clone())?;
        let test = self.network.test || known.as_ref().is_some_and(|network| network.test);
        let now = UnixTime::from(SystemTime::now());
        let link = link.map(|text| Invite::parse(text, now, test)).transpose()?;
        let network = match (known, &link) {
            (Some(network), _) => network,
            (None, Some(link)) => {
                let nodes = nodes_of(link);
                if nodes.is_empty() {
                    bail!("the link names no node that can be dialled: ask for a new one");
                }
                self.network.options_on(Network { nodes, ..Network::default() })
            }
            (None, None) => {
                bail!("this profile knows no network so far: add --registry URL --root KEY, or --node URL, once")
            }
        };
        let mut profile = Profile::open_or_create(&self.profile, &self.name)?;
        profile.hold()?;
        if remembered.as_ref() != Some(&network) {
            network.remember(&self.profile)?;
        }
        let mut builder = Client::builder(profile.clone());
        if let Some(link) = &link {
            builder = builder.link(link.clone());
        }
        let sources = network.sources()?;
        builder = builder.discovery(|discovery| sources.add_to(discovery));
        if network.test {
            builder = builder.private();
        }
        Ok((profile, builder, link))
    }
}

/// Learns the roots and registries of a link's federation from its nodes, so that the profile doesn't depend on these for
/// good, and remembers them. Does nothing where the profile knows a root already, or the link names no federation.
pub(crate) async fn learn_federation(profile: &Path, link: &Invite) -> Result<()> {
    let (Some(federation), Some(mut network)) = (link.federation(), Network::remembered(profile)?) else {
        return Ok(());
    };
    if !network.roots.is_empty() {
        return Ok(());
    }
    let (net, hosts) = (network.net()?, if network.test { Scope::Private } else { Scope::Public });
    for (node, url) in link.nodes() {
        match federation::fetch_from_node(&url, hosts, federation, &net).await {
            Ok(info) => {
                network.roots = info.roots;
                network.registries.extend(info.registries);
                return network.remember(profile);
            }
            Err(error) => {
                tracing::debug!(node = node.short(), %error, "a node of the link says nothing of its federation")
            }
        }
    }
    tracing::warn!("none of the link's nodes says which federation it is: the profile knows these nodes alone");
    Ok(())
}

/// The link's nodes as a profile remembers them. Whoever makes a link may put in what no later command could read.
fn nodes_of(link: &Invite) -> Vec<String> {
    let texts = link.nodes().map(|(node, url)| format!("{url}#{node}"));
    texts.filter(|text| text.parse::<ManualNode>().is_ok()).collect()
}

impl NetworkArgs {
    /// A search as the command line says, or else as a profile remembers.
    ///
    /// The profile is held as long as what is given back with the search.
    pub(crate) fn discovery(&self, profile: Option<&Path>) -> Result<(Discovery, Option<Profile>)> {
        let remembered = profile.map(Network::remembered).transpose()?.flatten();
        let network = match (self.applied_to(remembered)?, profile) {
            (Some(network), _) => network,
            (None, Some(profile)) => bail!("{} is no profile that knows a network", profile.display()),
            (None, None) => bail!("say where to look: --registry URL --root KEY, or --node URL, or --profile DIR"),
        };
        let mut builder = network.sources()?.add_to(Discovery::builder());
        let mut held = None;
        if let Some(folder) = profile {
            let mut profile = Profile::open_or_create(folder, "somebody")?;
            profile.hold()?;
            builder = builder.referrals(profile.referrals()).cache(profile.nodes_file());
            held = Some(profile);
        }
        Ok((builder.build()?, held))
    }

    /// The network that the command line names, or else the remembered one with the options of the command line. `None`
    /// if neither names one.
    fn applied_to(&self, remembered: Option<Network>) -> Result<Option<Network>> {
        let network = self.given()?.or(remembered);
        Ok(network.map(|network| self.options_on(network)))
    }

    /// `network` with the options that say how to reach it, which count without a source beside them.
    fn options_on(&self, mut network: Network) -> Network {
        if !self.doh.is_empty() {
            network.doh.clone_from(&self.doh);
        }
        network.system_resolver |= self.system_resolver;
        network.test |= self.test;
        network.wss_only |= self.wss_only;
        network
    }

    fn given(&self) -> Result<Option<Network>> {
        if (self.registry.is_empty() && self.dns.is_empty()) != self.root.is_empty() {
            bail!("--registry or --dns, and --root go together: the root key says whose directory is to be believed");
        }
        if self.registry.is_empty() && self.dns.is_empty() && self.node.is_empty() {
            return Ok(None);
        }
        Ok(Some(Network {
            registries: self.registry.clone(),
            roots: self.root.clone(),
            dns: self.dns.clone(),
            nodes: self.node.clone(),
            ..Network::default()
        }))
    }
}

/// The same, read.
#[derive(Debug)]
struct Sources {
    endpoints: Vec<Endpoint>,
    roots: Vec<PublicKey>,
    zones: Vec<String>,
    providers: Vec<Provider>,
    system_resolver: bool,
    private_network: bool,
    wss_only: bool,
    nodes: Vec<ManualNode>,
}

impl Sources {
    fn add_to(self, builder: DiscoveryBuilder) -> DiscoveryBuilder {
        let mut builder = builder.registry(self.endpoints, self.roots);
        if self.system_resolver {
            builder = builder.system_resolver();
        }
        if self.private_network {
            builder = builder.private_network();
        }
        if self.wss_only {
            builder = builder.wss_only();
        }
        builder = self.zones.into_iter().fold(builder, DiscoveryBuilder::zone);
        builder = self.providers.into_iter().fold(builder, DiscoveryBuilder::provider);
        self.nodes.into_iter().fold(builder, DiscoveryBuilder::manual)
    }
}

/// Each text read; an error names the one that can't be.
fn read_all<T: FromStr>(texts: &[String]) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    texts.iter().map(|text| text.parse().with_context(|| format!("`{text}`"))).collect()
}

impl Network {
    fn sources(&self) -> Result<Sources> {
        let nodes: Vec<ManualNode> = read_all(&self.nodes)?;
        for node in nodes.iter().filter(|node| node.node().is_none()) {
            tracing::warn!(url = node.url(), "nothing pins this node's key: whoever answers there is taken for it");
        }
        Ok(Sources {
            endpoints: read_all(&self.registries)?,
            roots: self.roots.clone(),
            zones: self.dns.clone(),
            providers: read_all(&self.doh)?,
            system_resolver: self.system_resolver,
            private_network: self.test,
            wss_only: self.wss_only,
            nodes,
        })
    }

    /// How others are reached.
    fn net(&self) -> Result<Net> {
        if self.system_resolver {
            let scope = if self.test { Scope::Private } else { Scope::Public };
            return Ok(Net::system_with_proxies(tls::config(), scope, Proxies::from_env()?));
        }
        over_https(&self.doh)
    }

    fn remember(&self, profile: &Path) -> Result<()> {
        let path = profile.join(FILE);
        let text = serde_json::to_vec_pretty(self)?;
        private_file::write_own(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What the profile remembers; none: nothing yet.
    fn remembered(profile: &Path) -> Result<Option<Self>> {
        let path = profile.join(FILE);
        match private_file::read_own(&path, MAX_FILE) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

fn parse_root(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|_| "a root key is 43 characters of base64url".to_owned())
}

fn parse_registry(text: &str) -> Result<String, String> {
    text.parse::<Endpoint>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_zone(text: &str) -> Result<String, String> {
    if dns::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name in DNS, such as nodes.example.org, is expected".to_owned())
    }
}

fn parse_provider(text: &str) -> Result<String, String> {
    text.parse::<Provider>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_node(text: &str) -> Result<String, String> {
    text.parse::<ManualNode>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn a_profile_remembers_only_those_nodes_of_a_link_that_a_later_command_can_read() {
        let now = UnixTime::from(SystemTime::now());
        let node = SecretKey::from_bytes(&[1; 32]).node_id();
        // Whoever makes a link writes its bytes, and these pass for the text of a host.
        let urls = ["wss://8.8.8.8", "wss://a:b:c", "wss://[", "wss://relay.example:99999"];
        let nodes = urls.map(|url| (node, url.to_owned()));
        let link = Invite::new(nodes, None, now + Duration::from_secs(60)).expect("it fits");
        assert_eq!(nodes_of(&link), [format!("{}#{node}", "wss://8.8.8.8")]);
    }
}
