//! Small stand-ins for a node, a registry and a provider of DNS over HTTPS.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    directory::{Delegation, Directory, DirectoryBundle},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::SecretKey,
    proof,
    record::{Abilities, NodeRecord},
    shard::{Issue, ShardBundle},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::doh::Provider;
use futures_util::{SinkExt as _, StreamExt as _};
use hickory_proto::rr::{
    Name, RData, Record,
    rdata::{A, SOA, TXT},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

const FOREVER: Duration = Duration::from_secs(60);

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

/// How a stand-in node behaves.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    Honest,
    /// Signs with a key other than the one it claims.
    Forges,
    /// Accepts only another URL.
    Renamed,
    /// Sends nothing.
    Silent,
    /// Speaks a future protocol version.
    Newer,
}

/// A node that proves its key and echoes later messages. It stops when the returned set is dropped.
pub async fn node(claims: u8, manner: Manner) -> (String, JoinSet<()>) {
    node_at([127, 0, 0, 1], claims, manner).await
}

/// The same at a given loopback address, so that nodes can be in different networks.
pub async fn node_at(ip: [u8; 4], claims: u8, manner: Manner) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind((IpAddr::from(ip), 0)).await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let endpoint = if manner == Manner::Renamed { "ws://relay.example".to_owned() } else { format!("{url}/") };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            if manner == Manner::Silent {
                tokio::time::sleep(FOREVER).await;
            }
            // Other HTTP requests get no response.
            let Ok(mut socket) = accept_async(stream).await else { continue };
            let info = serde_json::json!({
                "type": "server_info",
                "serverId": key(claims).node_id().to_server_id(),
                "endpoint": endpoint,
                "region": null,
                "protocol": if manner == Manner::Newer { 2 } else { 1 },
                "nonce": STANDARD.encode([5; 32]),
                "limits": {},
            });
            socket.send(Message::text(info.to_string())).await.expect("the client listens");
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let request: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                let answer = if request["type"] != "prove" {
                    request
                } else if request["url"] != endpoint {
                    serde_json::json!({"type": "error", "code": "bad_message", "message": "", "id": request["id"]})
                } else {
                    let challenge = URL_SAFE_NO_PAD.decode(request["challenge"].as_str().expect("a text"));
                    let challenge = challenge.expect("base64url").try_into().expect("32 bytes");
                    let signer = key(if manner == Manner::Forges { 99 } else { claims });
                    let signature = proof::prove_node(&signer, &challenge, &[5; 32], &endpoint);
                    serde_json::json!({"type": "proof", "id": request["id"],
                        "signature": URL_SAFE_NO_PAD.encode(signature)})
                };
                if socket.send(Message::text(answer.to_string())).await.is_err() {
                    break;
                }
            }
        }
    });
    (url, tasks)
}

/// The response of a stand-in registry.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

pub async fn registry(answer: Answer) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 2048];
            let n = stream.read(&mut request).await.expect("a request");
            assert!(request[..n].starts_with(b"GET /v1/directory HTTP/1.1\r\n"));
            let head = format!(
                "HTTP/1.1 {} X\r\ncontent-length: {}\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n",
                answer.status,
                answer.body.len()
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&answer.body).await;
        }
    });
    (url, tasks)
}

const HOUR: Duration = Duration::from_secs(3600);

fn delegation(root: u8, now: UnixTime) -> Signed<Delegation> {
    let root = key(root);
    let federation = FederationId::of_roots(&[root.public()]);
    let (not_before, expires_at) = (now, now + HOUR);
    let delegation = Delegation { federation, root: root.public(), key: key(50).public(), not_before, expires_at };
    Signed::sign(delegation, &root).expect("a delegation")
}

/// A directory of these nodes under `root`, issued `seq_ms_ago` milliseconds ago.
pub fn directory(root: u8, seq_ms_ago: u64, nodes: &[(u8, &str)]) -> Vec<u8> {
    let now = UnixTime::from(SystemTime::now());
    directory_at(now, root, now.as_secs() * 1000 - seq_ms_ago, nodes)
}

