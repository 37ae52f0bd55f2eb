//! The registry and the nodes: real processes, each with a config file, each node in its host's namespace.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use chappe_harness::process::{Process, init};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    relay::Relay,
    topology::{HostNumber, NETWORK, registry},
};

/// One host with its node.
#[derive(Debug)]
pub struct Host {
    /// Its number.
    pub number: HostNumber,
    /// Its node's id.
    pub id: String,
    process: Option<Process>,
    _relay: Relay,
}

impl Host {
    /// Whether its node runs.
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The URL for clients.
    pub fn client_url(&self) -> String {
        format!("ws://{}:8710", self.number.addr())
    }

    /// The URL that lists the members that its node knows.
    pub fn members_url(&self) -> String {
        format!("http://{}:8712/members", self.number.addr())
    }

    /// Sends its node a signal.
    ///
    /// # Panics
    /// It doesn't run.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("a running node").signal(name);
    }
}

/// All hosts, and the registry.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts, by number.
    pub hosts: Vec<Host>,
    _registry: Process,
    dir: TempDir,
}

impl Fleet {
    /// Starts a registry, and a node and a relay for each host, all nodes at once.
    ///
    /// # Panics
    /// One of them doesn't start.
    pub async fn start(count: u8, latency: Range<Duration>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("bootstrap.toml");
        let root = init("bootstrap", &config, &[]).await["root"].as_str().expect("a key").to_owned();
        let listen = format!("http.listen={}", registry());
        let exempt = format!("limits.exempt=[\"{NETWORK}\"]");
        let config = config.to_str().expect("a path in UTF-8");
        let mut registry_process =
            Process::start(&["bootstrap", "run", "--config", config, "--set", &listen, "--set", &exempt]);
        registry_process.line().await;
        let mut hosts = Vec::new();
        for number in HostNumber::first(count) {
            let relay = Relay::start(number.relay(), number.node(), number.relay_inside(), latency.clone()).await;
            let folder = dir.path().join(number.namespace());
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("node.toml"), node_config(number, &root)).expect("a config file");
            hosts.push(Host { number, id: String::new(), process: None, _relay: relay });
        }
        let mut fleet = Self { hosts, _registry: registry_process, dir };
        for index in 0..fleet.hosts.len() {
            fleet.spawn(index);
        }
        for index in 0..fleet.hosts.len() {
            fleet.ready(index).await;
        }
        fleet
    }

    /// Starts the node of a host, with its previous state if there is one. Returns when it listened.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn restart(&mut self, index: usize) -> Instant {
        self.spawn(index);
        self.ready(index).await
    }

    /// Kills the node of a host with SIGKILL. Returns when.
    ///
    /// # Panics
    /// It doesn't run.
    pub async fn kill(&mut self, index: usize) -> Instant {
        let process = self.hosts[index].process.take().expect("a running node");
        let since = Instant::now();
        process.kill().await;
        since
    }

    fn spawn(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let folder: PathBuf = self.dir.path().join(host.number.namespace());
        let config = folder.join("node.toml");
        let args = ["node", "run", "--config", config.to_str().expect("a path in UTF-8")];
        host.process = Some(Process::start_in(&host.number.namespace(), &folder.join("log"), &args));
    }

    async fn ready(&mut self, index: usize) -> Instant {
        let host = &mut self.hosts[index];
        let line = host.process.as_mut().expect("a node that was started").line().await;
        host.id = line["id"].as_str().expect("an id").to_owned();
        Instant::now()
    }
}

fn node_config(number: HostNumber, root: &str) -> String {
    let addr = number.addr();
    format!(
        "[node]\ndata_dir = \"data\"\nregion = \"{name}\"\n\n\
         [client]\nlisten = \"{addr}:8710\"\n\n\
         [federation]\nroots = [\"{root}\"]\nlisten = \"{node}\"\nadvertise = [\"{relay}\"]\n\n\
         [registry]\nurls = [\"http://{registry}\"]\n\n\
         [admin]\nlisten = \"{addr}:8712\"\n\n\
         [limits]\nexempt = [\"{NETWORK}\"]\noffers_per_minute = 100000\nmessages_per_minute = 100000\n",
        name = number.namespace(),
        node = number.node(),
        relay = number.relay(),
        registry = registry(),
    )
}
