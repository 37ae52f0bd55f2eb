//! A registry and nodes on loopback, in this process, with everything real between them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use chappe_bootstrap::{Bootstrap, BootstrapConfig};
use chappe_common::keys::PublicKey;
use chappe_discovery::tls;
use chappe_node::{Node, NodeConfig};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::eventually;

/// Exempts loopback, and so all clients of a test, from a node's limits.
///
/// # Panics
/// Never: the network is one.
pub fn no_limits(config: &mut NodeConfig) {
    config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
}

/// A registry and nodes that know each other.
#[derive(Debug)]
pub struct Federation {
    /// The running nodes. A test may remove one and stop it.
    pub nodes: Vec<Node>,
    registry: Option<Bootstrap>,
    registry_url: String,
    root: PublicKey,
    dir: TempDir,
}

impl Federation {
    /// Starts a registry and `count` nodes, each with its configuration changed by `change`; returns when every node
    /// knows all others.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(count: usize, change: impl Fn(&mut NodeConfig)) -> Self {
        let mut federation = Self::start_registry(|_| {}, tls::config()).await;
        for index in 0..count {
            let node = federation.start_node(index, &change).await;
            federation.nodes.push(node);
        }
        federation.settle().await;
        federation
    }

    /// Starts a registry without nodes, with its configuration changed by `change`. It trusts certificates that `tls` trusts.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_registry(change: impl FnOnce(&mut BootstrapConfig), tls: Arc<ClientConfig>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = chappe_bootstrap::keys::create_federation(dir.path(), SystemTime::now().into()).expect("keys");
        let mut config = BootstrapConfig::default();
        config.bootstrap.data_dir = dir.path().join("registry");
        config.http.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.federation.roots = vec![root];
        config.federation.delegation = dir.path().join(chappe_bootstrap::keys::DELEGATION_FILE);
        config.federation.online_key = dir.path().join(chappe_bootstrap::keys::ONLINE_KEY_FILE);
        config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
        config.admin.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
        change(&mut config);
        let registry = Bootstrap::spawn_trusting(config, tls).await.expect("a registry");
        let registry_url = format!("http://{}", registry.addr());
        Self { nodes: Vec::new(), registry: Some(registry), registry_url, root, dir }
    }

    /// The address of the registry's `/metrics` and `/hidden`.
    ///
    /// # Panics
    /// The registry is stopped.
    pub fn registry_admin(&self) -> SocketAddr {
        self.registry.as_ref().and_then(Bootstrap::admin_addr).expect("a running registry")
    }

    /// Starts a node with the data folder of that number. It is the same node as before if that folder was used before.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_node(&self, number: usize, change: impl Fn(&mut NodeConfig)) -> Node {
        Node::spawn(self.node_config(number, change)).await.expect("a node")
    }

    /// The configuration that [`Self::start_node`] starts a node with.
    pub fn node_config(&self, number: usize, change: impl Fn(&mut NodeConfig)) -> NodeConfig {
        let mut config = NodeConfig::default();
        config.node.data_dir = self.dir.path().join(format!("node{number}"));
        config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.federation.roots = vec![self.root];
        config.federation.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
        config.registry.urls = vec![self.registry_url()];
        config.times.drain = Duration::from_millis(500);
        change(&mut config);
        config
    }

    /// The registry's base URL.
    pub fn registry_url(&self) -> String {
        self.registry_url.clone()
    }

    /// The federation's root key.
    pub const fn root(&self) -> PublicKey {
        self.root
    }

    /// Stops the registry. The nodes keep running.
    pub async fn stop_registry(&mut self) {
        if let Some(registry) = self.registry.take() {
            registry.shutdown().await;
        }
    }

    /// Waits until every node has exactly the nodes of [`Self::nodes`] as members.
    pub async fn settle(&self) {
        let count = self.nodes.len();
        eventually("every node knows all others", || self.nodes.iter().all(|node| node.members() == count)).await;
    }

    /// Stops everything.
    pub async fn shutdown(mut self) {
        for node in std::mem::take(&mut self.nodes) {
            node.shutdown().await;
        }
        self.stop_registry().await;
    }
}
