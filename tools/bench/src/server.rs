//! The measured servers: the node, alone or as one of several, and the floors.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use chappe_common::keys::SecretKey;
use chappe_harness::{
    cores, cpu,
    process::{Process, init},
};
use chappe_testkit::{http, members::Members, tls::Files};
use futures_util::future::join_all;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    driver::start_self_on,
    floors::{Floor, Listening},
    generator::{Plan, Server, Speaks},
};

/// How long nodes may take to find each other: hundreds of members on one core verify each other's records.
const TO_GATHER: Duration = Duration::from_secs(180);

/// The period over which [`settle`] measures CPU time.
const AT_REST: Duration = Duration::from_secs(5);

/// Servers that forward messages together.
#[derive(Debug)]
pub struct Servers {
    /// The processes, in the order of the addresses.
    pub processes: Vec<Process>,
    /// Their addresses for clients.
    pub addrs: Vec<SocketAddr>,
    speaks: Speaks,
    tls: Option<PathBuf>,
    /// Where the nodes of a federation list its members.
    admin: Vec<String>,
    /// Other processes that they need.
    others: Vec<Process>,
}

/// A registry, through which nodes find each other.
struct Registry {
    process: Process,
    url: String,
    root: String,
}

impl Registry {
    async fn start(dir: &Path) -> Self {
        let config = dir.join("bootstrap.toml");
        let root = init("bootstrap", &config, &[]).await["root"].as_str().expect("a key").to_owned();
        let args = ["bootstrap", "run", "--config", config.to_str().expect("a path"), "--set"];
        let local = ["http.listen=127.0.0.1:0", "--set", "limits.exempt=[\"127.0.0.0/8\"]"];
        let mut process = Process::start_on(cores::GENERATORS, &[&args[..], &local].concat());
        let url = process.line().await["registry"].as_str().expect("a URL").to_owned();
        Self { process, url, root }
    }
}

