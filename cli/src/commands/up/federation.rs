//! A registry and nodes in this process, started from config files.

use std::{
    fs,
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_bootstrap::{Bootstrap, BootstrapConfig, keys};
use chappe_common::{
    keys::{NodeId, PublicKey},
    task_failure::TaskFailure,
};
use chappe_node::{Node, NodeConfig};
use futures_util::{
    FutureExt as _,
    future::{join_all, select_all},
};
use tokio::time::{Instant, sleep, timeout};

use super::NodeLine;
use crate::{
    commands::{daemon::explain_start, init::toml_list},
    config::{Environment, Setting, load},
    open_files::OpenFiles,
};

/// How long the nodes may take to find each other. Twenty nodes take a second or two.
const SETTLING: Duration = Duration::from_secs(30);
/// How often this is checked.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time limit for stopping: a little more than the nodes' own deadlines.
const STOPPING: Duration = Duration::from_secs(15);
/// Ports of one node: clients, links, metrics.
const PORTS_PER_NODE: u16 = 3;

const REMARK: &str = "# Written by `chappe up` at each start. For your own node: chappe node init\n";

/// The ports: consecutive ones, or free ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    first: Option<u16>,
}

impl Ports {
    /// Consecutive ports from `first` on, for the registry and `nodes` nodes.
    pub(super) fn new(first: Option<u16>, nodes: u8) -> Result<Self> {
        let Some(port) = first.filter(|port| *port != 0) else { return Ok(Self { first: None }) };
        let count = 1 + PORTS_PER_NODE * u16::from(nodes);
        if port.checked_add(count - 1).is_none() {
            bail!("--port {port}: {count} ports are needed, and the last is 65535");
        }
        Ok(Self { first })
    }

    fn registry(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first.unwrap_or(0)).into()
    }

    fn node(self, index: u8, which: u16) -> SocketAddr {
        let port = self.first.map_or(0, |first| first + 1 + PORTS_PER_NODE * u16::from(index) + which);
        (Ipv4Addr::LOCALHOST, port).into()
    }
}

/// The daemons that were started so far.
#[derive(Debug, Default)]
pub(super) struct Federation {
    registry: Option<(Bootstrap, PublicKey)>,
    nodes: Vec<Node>,
}

impl Federation {
    /// Starts everything in `dir`. Waits until every node knows all others, and the directory lists them.
    pub(super) async fn start(&mut self, dir: &Path, count: u8, ports: &Ports, settings: &[Setting]) -> Result<()> {
        let files = OpenFiles::raise();
        let registry = start_registry(&dir.join("registry"), *ports).await?;
        let (registry, root) = self.registry.insert(registry);
        let url = format!("http://{}", registry.addr());
        for index in 0..count {
            let folder = dir.join(format!("node-{}", index + 1));
            let file = folder.join("node.toml");
            let text = node_config(index, *ports, &url, *root);
            make(&folder)?;
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            let mut config: NodeConfig = load(&file, Environment::Read, settings)?;
            let connections = &mut config.client.max_connections;
            // There are no other clients.
            *connections = files.connections_per_daemon(usize::from(count) + 1).min(*connections);
            let node = Node::spawn(config).await.map_err(explain_start);
            self.nodes.push(node.with_context(|| format!("node {} does not start", index + 1))?);
        }
        self.settle().await
    }

    async fn settle(&self) -> Result<()> {
        let count = self.nodes.len();
        let deadline = Instant::now() + SETTLING;
        loop {
            let listed = self.registry.as_ref().map_or(0, |(registry, _)| registry.listed());
            if listed == count && self.nodes.iter().all(|node| node.members() == count) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let fewest = self.nodes.iter().map(Node::members).min().unwrap_or(0);
                return Err(anyhow!(
                    "the federation is not complete: {listed} of {count} nodes are in the directory, and one \
                                         node knows only {fewest} of {count}"
                ));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether a daemon was started.
    pub(super) const fn is_started(&self) -> bool {
        self.registry.is_some()
    }

    pub(super) fn lines(&self) -> Vec<NodeLine> {
        self.nodes.iter().map(NodeLine::of).collect()
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(Node::id).collect()
    }

    pub(super) fn registry_url(&self) -> String {
        self.registry.as_ref().map_or_else(String::new, |(registry, _)| format!("http://{}", registry.addr()))
    }

    pub(super) fn root(&self) -> PublicKey {
        self.registry.as_ref().map_or_else(|| PublicKey::from_bytes([0; 32]), |(_, root)| *root)
    }

    /// Waits until a task of a daemon ends by itself, which should not happen.
    pub(super) async fn failed(&mut self) -> TaskFailure {
        let registry = async {
            match &mut self.registry {
                Some((registry, _)) => registry.failed().await,
                None => pending().await,
            }
        };
        let nodes = async {
            match self.nodes.as_slice() {
                [] => pending().await,
                nodes => select_all(nodes.iter().map(|node| node.failed().boxed())).await.0,
            }
        };
        tokio::select! {
            biased;
            failure = registry => failure,
            failure = nodes => failure,
        }
    }

    /// Stops the nodes, which revoke their records, and then the registry.
    pub(super) async fn shutdown(self) {
        let stop = async {
            join_all(self.nodes.into_iter().map(Node::shutdown)).await;
            if let Some((registry, _)) = self.registry {
                registry.shutdown().await;
            }
        };
        if timeout(STOPPING, stop).await.is_err() {
            tracing::warn!("not everything stopped before the deadline");
        }
    }
}

async fn start_registry(folder: &Path, ports: Ports) -> Result<(Bootstrap, PublicKey)> {
    make(folder)?;
    let root_file = folder.join(keys::ROOT_KEY_FILE);
    let root = if root_file.exists() {
        keys::load_secret_key(&root_file)?.public()
    } else {
        keys::create_federation(folder, SystemTime::now().into())?
    };
    let file = folder.join("bootstrap.toml");
    let text = format!(
        "{REMARK}\n[bootstrap]\ndata_dir = \"data\"\n\n[http]\nlisten = \"{}\"\n\n[federation]\nroots = {}\n",
        ports.registry(),
        toml_list([root])
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    // The environment and --set are for the nodes.
    let config: BootstrapConfig = load(&file, Environment::Ignored, &[])?;
    let registry = Bootstrap::spawn(config).await.map_err(explain_start).context("the registry does not start")?;
    Ok((registry, root))
}

/// Maximal number of clients of each node. All nodes share the file limit of one process.
const MAX_CONNECTIONS: usize = 1000;

fn node_config(index: u8, ports: Ports, registry: &str, root: PublicKey) -> String {
    format!(
        "{REMARK}\n[node]\ndata_dir = \".\"\n\n[client]\nlisten = \"{}\"\n\
         max_connections = {MAX_CONNECTIONS}\n\n[federation]\nlisten = \"{}\"\n\
         roots = {}\nexempt = [\"127.0.0.0/8\"]\n\n[registry]\nurls = {}\n\n[admin]\nlisten = \"{}\"\n",
        ports.node(index, 0),
        ports.node(index, 1),
        toml_list([root]),
        toml_list([registry]),
        ports.node(index, 2),
    )
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))
}
