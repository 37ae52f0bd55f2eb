//! Where a client looks for nodes: the options of the command line, or what the profile has stored.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_client::{
    Client, ClientBuilder,
    contact::ContactId,
    profile::{Profile, ProfileError},
};
use chappe_common::{
    federation::FederationId, keys::PublicKey, root_statements::ListOrigin, roots::Roots, text_or_nothing,
    time::UnixTime,
};
use chappe_discovery::{
    Discovery, DiscoveryBuilder, dns,
    doh::Provider,
    federation,
    invite::Invite,
    manual::ManualNode,
    names::Scope,
    net::Net,
    private_file,
    proxy::Proxies,
    registry::Endpoint,
    tls,
    trust::{self, Trust},
};
use clap::Args;
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";
/// Maximal size of the file that is read. It has a few lines.
const MAX_FILE: u64 = 64 * 1024;

/// The profile, and where to look for nodes.
#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    /// Folder of the profile: keys, contacts and network settings; created if it does not exist
    #[arg(long, value_name = "DIR")]
    profile: PathBuf,

    /// Your name as new contacts see it; used when the profile is created
    #[arg(long, default_value = "somebody")]
    name: String,

    #[command(flatten)]
    network: NetworkArgs,
}

/// Where to look for nodes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NetworkArgs {
    /// Base URL of a registry, or URL of a directory file; stored in the profile. The suffixes `,connect_to=IP:PORT`,
    /// `,sni=NAME` and `,host=NAME` set another address, TLS name and host
    #[arg(long, value_name = "URL", value_parser = parse_registry)]
    registry: Vec<String>,

    /// DNS name with the federation's nodes, queried over HTTPS; stored in the profile
    #[arg(long, value_name = "NAME", value_parser = parse_zone)]
    dns: Vec<String>,

    /// Provider of DNS over HTTPS instead of the built-in ones, as https://host/dns-query,IP:PORT; stored in the
    /// profile
    #[arg(long, value_name = "URL", value_parser = parse_provider)]
    doh: Vec<String>,

    /// Resolve names with this system's resolver (port 53) instead of DNS over HTTPS; stored in the profile
    #[arg(long)]
    system_resolver: bool,

    /// Connect only to nodes and registries with TLS (wss://, https://) or on this machine; stored in the profile
    #[arg(long)]
    wss_only: bool,

    /// Root key of the federation, under which the registry's directory must be signed; stored in the profile
    // Keys are base64url, so one in 64 starts with a hyphen.
    #[arg(long, value_name = "KEY", value_parser = parse_root, allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Id of the federation, if its root keys were rotated and --root names later ones; stored in the profile
    #[arg(long, value_name = "ID", requires = "root")]
    federation: Option<FederationId>,

    /// Accept private addresses from links, contacts and the system's resolver; stored in the profile
    #[arg(long = "private-network", alias = "test")]
    test: bool,

    /// A node, as wss://host:port#NODE-ID; stored in the profile
    #[arg(long, value_name = "URL", value_parser = parse_node)]
    node: Vec<String>,
}

/// How an operator's command resolves names.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ResolverArgs {
    /// Provider of DNS over HTTPS instead of the built-in ones, as https://host/dns-query,IP:PORT
    #[arg(long, value_name = "URL", value_parser = parse_provider)]
    doh: Vec<String>,

    /// Resolve names with this system's resolver (port 53) instead of DNS over HTTPS
    #[arg(long, conflicts_with = "doh")]
    system_resolver: bool,
}

impl ResolverArgs {
    /// The connection settings for registries.
    pub(crate) fn net(&self) -> Result<Net> {
        if self.system_resolver {
            return Ok(Net::system_with_proxies(tls::config(), Scope::Private, Proxies::from_env()?));
        }
        over_https(&self.doh)
    }

    /// Resolves the names in a search as the options say.
    pub(crate) fn add_to(&self, builder: DiscoveryBuilder) -> Result<DiscoveryBuilder> {
        if self.system_resolver {
            return Ok(builder.system_resolver());
        }
        Ok(parse_all(&self.doh)?.into_iter().fold(builder, DiscoveryBuilder::provider))
    }
}

