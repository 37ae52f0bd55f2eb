//! The node under attack: a real process, and what it says of itself.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::keys::SecretKey;
use reqwest::Client;
use tempfile::TempDir;

use crate::{
    ca::Ca,
    process::{Process, http, init},
};

/// A node, as a volunteer starts one, alone.
#[derive(Debug)]
pub struct Victim {
    process: Process,
    http: Client,
    metrics_url: String,
    log: PathBuf,
    /// Its URL for clients.
    pub url: String,
    /// Where that is.
    pub addr: SocketAddr,
    /// Its address for other nodes.
    pub quic: SocketAddr,
    /// Its id.
    pub id: String,
    _dir: TempDir,
}

impl Victim {
    /// Starts one; with a certificate by `ca`, if there is one.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start(ca: Option<&Ca>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("node.toml");
        init("node", &config, &["--root", &root().public().to_string()]).await;
        let mut settings = vec![
            "client.listen=127.0.0.1:0".to_owned(),
            "federation.listen=127.0.0.1:0".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            // Hostile nodes may come from the one address that there is; clients are limited as anywhere.
            "federation.exempt=[\"127.0.0.0/8\"]".to_owned(),
        ];
        if let Some(ca) = ca {
            let (certificate, key) = ca.issue(&[]);
            for (name, label, der) in
                [("tls_cert", "CERTIFICATE", certificate.as_ref()), ("tls_key", "PRIVATE KEY", key.secret_der())]
            {
                let path = dir.path().join(name);
                let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
                std::fs::write(&path, pem).expect("a writable folder");
                settings.push(format!("client.{name}={:?}", path.to_str().expect("a path in UTF-8")));
            }
        }
        let mut args = vec!["node", "run", "--config", config.to_str().expect("a path in UTF-8")];
        settings.iter().for_each(|setting| args.extend(["--set", setting.as_str()]));
        let log = dir.path().join("log");
        let mut process = Process::start_logged(&log, &args);
        let ready = process.line().await;
        let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
        Self {
            http: http(),
            metrics_url: text("admin_url") + "/metrics",
            url: text("client_url"),
            addr: text("client_addr").parse().expect("an address"),
            quic: text("quic_addr").parse().expect("an address"),
            log,
            process,
            id: text("id"),
            _dir: dir,
        }
    }

    /// Its counters, by the names that `/metrics` has, with their labels.
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

    /// The memory that it holds, in MiB.
    ///
    /// # Panics
    /// It has ended.
    pub fn resident_mib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
        let kib = self.process.resident_kib() as f64;
        kib / 1024.0
    }

    /// The processor time that it has used, in seconds.
    ///
    /// # Panics
    /// It has ended.
    pub fn cpu_seconds(&self) -> f64 {
        self.process.cpu_seconds()
    }

    /// Whether its log tells of a panic.
    pub fn has_panicked(&self) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains("panicked"))
    }
}

/// The root of the node's federation, of which a hostile node is a member.
pub fn root() -> SecretKey {
    SecretKey::from_bytes(&[0x42; 32])
}

/// The program that carries attacks out: this one, or the one beside a test.
///
/// # Panics
/// It hasn't been built.
pub fn flood_binary() -> PathBuf {
    crate::process::beside("flood")
}
