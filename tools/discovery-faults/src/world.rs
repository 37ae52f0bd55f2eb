//! What all runs share: real nodes behind gates, a real registry that lists them, and who signs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chappe_bootstrap::{Bootstrap, BootstrapConfig, keys};
use chappe_common::{
    directory::DirectoryBundle,
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    time::UnixTime,
};
use chappe_discovery::{
    Discovery, DiscoveryBuilder,
    cache::Cache,
    doh::Provider,
    registry::Endpoint,
    source::{Candidate, SourceKind},
};
use chappe_node::{Node, NodeConfig, identity::load_or_create_key};
use chappe_testkit::{PATIENCE, ca::Ca, eventually, http};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    dns::{self, Dns},
    gate::{Gate, Traffic},
    issuer::{Issuer, Listed, When},
    web::Web,
};

/// The name under which shards are in DNS.
pub const ZONE: &str = "nodes.example";
/// The registry's name.
pub const REGISTRY: &str = "registry.example";
/// What DNS over HTTPS providers are called.
const PROVIDERS: [&str; 3] = ["one.example", "two.example", "three.example"];

/// A node behind a gate.
pub struct Running {
    /// As lists have it: at the gate.
    pub listed: Listed,
    _gate: Gate,
    node: Node,
}

/// The federation and its registry.
pub struct World {
    /// Who signs.
    pub issuer: Issuer,
    /// Whom clients trust in TLS.
    pub ca: Ca,
    /// The nodes.
    pub nodes: Vec<Running>,
    /// The directory of the registry, with which the nodes have registered.
    pub directory: Bytes,
    registry: Bootstrap,
    _dir: TempDir,
}

impl World {
    /// Starts a registry and nodes that are a round trip away from clients, and waits until all are listed.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(count: usize, round_trip: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = keys::create_federation(dir.path(), now()).expect("keys");
        let key = |file: &str| keys::load_secret_key(&dir.path().join(file)).expect("a key");
        let issuer = Issuer::of(key(keys::ROOT_KEY_FILE), key(keys::ONLINE_KEY_FILE));
        let local = vec!["127.0.0.0/8".parse().expect("a network")];
        let mut config = BootstrapConfig::default();
        config.bootstrap.data_dir = dir.path().join("registry");
        config.http.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.federation.roots = vec![root];
        config.federation.delegation = dir.path().join(keys::DELEGATION_FILE);
        config.federation.online_key = dir.path().join(keys::ONLINE_KEY_FILE);
        config.limits.exempt = local.clone();
        let registry = Bootstrap::spawn(config).await.expect("a registry");
        let url = format!("http://{}", registry.addr());
        let mut nodes = Vec::new();
        for number in 0..count {
            let gate = Gate::bind(Traffic::Passes, round_trip).await;
            let mut config = NodeConfig::default();
            config.node.data_dir = dir.path().join(format!("node{number}"));
            config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
            config.client.urls = vec![format!("ws://{}", gate.addr())];
            config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
            config.federation.roots = vec![root];
            config.federation.exempt.clone_from(&local);
            config.limits.exempt.clone_from(&local);
            config.registry.urls = vec![url.clone()];
            std::fs::create_dir_all(&config.node.data_dir).expect("a folder");
            let key = load_or_create_key(&config.node.data_dir).expect("a key");
            let node = Node::spawn(config).await.expect("a node");
            gate.lead_to(node.addrs().client);
            let listed = Listed::new(&key, issuer.federation(), gate.addr(), now());
            nodes.push(Running { listed, _gate: gate, node });
        }
        eventually("the nodes know each other", || nodes.iter().all(|node| node.node.members() == count)).await;
        let directory = timeout(PATIENCE, whole_directory(&url, root, count)).await.expect("all are listed in time");
        Self { issuer, ca: Ca::new("trusted"), nodes, directory, registry, _dir: dir }
    }

    /// The nodes as lists have them.
    pub fn listed(&self) -> Vec<Listed> {
        self.nodes.iter().map(|node| node.listed.clone()).collect()
    }

    /// Whether this is one of the nodes.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|running| running.listed.node() == node)
    }

    /// The pinned root.
    pub fn root(&self) -> PublicKey {
        self.issuer.root()
    }

    /// The federation.
    pub fn federation(&self) -> FederationId {
        self.issuer.federation()
    }

    /// What a server of these names shows to clients that trust this world's authority.
    pub fn tls(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.ca.server(names, b"http/1.1")
    }

    /// A client of this federation, which trusts this world's authority and knows no source yet.
    pub fn client(&self) -> DiscoveryBuilder {
        Discovery::builder().roots([self.root()]).tls(self.ca.trusted())
    }

    /// A mirror of the registry, over TLS.
    pub async fn mirror(&self) -> Web {
        let directory = self.directory.clone();
        Web::serve(Some(self.tls(&[REGISTRY])), move |_, _| {
            axum::response::IntoResponse::into_response(directory.clone())
        })
        .await
    }

    /// A real DNS server with the shards of all nodes, and the registry's address.
    pub async fn dns(&self) -> Dns {
        let shards = self.issuer.shards(When::now(now()), &self.listed());
        let tls = self.ca.server(&PROVIDERS, b"h2");
        Dns::serve(tls, &[(&format!("{ZONE}."), &shards)], &[(&format!("{REGISTRY}."), Ipv4Addr::LOCALHOST)]).await
    }

    /// Ends everything.
    pub async fn shutdown(self) {
        for node in self.nodes {
            node.node.shutdown().await;
        }
        self.registry.shutdown().await;
    }
}

/// The registry's directory, once it lists so many nodes.
async fn whole_directory(url: &str, root: PublicKey, count: usize) -> Bytes {
    loop {
        let answer = http::client().get(format!("{url}/v1/directory")).send().await.expect("an answer");
        let bytes = answer.bytes().await.expect("a body");
        let bundle = DirectoryBundle::decode(bytes.clone(), &[root].into(), now());
        if bundle.is_ok_and(|bundle| bundle.directory().nodes.len() == count) {
            return bytes;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The registry at an address, by its name.
pub fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint { url: format!("https://{REGISTRY}"), connect_to: Some(addr), ..Endpoint::default() }
}

/// The provider with this number, at an address.
pub fn provider(number: usize, addr: SocketAddr) -> Provider {
    Provider::new(format!("https://{}{}", PROVIDERS[number], dns::PATH), [addr])
}

/// A node's key that nobody has.
///
/// # Panics
/// The system has no random bytes.
pub fn nobody() -> SecretKey {
    SecretKey::generate().expect("a key")
}

/// Writes a cache in which these nodes have proved their keys.
///
/// # Panics
/// The file cannot be written.
pub async fn cache_of(path: &Path, root: PublicKey, nodes: &[(NodeId, String)]) {
    let cache = Cache::open(path, [root]).expect("a cache");
    for (node, url) in nodes {
        cache.record_proof(*node, &Candidate::new(url.clone(), Some(*node), SourceKind::Invite), now());
    }
    cache.flush().await;
}

/// Now.
pub fn now() -> UnixTime {
    SystemTime::now().into()
}
