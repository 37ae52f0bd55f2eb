//! Where a client looks for nodes: what the command line says, or else what the profile remembers of the last time.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use chappe_client::{Client, ClientBuilder, profile::Profile};
use chappe_common::{keys::PublicKey, time::UnixTime};
use chappe_discovery::{Discovery, DiscoveryBuilder, link::Link, manual::ManualNode, private_file};
use clap::Args;
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";

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
    /// A registry's base URL; a profile remembers it
    #[arg(long, value_name = "URL")]
    registry: Vec<String>,

    /// A root key of the federation, which the registry's directory has to rest on; a profile remembers it
    // Keys are base64url: one in 64 begins with a hyphen.
    #[arg(long, value_name = "KEY", value_parser = parse_root, allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Takes links that name addresses in private networks: for tests; a profile remembers it
    #[arg(long)]
    test: bool,

    /// A node, as wss://host:port#NODE-ID; a profile remembers it
    #[arg(long, value_name = "URL", value_parser = parse_node)]
    node: Vec<String>,
}

/// Where to look for nodes, as the profile remembers it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    registries: Vec<String>,
    roots: Vec<PublicKey>,
    nodes: Vec<String>,
    test: bool,
}

impl ProfileArgs {
    /// Opens the profile, and says how its client finds nodes.
    pub(crate) fn builder(&self) -> Result<(Profile, ClientBuilder)> {
        self.builder_by(None).map(|(profile, builder, _)| (profile, builder))
    }

    /// The same by the nodes of a link, where there is one; it is given back as read. A profile that knows no network
    /// yet remembers the link's nodes.
    pub(crate) fn builder_by(&self, link: Option<&str>) -> Result<(Profile, ClientBuilder, Option<Link>)> {
        // Before the profile is made: a command that fails for want of a network must not settle the name.
        let given = self.network.given()?;
        let known = match given.clone() {
            Some(network) => Some(network),
            None => Network::remembered(&self.profile)?,
        };
        let test = self.network.test || known.as_ref().is_some_and(|network| network.test);
        let now = UnixTime::from(SystemTime::now());
        let link = link.map(|text| Link::parse(text, now, test)).transpose()?;
        let is_new = known.is_none();
        let network = match (known, &link) {
            (Some(network), _) => network,
            (None, Some(link)) => Network { nodes: nodes_of(link), test, ..Network::default() },
            (None, None) => {
                bail!("this profile knows no network so far: add --registry URL --root KEY, or --node URL, once")
            }
        };
        let profile = Profile::open_or_create(&self.profile, &self.name)?;
        if given.is_some() || is_new {
            network.remember(&self.profile)?;
        }
        let mut builder = Client::builder(profile.clone());
        if let Some(link) = &link {
            builder = builder.link(link.clone());
        }
        for url in &network.registries {
            builder = builder.registry(url, network.roots.iter().copied());
        }
        for node in network.manual_nodes()? {
            builder = builder.node(node);
        }
        Ok((profile, builder, link))
    }
}

fn nodes_of(link: &Link) -> Vec<String> {
    link.nodes().map(|(node, url)| format!("{url}#{node}")).collect()
}

impl NetworkArgs {
    /// A search as the command line says.
    pub(crate) fn discovery(&self) -> Result<Discovery> {
        let Some(network) = self.given()? else { bail!("say where to look: --registry URL --root KEY, or --node URL") };
        Ok(network.discovery()?.build()?)
    }

    fn given(&self) -> Result<Option<Network>> {
        if self.registry.is_empty() != self.root.is_empty() {
            bail!("--registry and --root go together: the root key says whose directory is to be believed");
        }
        if self.registry.is_empty() && self.node.is_empty() {
            return Ok(None);
        }
        Ok(Some(Network {
            registries: self.registry.clone(),
            roots: self.root.clone(),
            nodes: self.node.clone(),
            test: self.test,
        }))
    }
}

impl Network {
    fn discovery(&self) -> Result<DiscoveryBuilder> {
        let mut builder = Discovery::builder();
        if !self.registries.is_empty() {
            builder = builder.registry(self.registries.clone(), self.roots.clone());
        }
        for node in self.manual_nodes()? {
            builder = builder.manual(node);
        }
        Ok(builder)
    }

    fn manual_nodes(&self) -> Result<Vec<ManualNode>> {
        self.nodes.iter().map(|node| node.parse().with_context(|| format!("`{node}`"))).collect()
    }

    fn remember(&self, profile: &Path) -> Result<()> {
        let path = profile.join(FILE);
        let text = serde_json::to_vec_pretty(self)?;
        private_file::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What the profile remembers; none: nothing yet.
    fn remembered(profile: &Path) -> Result<Option<Self>> {
        let path = profile.join(FILE);
        match std::fs::read(&path) {
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

fn parse_node(text: &str) -> Result<String, String> {
    text.parse::<ManualNode>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}
