//! A federation's keys, a registry, and nodes that answer dial-backs.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chappe_bootstrap::{Bootstrap, BootstrapConfig, StartError, keys};
use chappe_common::{
    directory::{DirectoryBundle, DirectoryError},
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    link_tls,
    list_request::{ListRequest, Load},
    record::{Abilities, NodeLeave, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A federation's keys, a registry's data folder, and a running registry.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) root: PublicKey,
    pub(crate) http: Client,
    pub(crate) registry: Option<Bootstrap>,
    pub(crate) base: String,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(alter: impl FnOnce(&mut BootstrapConfig)) -> Self {
        // Ignore the error if another test of this process has already installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = keys::create_federation(dir.path(), now()).expect("a new federation");
        let http = Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
        let mut fixture = Self { dir, root, http, registry: None, base: String::new() };
        let mut config = config(fixture.dir.path(), root);
        alter(&mut config);
        fixture.restart_with(config).await;
        fixture
    }

    pub(crate) async fn restart(&mut self) {
        self.restart_with(config(self.dir.path(), self.root)).await;
    }

    pub(crate) async fn restart_with(&mut self, config: BootstrapConfig) {
        if let Some(registry) = self.registry.take() {
            registry.shutdown().await;
        }
        let registry = Bootstrap::spawn(config).await.expect("a registry");
        self.base = format!("http://{}", registry.addr());
        self.registry = Some(registry);
    }

    /// Another registry of the same federation, with the same online key.
    pub(crate) async fn another(&self, alter: impl FnOnce(&mut BootstrapConfig)) -> (Bootstrap, String) {
        let mut config = config(self.dir.path(), self.root);
        config.bootstrap.data_dir = self.dir.path().join("another");
        alter(&mut config);
        let registry = Bootstrap::spawn(config).await.expect("another registry");
        let base = format!("http://{}", registry.addr());
        (registry, base)
    }

    /// The error of starting another registry.
    pub(crate) async fn another_fails(&self, alter: impl FnOnce(&mut BootstrapConfig)) -> StartError {
        let mut config = config(self.dir.path(), self.root);
        config.bootstrap.data_dir = self.dir.path().join("another");
        alter(&mut config);
        Bootstrap::spawn(config).await.expect_err("a registry that does not start")
    }

    pub(crate) fn federation(&self) -> FederationId {
        FederationId::of_roots(&[self.root])
    }

    pub(crate) async fn register(&self, record: &SignedRecord) -> (StatusCode, Value) {
        self.register_bytes(record.as_bytes().clone()).await
    }

    pub(crate) async fn register_bytes(&self, body: Bytes) -> (StatusCode, Value) {
        let response = self.http.post(format!("{}/v1/nodes", self.base)).body(body).send().await.expect("an answer");
        (response.status(), response.json().await.expect("JSON"))
    }

    pub(crate) async fn leave(&self, leave: &Signed<NodeLeave>) -> StatusCode {
        let url = format!("{}/v1/nodes", self.base);
        self.http.delete(url).body(leave.as_bytes().clone()).send().await.expect("an answer").status()
    }

    /// The full directory, requested by `key`.
    pub(crate) async fn ask_for_all(&self, key: &SecretKey, seq: u64, load: Load) -> Result<DirectoryBundle, String> {
        self.send_request(&self.list_request(key, seq, load)).await
    }

    pub(crate) fn list_request(&self, key: &SecretKey, seq: u64, load: Load) -> Signed<ListRequest> {
        let online = keys::load_secret_key(&self.dir.path().join(keys::ONLINE_KEY_FILE)).expect("a key");
        ListRequest::sign(self.federation(), online.public(), key, seq, load)
    }

    pub(crate) async fn send_request(&self, request: &Signed<ListRequest>) -> Result<DirectoryBundle, String> {
        let request = self.http.post(format!("{}/v1/directory", self.base)).body(request.as_bytes().clone());
        let response = request.send().await.expect("an answer");
        if response.status() != StatusCode::OK {
            let body: Value = response.json().await.expect("JSON");
            return Err(body["error"].as_str().expect("a code").to_owned());
        }
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.bytes().await.expect("a body");
        Ok(DirectoryBundle::decode(body, &[self.root].into(), now()).expect("a directory"))
    }

    pub(crate) async fn directory(&self) -> Result<DirectoryBundle, DirectoryError> {
        let response = self.http.get(format!("{}/v1/directory", self.base)).send().await.expect("an answer");
        assert_eq!(response.headers()["content-type"], "application/octet-stream");
        DirectoryBundle::decode(response.bytes().await.expect("a body"), &[self.root].into(), now())
    }

    pub(crate) async fn listed(&self) -> Vec<(u64, u64)> {
        match self.directory().await {
            Ok(bundle) => bundle.records(now()).map(|record| (record.epoch, record.seq)).collect(),
            Err(DirectoryError::Empty) => Vec::new(),
            Err(error) => panic!("the directory does not verify: {error}"),
        }
    }

    pub(crate) fn record(&self, node: &TestNode, epoch: u64, seq: u64) -> SignedRecord {
        self.record_at(&node.key, node.addr, epoch, seq)
    }

    pub(crate) fn record_at(&self, key: &SecretKey, addr: SocketAddr, epoch: u64, seq: u64) -> SignedRecord {
        let record = NodeRecord {
            federation: self.federation(),
            node: key.node_id(),
            epoch,
            seq,
            issued_at: now(),
            expires_at: now() + Duration::from_secs(600),
            client_urls: vec!["ws://127.0.0.1:4711".to_owned()],
            quic_addrs: vec![addr],
            region: "eu-west".to_owned(),
            version: "0.1.0".to_owned(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, key).expect("a record within its bounds")
    }

    pub(crate) fn leave_note(&self, node: &TestNode, epoch: u64, seq: u64) -> Signed<NodeLeave> {
        let leave = NodeLeave { federation: self.federation(), node: node.key.node_id(), epoch, seq, issued_at: now() };
        Signed::sign(leave, &node.key).expect("a leave within its bounds")
    }
}

/// A minimal node for dial-backs: a QUIC endpoint with the node's key.
pub(crate) struct TestNode {
    pub(crate) key: SecretKey,
    pub(crate) addr: SocketAddr,
    _accepting: JoinSet<()>,
}

impl TestNode {
    pub(crate) fn start(seed: u8) -> Self {
        Self::start_at(SecretKey::from_bytes(&[seed; 32]), ([127, 0, 0, 1], 0).into())
    }

    /// A node with this key, perhaps at an earlier address.
    pub(crate) fn start_at(key: SecretKey, addr: SocketAddr) -> Self {
        let crypto = link_tls::server_config(&key).expect("TLS parameters");
        let crypto = QuicServerConfig::try_from(crypto).expect("TLS parameters for QUIC");
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, addr).expect("a free port");
        let addr = endpoint.local_addr().expect("an address");
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            }
        });
        Self { key, addr, _accepting: accepting }
    }
}

pub(crate) fn now() -> UnixTime {
    SystemTime::now().into()
}

pub(crate) fn config(dir: &Path, root: PublicKey) -> BootstrapConfig {
    let mut config = BootstrapConfig::default();
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    config.bootstrap.data_dir = dir.join("data");
    config.federation.roots = vec![root];
    config.federation.delegation = dir.join(keys::DELEGATION_FILE);
    config.federation.online_key = dir.join(keys::ONLINE_KEY_FILE);
    config.federation.beacon = dir.join(keys::BEACON_FILE);
    config.times.dial = Duration::from_millis(500);
    config
}

pub(crate) fn millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("a time of these centuries")
}

/// Waits until `holds` returns true, for at most half a minute.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
