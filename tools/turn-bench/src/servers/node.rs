//! A node, and this project's relay in the same process, on a thread of its own as in a node.

use std::{net::Ipv4Addr, thread};

use chappe_node::{Node, NodeConfig};
use tokio::runtime::Builder;

use super::chappe;

/// Starts a node on its own runtime. Returns its client URL.
///
/// # Panics
/// It doesn't start.
fn start(ip: Ipv4Addr, with_relay: bool) -> String {
    let (sender, url) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let mut config = NodeConfig::default();
            config.node.data_dir = dir.path().to_owned();
            config.client.listen = (ip, 0).into();
            config.federation.listen = (ip, 0).into();
            config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
            if with_relay {
                config.turn.listen = vec![(ip, 0).into()];
            }
            let node = Node::spawn(config).await.expect("a node");
            sender.send(node.client_url().to_owned()).expect("the caller waits");
            std::future::pending::<()>().await;
        });
    });
    url.recv().expect("a node")
}

/// Runs a node with a relay of its own, and a relay that knows the generator's secret.
pub(super) fn serve(ip: Ipv4Addr, with_relay: bool) {
    let url = start(ip, with_relay);
    chappe::serve(ip, Some(url));
}
