//! `chappe node run`: starts a node, reads its configuration again on SIGHUP, and stops it.

use std::net::SocketAddr;

use anyhow::{Error, Result};
use chappe_node::{Node, NodeConfig, PassedSockets};
use serde::Serialize;

use super::NodeLine;
use crate::{
    commands::daemon::{self, DaemonArgs, Wake, explain_start},
    explain,
    log::Log,
    open_files::OpenFiles,
    output::Output,
    service_manager::ServiceManager,
    signals::Signals,
};

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    #[serde(flatten)]
    node: NodeLine,
    /// The bound address, which differs from the URL's behind a proxy.
    client_addr: SocketAddr,
}

pub(super) async fn run(args: &DaemonArgs, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    let mut signals = Signals::for_daemon()?;
    let mut manager = ServiceManager::from_env();
    let config = load(args)?;
    log.set_filter(&config.node.log);
    warn_of_hidden_clients(&config);
    let node = Node::spawn_on(passed, config).await.map_err(explain_start)?;
    let line = NodeLine::of(&node);
    let client_addr = node.addrs().client;
    output.print(
        &format!("node {}\nlistening for clients on {client_addr}", line.text()),
        &Ready { event: "ready", node: line, client_addr },
    );
    manager.ready();
    let failure = loop {
        match daemon::wait(&mut signals, &mut manager, node.failed(), || status(&node)).await {
            Wake::Stop(failure) => break failure,
            Wake::Reload => {
                manager.reloading();
                if let Err(error) = reload(args, &node, log).await {
                    daemon::report_failed_reload(&error);
                }
                manager.ready();
            }
        }
    };
    output.print_text("stopping: sending clients to other nodes");
    manager.stopping("sending clients to other nodes");
    manager.alive_during(node.shutdown()).await;
    daemon::finish(output, failure)
}

/// Loads the configuration, and lowers the bounds that need more open files than this process may have.
fn load(args: &DaemonArgs) -> Result<NodeConfig> {
    let mut config: NodeConfig = args.load()?;
    let mut files = OpenFiles::raise();
    if config.turn.is_on() {
        // An allocation has a socket for each of its relayed addresses.
        let files_each = if config.turn.listen.iter().any(SocketAddr::is_ipv6) { 2 } else { 1 };
        config.turn.max_allocations = files.limit_allocations(config.turn.max_allocations, files_each);
        files = files.without(config.turn.max_allocations * files_each);
    }
    let connections = &mut config.client.max_connections;
    *connections = files.limit_connections("client.max_connections", *connections);
    Ok(config)
}

/// Reads the configuration again, and logs what has changed. On error, nothing has.
async fn reload(args: &DaemonArgs, node: &Node, log: &Log) -> Result<()> {
    let config = load(args)?;
    let changed = node.reload(&config).await.map_err(Error::new)?;
    daemon::report_reload(&changed, log, "node.log", &config.node.log);
    warn_of_hidden_clients(&config);
    Ok(())
}

fn warn_of_hidden_clients(config: &NodeConfig) {
    if let Some((problem, explained)) = explain::hidden_clients(config) {
        tracing::warn!("{problem}: {}; {}", explained.means, explained.advice);
    }
}

/// The status line of the service manager. It asks the parts of the node for their counts: if one of them is stuck, the
/// watchdog notices.
fn status(node: &Node) -> String {
    let stats = node.stats();
    format!("{} sessions, {} members, {} links", stats.sessions, stats.members, stats.links)
}