/// Uses these providers of DNS over HTTPS, or the built-in ones.
fn over_https(texts: &[String]) -> Result<Net> {
    let given: Vec<Provider> = parse_all(texts)?;
    let providers = if given.is_empty() { Provider::defaults() } else { given };
    Ok(Net::over_https_with_proxies(&providers, tls::config(), Proxies::from_env()?)?)
}

/// The network settings that a profile stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkConfig {
    registries: Vec<String>,
    roots: Vec<PublicKey>,
    /// The federation's id, if the roots are not its founding ones.
    #[serde(skip_serializing_if = "Option::is_none", with = "text_or_nothing")]
    federation: Option<FederationId>,
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
    /// Removes a contact from the profile.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.change_contact(name, Profile::remove_contact)
    }

    /// Blocks or unblocks a contact.
    pub(crate) fn block(&self, name: &str, blocked: bool) -> Result<()> {
        self.change_contact(name, |profile, contact| profile.block(contact, blocked))
    }

    /// Changes a stored contact, unless another process uses the profile: that process has its own copy in memory.
    fn change_contact(
        &self,
        name: &str,
        change: impl FnOnce(&mut Profile, ContactId) -> Result<(), ProfileError>,
    ) -> Result<()> {
        let unknown = || anyhow!("no contact is called `{name}`");
        if !self.profile.exists() {
            return Err(unknown());
        }
        let mut profile = Profile::open_or_create(&self.profile, &self.name)?;
        profile.hold()?;
        let contact = profile.contact_named(name).ok_or_else(unknown)?.id();
        Ok(change(&mut profile, contact)?)
    }

    /// Opens the profile and configures its client.
    pub(crate) fn builder(&self) -> Result<(Profile, ClientBuilder)> {
        self.builder_with_link(None).map(|(profile, builder, _)| (profile, builder))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.profile
    }

    /// As [`ProfileArgs::builder`], with the nodes of a link if there is one. Returns the parsed link. A profile
    /// without network settings stores the link's nodes.
    pub(crate) fn builder_with_link(&self, link: Option<&str>) -> Result<(Profile, ClientBuilder, Option<Invite>)> {
        // Check the network before creating the profile, so that a failed command does not fix the profile's name.
        let remembered = NetworkConfig::load(&self.profile)?;
        let known = self.network.network_or(remembered.clone())?;
        let test = self.network.test || known.as_ref().is_some_and(|network| network.test);
        let now = UnixTime::from(SystemTime::now());
        let link = link.map(|text| Invite::parse(text, now, test)).transpose()?;
        let network = match (known, &link) {
            (Some(network), _) => network,
            (None, Some(link)) => {
                let nodes = usable_nodes(link);
                if nodes.is_empty() {
                    bail!("the link names no usable node: ask for a new one");
                }
                self.network.with_options(NetworkConfig { nodes, ..NetworkConfig::default() })
            }
            (None, None) => {
                bail!("this profile has no network settings: add --registry URL --root KEY, or --node URL, once")
            }
        };
        let mut profile = Profile::open_or_create(&self.profile, &self.name)?;
        profile.hold()?;
        if remembered.as_ref() != Some(&network) {
            network.save(&self.profile)?;
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

/// Fetches the roots, registries and DNS names of a link's federation from its nodes and stores them in the profile, so that the
/// profile does not depend on these nodes. Does nothing if the profile has a root, or the link has no federation id.
pub(crate) async fn learn_federation(profile: &Path, link: &Invite) -> Result<()> {
    let (Some(federation), Some(mut network)) = (link.federation(), NetworkConfig::load(profile)?) else {
        return Ok(());
    };
    if !network.roots.is_empty() {
        return Ok(());
    }
    let (net, hosts) = (network.net()?, if network.test { Scope::Private } else { Scope::Public });
    for (node, url) in link.nodes() {
        match federation::fetch_from_node(&url, hosts, federation, &net).await {
            Ok(info) => {
                let mut roots = Roots::from(info.roots);
                // Later roots are pinned at once. Without an answer, a search leads to them.
                if let Ok(statements) = trust::fetch_from_node(&url, hosts, &net).await {
                    let trust = Trust::from(roots);
                    trust.learn(statements, ListOrigin::Peer(SystemTime::now().into()));
                    roots = trust.roots();
                }
                network.federation = roots.is_rotated().then_some(federation);
                network.roots = roots.current();
                network.registries.extend(info.registries);
                network.dns.extend(info.dns);
                return network.save(profile);
            }
            Err(error) => {
                tracing::debug!(node = node.short(), %error, "cannot fetch the federation from a node of the link")
            }
        }
    }
    tracing::warn!("no node of the link has returned its federation: the profile knows only these nodes");
    Ok(())
}

/// The link's nodes as they are stored in a profile, without those that no later command could parse.
fn usable_nodes(link: &Invite) -> Vec<String> {
    let texts = link.nodes().map(|(node, url)| format!("{url}#{node}"));
    texts.filter(|text| text.parse::<ManualNode>().is_ok()).collect()
}

impl NetworkArgs {
    /// The search that the command line or the profile configures.
    ///
    /// The returned profile keeps its lock while it exists.
    pub(crate) fn discovery(&self, profile: Option<&Path>) -> Result<(Discovery, Option<Profile>)> {
        let remembered = profile.map(NetworkConfig::load).transpose()?.flatten();
        let network = match (self.network_or(remembered)?, profile) {
            (Some(network), _) => network,
            (None, Some(profile)) => bail!("{} is not a profile with network settings", profile.display()),
            (None, None) => bail!("specify where to look: --registry URL --root KEY, or --node URL, or --profile DIR"),
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

    /// The network of the command line, or the stored one with the command line's options. `None` if neither has a
    /// source.
    fn network_or(&self, remembered: Option<NetworkConfig>) -> Result<Option<NetworkConfig>> {
        let network = self.network()?.or(remembered);
        Ok(network.map(|network| self.with_options(network)))
    }

    /// Applies the options that may be given without a source.
    fn with_options(&self, mut network: NetworkConfig) -> NetworkConfig {
        if !self.doh.is_empty() {
            network.doh.clone_from(&self.doh);
        }
        network.system_resolver |= self.system_resolver;
        network.test |= self.test;
        network.wss_only |= self.wss_only;
        network
    }

    fn network(&self) -> Result<Option<NetworkConfig>> {
        if (self.registry.is_empty() && self.dns.is_empty()) != self.root.is_empty() {
            bail!("--registry or --dns, and --root must be used together: the root key verifies the directory");
        }
        if self.registry.is_empty() && self.dns.is_empty() && self.node.is_empty() {
            return Ok(None);
        }
        Ok(Some(NetworkConfig {
            registries: self.registry.clone(),
            roots: self.root.clone(),
            federation: self.federation,
            dns: self.dns.clone(),
            nodes: self.node.clone(),
            ..NetworkConfig::default()
        }))
    }
}

/// The parsed network settings.
#[derive(Debug)]
struct Sources {
    endpoints: Vec<Endpoint>,
    roots: Vec<PublicKey>,
    federation: Option<FederationId>,
    zones: Vec<String>,
    providers: Vec<Provider>,
    system_resolver: bool,
    private_network: bool,
    wss_only: bool,
    nodes: Vec<ManualNode>,
}

impl Sources {
    fn add_to(self, builder: DiscoveryBuilder) -> DiscoveryBuilder {
        let mut builder = builder.registry(self.endpoints, self.roots).federation(self.federation);
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

/// Parses all texts. The error contains the text that is invalid.
fn parse_all<T: FromStr>(texts: &[String]) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    texts.iter().map(|text| text.parse().with_context(|| format!("`{text}`"))).collect()
}

impl NetworkConfig {
    fn sources(&self) -> Result<Sources> {
        let nodes: Vec<ManualNode> = parse_all(&self.nodes)?;
        for node in nodes.iter().filter(|node| node.node().is_none()) {
            tracing::warn!(url = node.url(), "this node has no pinned key: any node that answers is accepted");
        }
        Ok(Sources {
            endpoints: parse_all(&self.registries)?,
            roots: self.roots.clone(),
            federation: self.federation,
            zones: self.dns.clone(),
            providers: parse_all(&self.doh)?,
            system_resolver: self.system_resolver,
            private_network: self.test,
            wss_only: self.wss_only,
            nodes,
        })
    }

    /// The connection settings.
    fn net(&self) -> Result<Net> {
        let net = if self.system_resolver {
            let scope = if self.test { Scope::Private } else { Scope::Public };
            Net::system_with_proxies(tls::config(), scope, Proxies::from_env()?)
        } else {
            over_https(&self.doh)?
        };
        Ok(if self.wss_only { net.tls_only() } else { net })
    }

    fn save(&self, profile: &Path) -> Result<()> {
        let path = profile.join(FILE);
        let text = serde_json::to_vec_pretty(self)?;
        private_file::write_own(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The stored settings, or `None` if there are none yet.
    fn load(profile: &Path) -> Result<Option<Self>> {
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
        Err("a DNS name such as nodes.example.org is expected".to_owned())
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
    use chappe_discovery::federation::FederationInfo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request with this body.
    async fn answer_one(listener: &TcpListener, body: &[u8]) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request"));
        }
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).await.expect("an open connection");
    }

    #[tokio::test]
    async fn a_profile_for_tls_only_learns_its_federation_from_no_node_without_tls() {
        let roots = vec![SecretKey::from_bytes(&[1; 32]).public()];
        let body = serde_json::to_vec(&FederationInfo { roots: roots.clone(), ..FederationInfo::default() });
        let body = body.expect("JSON");
        // The address leads to this machine, but is none of its own.
        let elsewhere = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let here = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let urls = [&elsewhere, &here].map(|listener| format!("ws://{}", listener.local_addr().expect("an address")));
        let node = |n| SecretKey::from_bytes(&[n; 32]).node_id();
        let [first, second] = urls;
        let until = UnixTime::from(SystemTime::now()) + Duration::from_secs(60);
        let link = Invite::new([(node(1), first), (node(2), second)], None, until).expect("it fits");
        let link = link.with_federation(FederationId::of_roots(&roots));
        let profile = tempfile::tempdir().expect("a temporary folder");
        let network = NetworkConfig { test: true, system_resolver: true, wss_only: true, ..NetworkConfig::default() };
        network.save(profile.path()).expect("a file");
        let learning = learn_federation(profile.path(), &link);
        tokio::select! {
            learned = async { tokio::join!(learning, async {
                answer_one(&here, &body).await;
                // The root statements, without any.
                answer_one(&here, &[]).await;
            }).0 } => learned.expect("a writable profile"),
            _ = elsewhere.accept() => panic!("a node without TLS was asked"),
        }
        let learned = NetworkConfig::load(profile.path()).expect("a file").expect("a network");
        assert_eq!(learned.roots, roots);
    }

    #[test]
    fn a_profile_remembers_only_those_nodes_of_a_link_that_a_later_command_can_read() {
        let now = UnixTime::from(SystemTime::now());
        let node = SecretKey::from_bytes(&[1; 32]).node_id();
        // Any link can contain these bytes, which are a valid text for a host.
        let urls = ["wss://8.8.8.8", "wss://a:b:c", "wss://[", "wss://relay.example:99999"];
        let nodes = urls.map(|url| (node, url.to_owned()));
        let link = Invite::new(nodes, None, now + Duration::from_secs(60)).expect("it fits");
        assert_eq!(usable_nodes(&link), [format!("{}#{node}", "wss://8.8.8.8")]);
    }
}
