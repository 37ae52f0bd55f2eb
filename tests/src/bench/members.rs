//! Many members of one federation in one process: nodes as they come, without clients.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use chappe_common::keys::PublicKey;
use chappe_node::{Node, NodeConfig};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How many start at once: each asks the registry, and three others.
const AT_ONCE: usize = 8;

/// Which members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Members {
    /// The registry through which they find each other.
    pub registry: String,
    /// The root of their federation.
    pub root: PublicKey,
    /// How many.
    pub count: usize,
    /// The folder for their state.
    pub dir: PathBuf,
}

/// Runs them until the process is killed.
///
/// # Panics
/// One doesn't start.
pub fn run(members: &Members) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let started = stream::iter(0..members.count).map(|number| Node::spawn(config(members, number)));
        let nodes: Vec<Node> = started.buffer_unordered(AT_ONCE).try_collect().await.expect("nodes that start");
        println!("{}", json!({"started": nodes.len()}));
        std::future::pending::<()>().await;
    });
}

/// Three hundred nodes on one core can't probe as three hundred machines do: every member of such a federation does it
/// more seldom, and waits for longer.
pub(super) const PROBE_PERIOD: Duration = Duration::from_secs(10);
/// For an answer.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// Between exchanges of two members' views.
pub(super) const EXCHANGE_EVERY: Duration = Duration::from_secs(120);

fn config(members: &Members, number: usize) -> NodeConfig {
    let mut config = NodeConfig::default();
    config.node.data_dir = members.dir.join(format!("member{number}"));
    config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.federation.roots = vec![members.root];
    config.federation.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    config.membership.probe_period = PROBE_PERIOD;
    config.membership.probe_timeout = PROBE_TIMEOUT;
    config.membership.exchange_every = EXCHANGE_EVERY;
    config.registry.urls = vec![members.registry.clone()];
    config
}
