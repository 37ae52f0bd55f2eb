//! The servers that are measured: our node, alone or as one of several, and the floors.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    cores,
    floors::{Floor, Listening},
    generator::{Plan, Server, Speaks},
    tls::Files,
};
use crate::process::{Process, http, init};

/// Servers that do one job together.
#[derive(Debug)]
pub struct Servers {
    /// The processes, in the order of the addresses.
    pub processes: Vec<Process>,
    /// Their addresses for clients.
    pub addrs: Vec<SocketAddr>,
    speaks: Speaks,
    tls: Option<PathBuf>,
    _registry: Option<Process>,
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
        Self { processes: vec![process], addrs: vec![listening.addr], speaks, tls, _registry: None }
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
        Self { processes: vec![one, other], addrs, speaks: Speaks::Frames, tls: None, _registry: None }
    }

    /// Nodes of one federation, as they come but for the rates of loopback, with their state in `dir`. One alone is a
    /// federation of its own.
    ///
    /// # Panics
    /// They don't start, or don't find each other.
    pub async fn nodes(count: usize, tls: Option<&Path>, dir: &Path) -> Self {
        let mut federation = String::new();
        let mut registry = None;
        if count > 1 {
            let config = dir.join("bootstrap.toml");
            let root = init("bootstrap", &config, &[]).await["root"].as_str().expect("a key").to_owned();
            let args = ["bootstrap", "run", "--config", config.to_str().expect("a path"), "--set"];
            let local = ["http.listen=127.0.0.1:0", "--set", "limits.exempt=[\"127.0.0.0/8\"]"];
            let mut process = Process::start(&[&args[..], &local].concat());
            let url = process.line().await["registry"].as_str().expect("a URL").to_owned();
            let _ = write!(
                federation,
                "roots = [\"{root}\"]\nexempt = [\"127.0.0.0/8\"]\n[registry]\nurls = [\"{url}\"]\n"
            );
            registry = Some(process);
        }
        let mut servers = Self {
            processes: Vec::new(),
            addrs: Vec::new(),
            speaks: Speaks::Chappe,
            tls: tls.map(Path::to_owned),
            _registry: registry,
        };
        for number in 0..count {
            let config = dir.join(format!("node{number}.toml"));
            fs::write(&config, node_config(number, tls, &federation)).expect("a config file");
            let args = ["node", "run", "--config", config.to_str().expect("a path in UTF-8")];
            let mut process = Process::start_on(cores::SERVERS, &args);
            let ready = process.line().await;
            servers.addrs.push(ready["client_addr"].as_str().and_then(|addr| addr.parse().ok()).expect("an address"));
            servers.processes.push(process);
        }
        for addr in &servers.addrs {
            servers.wait_for_members(*addr, count).await;
        }
        servers
    }

    async fn wait_for_members(&self, addr: SocketAddr, count: usize) {
        if count == 1 {
            return;
        }
        let stats = format!("{}://{addr}/stats", if self.tls.is_some() { "https" } else { "http" });
        let http = http();
        let joined = async {
            loop {
                let answer = http.get(&stats).send().await.expect("an answer").text().await.expect("a body");
                let answer: Value = serde_json::from_str(&answer).expect("JSON");
                if answer["members"] == count {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(crate::PATIENCE, joined).await.expect("the nodes find each other in time");
    }

    /// What drives them.
    pub fn plan(&self) -> Plan {
        let servers = self.addrs.iter().map(|addr| Server { addr: *addr, speaks: self.speaks }).collect();
        Plan { servers, pids: self.processes.iter().map(Process::id).collect(), tls: self.tls.clone() }
    }

    /// The memory that they hold, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.processes.iter().map(Process::resident_kib).sum()
    }
}

async fn start(floor: &Floor) -> (Process, Listening) {
    let mut process = Process::start_own_on(cores::SERVERS, &["floor", &json!(floor).to_string()]);
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
