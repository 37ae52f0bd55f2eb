//! The node under attack: a real process, its counters and its log.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use chappe_common::keys::SecretKey;
use chappe_harness::{
    accept_queue, cores,
    process::{self, Process, init},
};
use chappe_testkit::{http, tls::Files};
use reqwest::Client;
use tempfile::TempDir;

/// The node's bound on the leases of one of two members. An attacker can sign that many, and only one attack reaches
/// it.
pub const SHARE: u64 = 10_000;

/// A node, as a volunteer starts one.
#[derive(Debug)]
pub struct Victim {
    process: Process,
    http: Client,
    metrics_url: String,
    log: PathBuf,
    /// Its URL for clients.
    pub url: String,
    /// Its address for clients.
    pub addr: SocketAddr,
    /// Its address for links.
    pub quic: SocketAddr,
    /// Its id.
    pub id: String,
    /// The folder of its certificate, if it serves TLS.
    pub tls: Option<PathBuf>,
    _dir: TempDir,
}

impl Victim {
    /// Starts a node on its own core, with TLS or without.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start(with_tls: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("node.toml");
        init("node", &config, &["--root", &root().public().to_string()]).await;
        let mut settings = vec![
            "client.listen=127.0.0.1:0".to_owned(),
            "federation.listen=127.0.0.1:0".to_owned(),
            // A tenth of the default, which one attacker can't sign.
            "federation.new_leases_per_minute=60000".to_owned(),
            format!("federation.max_leases={}", 2 * SHARE),
            "admin.listen=127.0.0.1:0".to_owned(),
            // All hostile nodes share one address. Clients have the default limits.
            "federation.exempt=[\"127.0.0.0/8\"]".to_owned(),
        ];
        if with_tls {
            let files = Files::make(dir.path());
            settings.push(format!("client.tls_cert={:?}", files.certificate()));
            settings.push(format!("client.tls_key={:?}", files.key()));
        }
        let mut args = vec!["node", "run", "--config", config.to_str().expect("a path in UTF-8")];
        settings.iter().for_each(|setting| args.extend(["--set", setting.as_str()]));
        let log = dir.path().join("log");
        let mut process = Process::start_logged_on(cores::SERVERS, &log, &args);
        let ready = process.line().await;
        let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
        Self {
            http: http::client(),
            metrics_url: text("admin_url") + "/metrics",
            url: text("client_url"),
            addr: text("client_addr").parse().expect("an address"),
            quic: text("quic_addr").parse().expect("an address"),
            log,
            process,
            id: text("id"),
            tls: with_tls.then(|| dir.path().to_owned()),
            _dir: dir,
        }
    }

    /// Its counters from `/metrics`, by name with labels, without the prefix `chappe_`.
    ///
    /// # Panics
    /// It doesn't answer.
    pub async fn counters(&self) -> BTreeMap<String, f64> {
        let text = self.http.get(&self.metrics_url).send().await.expect("an answer").text().await.expect("a body");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ').map(|(name, value)| (name, value.parse()))).fold(
            BTreeMap::new(),
            |mut counters, (name, value)| {
                counters.insert(name.trim_start_matches("chappe_").to_owned(), value.unwrap_or(0.0));
                counters
            },
        )
    }

    /// Its process, for the kernel's counts.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// How many connections the kernel dropped because the node's accept queue was full.
    pub fn connections_dropped(&self) -> u64 {
        accept_queue::drops(&[self.addr]).unwrap_or(0)
    }

    /// Whether its log contains a panic.
    pub fn has_panicked(&self) -> bool {
        let log = std::fs::read(&self.log).expect("the node's log");
        String::from_utf8_lossy(&log).contains("panicked")
    }
}

/// The root key of the node's federation, which also admits hostile nodes.
pub fn root() -> SecretKey {
    SecretKey::from_bytes(&[0x42; 32])
}

/// The program that carries out attacks: this one, or the one that cargo has built with a test.
///
/// # Panics
/// It hasn't been built.
pub fn flood_binary() -> PathBuf {
    process::beside("flood")
}
