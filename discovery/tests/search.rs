//! Searches and dials against small stand-ins for a node and a registry, honest and not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    directory::{Delegation, Directory, DirectoryBundle, DirectoryError},
    federation::FederationId,
    keys::SecretKey,
    proof,
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    CauseError, Discovery,
    dial::{DialError, dial},
    net::Net,
    source::{Candidate, SourceError, SourceKind},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

const LIMIT: Duration = Duration::from_secs(20);

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

/// How a stand-in behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Signs with another key than it claims.
    Forges,
    /// Knows itself only by another URL.
    Renamed,
    /// Says nothing.
    Silent,
    /// Speaks a protocol of the future.
    Newer,
}

/// A node that proves its key and echoes what comes after; ends with the returned set.
async fn node(claims: u8, manner: Manner) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let endpoint = if manner == Manner::Renamed { "ws://relay.example".to_owned() } else { format!("{url}/") };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            if manner == Manner::Silent {
                tokio::time::sleep(LIMIT).await;
            }
            let mut socket = accept_async(stream).await.expect("a handshake");
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

fn pinned(url: &str, n: u8) -> Candidate {
    Candidate::new(url, Some(key(n).node_id()), SourceKind::Manual)
}

#[tokio::test]
async fn a_node_that_proves_the_pinned_key_is_connected_and_carries_texts() {
    let (url, _tasks) = node(1, Manner::Honest).await;
    let mut connection =
        timeout(LIMIT, dial(&pinned(&url, 1), &Net::default(), || {})).await.expect("in time").expect("a connection");
    assert_eq!(connection.node(), key(1).node_id());
    assert_eq!(connection.nonce(), &[5; 32]);
    connection.send("{\"type\":\"echo\"}".to_owned()).await.expect("sent");
    let text = timeout(LIMIT, connection.next()).await.expect("in time").expect("an answer");
    assert_eq!(text.as_str(), "{\"type\":\"echo\"}");
    timeout(LIMIT, connection.close()).await.expect("a close does not hang");
}

#[tokio::test]
async fn a_node_that_does_not_prove_the_expected_key_is_refused_with_the_reason() {
    for (manner, expected, error) in [
        (Manner::Honest, 2, DialError::OtherNode),
        (Manner::Forges, 1, DialError::Proof),
        (Manner::Renamed, 1, DialError::OtherUrl),
        (Manner::Silent, 1, DialError::Timeout),
        (Manner::Newer, 1, DialError::Version(2)),
    ] {
        let (url, _tasks) = node(1, manner).await;
        let refused = timeout(LIMIT, dial(&pinned(&url, expected), &Net::default(), || {})).await.expect("in time");
        assert_eq!(refused.map(|connection| connection.node()), Err(error));
    }
}

/// What a stand-in for a registry answers with.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

async fn registry(answer: Answer) -> (String, JoinSet<()>) {
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

/// The directory that `root` has delegated and that lists these nodes.
fn directory(root: u8, seq_ms_ago: u64, nodes: &[(u8, &str)]) -> Vec<u8> {
    let now = UnixTime::from(SystemTime::now());
    let root = key(root);
    let federation = FederationId::of_roots(&[root.public()]);
    let hour = Duration::from_secs(3600);
    let delegation =
        Delegation { federation, root: root.public(), key: key(50).public(), not_before: now, expires_at: now + hour };
    let records = nodes.iter().map(|(n, url)| {
        let record = NodeRecord {
            federation,
            node: key(*n).node_id(),
            epoch: 1,
            seq: 1,
            issued_at: now,
            expires_at: now + hour,
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
        seq: now.as_secs() * 1000 - seq_ms_ago,
        issued_at: now,
        expires_at: now + hour,
        shard: (0, 1),
        nodes: records.collect(),
    };
    let delegation = Signed::sign(delegation, &root).expect("a delegation");
    DirectoryBundle::sign(delegation, directory, &key(50)).expect("a directory").encode()
}

#[tokio::test]
async fn a_registry_leads_to_a_node_and_the_cache_to_it_again_when_the_registry_is_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    let (url, _node) = node(1, Manner::Honest).await;
    let endpoint = format!("{url}/");
    let body = directory(40, 0, &[(1, &endpoint), (2, "ws://127.0.0.1:9")]);
    let (registry_url, registry) = registry(Answer { status: 200, body }).await;
    let search = |urls: Vec<String>| {
        Discovery::builder().registry(urls, [key(40).public()]).cache(&cache).build().expect("a search")
    };
    let blocked = "http://127.0.0.1:9".to_owned();
    let found = timeout(LIMIT, search(vec![blocked, registry_url.clone()]).connect(&[])).await.expect("in time");
    assert_eq!(found.expect("a node").node(), key(1).node_id());
    drop(registry);
    let found = timeout(LIMIT, search(vec![registry_url]).connect(&[])).await.expect("in time");
    assert_eq!(found.expect("a node from the cache").node(), key(1).node_id());
}

#[tokio::test]
async fn what_a_registry_should_not_say_is_refused_with_the_reason() {
    let list = [(1, "ws://127.0.0.1:9")];
    for (status, body, error) in [
        (302, Vec::new(), SourceError::Status(302)),
        (200, vec![0; 600 * 1024], SourceError::TooLong),
        (200, directory(41, 0, &list), SourceError::Directory(DirectoryError::Root)),
        (200, directory(40, 0, &[]), SourceError::Directory(DirectoryError::Empty)),
    ] {
        let (url, _registry) = registry(Answer { status, body }).await;
        let search = Discovery::builder().registry([url], [key(40).public()]).build().expect("a search");
        let failed = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect_err("no node");
        assert_eq!(failed.causes[0].error, CauseError::Source(error));
    }
}

#[tokio::test]
async fn a_played_back_directory_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    for (ms_ago, rolled_back) in [(0, false), (60_000, true)] {
        let body = directory(40, ms_ago, &[(1, "ws://127.0.0.1:9")]);
        let (url, _registry) = registry(Answer { status: 200, body }).await;
        let search = Discovery::builder().registry([url], [key(40).public()]).cache(&cache).build().expect("a search");
        let failed = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect_err("no node");
        let refused = failed.causes[0].error == CauseError::Source(SourceError::RolledBack);
        assert_eq!(refused, rolled_back, "{failed}");
    }
}