impl Servers {
    /// A floor.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn floor(floor: Floor) -> Self {
        let speaks = if floor == Floor::Bare { Speaks::Lengths } else { Speaks::Frames };
        let tls = if let Floor::Tls(dir) = &floor { Some(dir.clone()) } else { None };
        let (process, listening) = start(&floor).await;
        Self { processes: vec![process], addrs: vec![listening.addr], speaks, tls, ..Self::empty(None) }
    }

    /// Two floors, joined by a link.
    ///
    /// # Panics
    /// They don't start.
    pub async fn linked_floors(tls: &Path) -> Self {
        let tls = tls.to_owned();
        let (one, listening) = start(&Floor::Linked { tls: tls.clone(), peer: None }).await;
        let (other, joined) = start(&Floor::Linked { tls, peer: listening.link }).await;
        let addrs = vec![listening.addr, joined.addr];
        Self { processes: vec![one, other], addrs, speaks: Speaks::Frames, ..Self::empty(None) }
    }

    /// Nodes of one federation with the default settings, except that loopback is exempt from limits. Their state is in
    /// `dir`. A single node is a federation of its own.
    ///
    /// # Panics
    /// They don't start, or don't find each other.
    pub async fn nodes(count: usize, tls: Option<&Path>, dir: &Path) -> Self {
        let registry = if count > 1 { Some(Registry::start(dir).await) } else { None };
        let mut servers = Self::empty(tls);
        for number in 0..count {
            servers.add_node(number, tls, registry.as_ref(), dir).await;
        }
        servers.wait_for_members(count).await;
        servers.others.extend(registry.map(|registry| registry.process));
        servers
    }

    /// A node in a federation of `count` members. The others are simulated by one process and have no clients.
    ///
    /// # Panics
    /// They don't start, or don't find each other.
    pub async fn node_among(count: usize, dir: &Path) -> Self {
        let root = SecretKey::from_bytes(&rand::rng().random()).public();
        let mut servers = Self::empty(None);
        let config = dir.join("node.toml");
        fs::write(&config, node_config(0, None, &member_config(&root.to_string(), &[]))).expect("a config file");
        let ready = servers.start_node(&config).await;
        let node = serde_json::from_value(ready["id"].clone()).expect("an id");
        let quic = serde_json::from_value(ready["quic_addr"].clone()).expect("an address");
        let members = Members { root, count: count - 1, liars: 0, node, quic };
        let mut others = start_self_on(cores::GENERATORS, &["members", &json!(members).to_string()]);
        others.line_within(TO_GATHER).await;
        servers.wait_for_members(count).await;
        settle(others.id()).await;
        servers.others.push(others);
        servers
    }

    fn empty(tls: Option<&Path>) -> Self {
        Self {
            processes: Vec::new(),
            addrs: Vec::new(),
            speaks: Speaks::Chappe,
            tls: tls.map(Path::to_owned),
            admin: Vec::new(),
            others: Vec::new(),
        }
    }

    async fn add_node(&mut self, number: usize, tls: Option<&Path>, registry: Option<&Registry>, dir: &Path) {
        let config = dir.join(format!("node{number}.toml"));
        let federation = registry.map(|Registry { url, root, .. }| member_config(root, &[url]));
        fs::write(&config, node_config(number, tls, &federation.unwrap_or_default())).expect("a config file");
        self.start_node(&config).await;
    }

    /// Starts a node, and returns the line that it prints when it is ready.
    async fn start_node(&mut self, config: &Path) -> Value {
        let args = ["node", "run", "--config", config.to_str().expect("a path in UTF-8")];
        let mut process = Process::start_on(cores::SERVERS, &args);
        let ready = process.line().await;
        self.addrs.push(ready["client_addr"].as_str().and_then(|addr| addr.parse().ok()).expect("an address"));
        self.admin.extend(ready["admin_url"].as_str().map(str::to_owned));
        self.processes.push(process);
        ready
    }

    async fn wait_for_members(&self, count: usize) {
        let joined = async {
            while self.members().await.iter().any(|members| *members != count) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(TO_GATHER, joined).await.expect("the nodes find each other in time");
    }

    /// How many members each node has, itself among them.
    ///
    /// # Panics
    /// One doesn't answer.
    pub async fn members(&self) -> Vec<usize> {
        let http = http::client();
        let of_node = async |url: &String| {
            let answer = http.get(format!("{url}/members")).send().await.expect("an answer");
            let answer: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
            answer["members"].as_array().map_or(0, Vec::len)
        };
        join_all(self.admin.iter().map(of_node)).await
    }

    /// The plan for a generator of these servers.
    pub fn plan(&self) -> Plan {
        let servers = self.addrs.iter().map(|addr| Server { addr: *addr, speaks: self.speaks }).collect();
        Plan { servers, pids: self.processes.iter().map(Process::id).collect(), tls: self.tls.clone() }
    }

    /// Whether all their processes are running.
    pub fn are_whole(&mut self) -> bool {
        self.others.iter_mut().all(Process::is_running)
    }

    /// Their resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.processes.iter().map(Process::resident_kib).sum()
    }
}

/// Waits until a process uses less than half of a core.
async fn settle(pid: u32) {
    let at_rest = async {
        loop {
            let before = cpu::of_process(pid);
            sleep(AT_REST).await;
            if cpu::of_process(pid).saturating_sub(before) * 2 < AT_REST {
                break;
            }
        }
    };
    timeout(TO_GATHER, at_rest).await.expect("nodes that come to rest");
}

async fn start(floor: &Floor) -> (Process, Listening) {
    let mut process = start_self_on(cores::SERVERS, &["floor", &json!(floor).to_string()]);
    let listening = serde_json::from_value(process.line().await).expect("a floor that listens");
    (process, listening)
}

fn node_config(number: usize, tls: Option<&Path>, federation: &str) -> String {
    let tls = tls.map_or_else(String::new, |dir| {
        let files = Files::in_folder(dir);
        format!("tls_cert = {:?}\ntls_key = {:?}\n", files.certificate(), files.key())
    });
    format!(
        "[node]\ndata_dir = \"node{number}\"\n[client]\nlisten = \"127.0.0.1:0\"\nmax_connections = 19000\n{tls}\
         [limits]\nexempt = [\"127.0.0.0/8\"]\n[federation]\nlisten = \"127.0.0.1:0\"\n{federation}"
    )
}

/// The federation's part of a node's configuration.
fn member_config(root: &str, registries: &[&String]) -> String {
    format!(
        "roots = [\"{root}\"]\nexempt = [\"127.0.0.0/8\"]\n[registry]\nurls = {registries:?}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n"
    )
}
