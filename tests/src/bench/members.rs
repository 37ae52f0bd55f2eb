//! Many members of one federation in one process: nodes as they come, without clients.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use chappe_common::keys::PublicKey;
use chappe_node::{Node, NodeConfig};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{sleep, timeout};

/// How many join at once: each shakes hands with all that are there, and one core has to do both ends.
const AT_ONCE: usize = 4;
/// How long one may take to.
const TO_JOIN: Duration = Duration::from_secs(30);

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
        let joining = stream::iter(0..members.count).map(|number| join(members, number));
        let nodes: Vec<Node> = joining.buffered(AT_ONCE).collect().await;
        println!("{}", json!({"started": nodes.len()}));
        std::future::pending::<()>().await;
    });
}

/// A node that knows all that were there before it began.
async fn join(members: &Members, number: usize) -> Node {
    let node = Node::spawn(config(members, number)).await.expect("a node that starts");
    // The one that is measured, and itself.
    let least = number.saturating_sub(AT_ONCE) + 2;
    let joined = async {
        while node.members() < least {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TO_JOIN, joined).await.expect("a node that joins in time");
    node
}

/// A hundred nodes on one core can't probe as a hundred machines do: every member of such a federation does it more
/// seldom, and waits for longer.
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