/// The same with a given time and number.
pub fn directory_at(now: UnixTime, root: u8, seq: u64, nodes: &[(u8, &str)]) -> Vec<u8> {
    let federation = FederationId::of_roots(&[key(root).public()]);
    let records = nodes.iter().map(|(n, url)| {
        let record = NodeRecord {
            federation,
            node: key(*n).node_id(),
            epoch: 1,
            seq: 1,
            issued_at: now,
            expires_at: now + HOUR,
            client_urls: vec![(*url).to_owned()],
            quic_addrs: vec!["127.0.0.1:1".parse().expect("an address")],
            region: String::new(),
            version: "0".to_owned(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, &key(*n)).expect("a record").as_bytes().clone()
    });
    let directory = Directory {
        federation,
        key_id: key(50).public(),
        seq,
        issued_at: now,
        expires_at: now + HOUR,
        shard: (0, 1),
        nodes: records.collect(),
    };
    DirectoryBundle::sign(delegation(root, now), directory, &key(50)).expect("a directory").encode()
}

/// The shards of these nodes, as TXT texts.
pub fn shards(root: u8, nodes: &[(u8, &str)]) -> Vec<String> {
    let now = UnixTime::from(SystemTime::now());
    let endpoints = nodes.iter().map(|(n, url)| NodeEndpoint::new(key(*n).node_id(), url).expect("an endpoint"));
    let issue = Issue { seq: now.as_secs() * 1000, issued_at: now, expires_at: now + HOUR };
    let shards = ShardBundle::sign_all(&delegation(root, now), &endpoints.collect::<Vec<_>>(), issue, &key(50));
    shards.expect("shards").iter().map(ShardBundle::to_text).collect()
}

/// A provider of DNS over HTTPS for the zone `example.`. It stops when it is dropped.
pub struct Dns {
    pub provider: Provider,
    /// Trusts only the provider's certificate.
    pub trust: Arc<ClientConfig>,
    _server: Server<Catalog>,
}

fn name(text: &str) -> Name {
    let mut name: Name = text.parse().expect("a name");
    name.set_fqdn(true);
    name
}

/// TXT records for the name `of`.
pub fn txt(of: &str, texts: &[String]) -> Vec<Record> {
    let record = |text: &String| {
        let strings = chappe_common::shard::txt_strings(text).map(str::to_owned).collect();
        Record::from_rdata(name(of), 60, RData::TXT(TXT::new(strings)))
    };
    texts.iter().map(record).collect()
}

/// An A record for the name `of`.
pub fn a(of: &str, ip: [u8; 4]) -> Record {
    Record::from_rdata(name(of), 60, RData::A(A(ip.into())))
}

pub async fn dns(records: Vec<Record>) -> Dns {
    let origin = name("example");
    let mut zone = InMemoryZoneHandler::<hickory_server::net::runtime::TokioRuntimeProvider>::empty(
        origin.clone(),
        ZoneType::Primary,
        AxfrPolicy::Deny,
        None,
    );
    let soa = SOA::new(name("ns.example"), name("admin.example"), 1, 60, 60, 60, 60);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 1);
    for record in records {
        zone.upsert_mut(record, 1);
    }
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(zone)]);
    let made = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let secret = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], secret)
        .expect("a usable certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr: SocketAddr = listener.local_addr().expect("an address");
    let mut server = Server::new(catalog);
    let timeout = Duration::from_secs(5);
    server
        .register_https_listener_with_tls_config(listener, timeout, Arc::new(config), None, "/dns-query".to_owned())
        .expect("a listener");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let trust = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let provider = Provider::new("https://dns.example/dns-query", [addr]);
    Dns { provider, trust: Arc::new(trust), _server: server }
}
