//! The life of a node's relay for media: the protocols on its port, its metrics after many users, and its end.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_testkit::{
    PATIENCE,
    federation::Federation,
    raw::{Raw, inbox, now_ms},
    tls::Files,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::turn::{BINDING, allocate, ice_server, metrics, text, until_metric, with_turn};

/// A socket at an address that peers may have.
async fn peer() -> (UdpSocket, SocketAddr) {
    let peer = UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    let addr = peer.local_addr().expect("bound");
    (peer, addr)
}

/// Discards the packets that have arrived. Returns how many.
fn discard(peer: &UdpSocket) -> usize {
    let mut packet = [0; 100];
    std::iter::from_fn(|| peer.try_recv(&mut packet).ok()).count()
}

/// The times at which the packets that have arrived were sent, which are their contents.
fn sent_at(peer: &UdpSocket) -> Vec<Duration> {
    let mut micros = [0; 8];
    let received = std::iter::from_fn(|| peer.try_recv(&mut micros).ok().map(|len| (len, micros)));
    received.filter(|(len, _)| *len == 8).map(|(_, micros)| Duration::from_micros(u64::from_be_bytes(micros))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn media_goes_on_while_the_node_drains_and_ends_at_its_deadline() {
    const DRAIN: Duration = Duration::from_secs(3);
    let mut federation = Federation::start(1, |config| {
        with_turn(config);
        config.times.drain = DRAIN;
    })
    .await;
    // Its session ends at once, so that only the allocation keeps the node.
    let server = ice_server(Raw::connect(federation.nodes[0].client_url()).await).await;
    let turn = federation.nodes[0].addrs().turn.expect("it listens");
    let (_client, relayed) = allocate(&server, turn).await;
    let (peer, to) = peer().await;
    relayed.send_to(b"before", to).await.expect("it is sent");
    timeout(PATIENCE, peer.readable()).await.expect("in time").expect("a socket");

    let began = Instant::now();
    // When the packets that arrived were sent, since then.
    let mut arrived = Vec::new();
    let stopping = tokio::spawn(federation.nodes.remove(0).shutdown());
    while !stopping.is_finished() {
        assert!(began.elapsed() < PATIENCE, "the node stops");
        let sent = began.elapsed();
        let micros = u64::try_from(sent.as_micros()).expect("a short time");
        relayed.send_to(&micros.to_be_bytes(), to).await.expect("it is sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
        arrived.extend(sent_at(&peer));
    }
    stopping.await.expect("no panic");
    let took = began.elapsed();
    arrived.extend(sent_at(&peer));
    assert!(took >= DRAIN, "the running call was waited for: {took:?}");
    // A loaded machine may be late by a part of the drain.
    let last = *arrived.iter().max().expect("a packet");
    assert!((DRAIN / 4 * 3..DRAIN * 2).contains(&last), "media ends at the deadline: {last:?}");
    discard(&peer);
    for _ in 0..10 {
        // The system reports that nothing listens.
        let _ = relayed.send_to(b"after", to).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(discard(&peer), 0, "after the end");
    federation.shutdown().await;
}

/// What a node's port answers to these first bytes: its first 12 bytes, or fewer if it closes the connection. `None` if the
/// handshake fails.
async fn first_answer(addr: SocketAddr, files: &Files, alpn: &[&str], bytes: &[u8]) -> Option<String> {
    let mut tls = files.client();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let answering = async {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let mut stream = connector.connect("127.0.0.1".try_into().expect("an address"), stream).await.ok()?;
        stream.write_all(bytes).await.expect("it is sent");
        let mut answer = Vec::new();
        // A connection that is closed without an answer may end with an error.
        let _ = (&mut stream).take(12).read_to_end(&mut answer).await;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(PATIENCE, answering).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_protocol_of_the_handshake_decides_and_without_one_the_first_bytes() {
    const HTTP: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // On channels 0x4000 and 0x4745: the first two bytes of the latter are `GE`.
    const CHANNEL_DATA: &[u8] = b"\x40\0\0\x04data\r\n\r\n";
    const LIKE_GET: &[u8] = b"GE\0\x04data\r\n\r\n";
    let dir = tempfile::tempdir().expect("a folder");
    let files = Files::make(dir.path());
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    let client = federation.nodes[0].addrs().client;
    // The response to the Binding, up to the middle of its transaction.
    let bound = format!("\u{1}\u{1}\0\u{c}{}", String::from_utf8_lossy(&BINDING[4..12]));
    let [bound, ok, switched, bad] =
        [bound.as_str(), "HTTP/1.1 200", "HTTP/1.1 101", "HTTP/1.1 400"].map(|text| Some(text.to_owned()));
    let closed = Some(String::new());
    let (none, http, turn): (&[&str], &[&str], &[&str]) = (&[], &["h2", "http/1.1"], &["stun.turn"]);
    for (alpn, bytes, expected) in [
        (none, &BINDING[..], &bound),
        (none, HTTP, &ok),
        (none, UPGRADE, &switched),
        (none, CHANNEL_DATA, &bad),
        (none, LIKE_GET, &bad),
        (http, &BINDING, &bad),
        (http, HTTP, &ok),
        (http, UPGRADE, &switched),
        (http, CHANNEL_DATA, &bad),
        (turn, &BINDING, &bound),
        (&["http/1.1", "stun.turn"], &BINDING, &bound),
        (turn, HTTP, &closed),
        (turn, UPGRADE, &closed),
        (turn, CHANNEL_DATA, &closed),
        (&["h2"], HTTP, &None),
    ] {
        let answer = first_answer(client, &files, alpn, bytes).await;
        assert_eq!(answer, *expected, "{alpn:?}: {}", String::from_utf8_lossy(bytes));
    }
    // Three with the wrong protocol, and a failed handshake.
    until_metric(&federation, "chappe_client_handshakes_failed_total", 4).await;
    federation.shutdown().await;
}

/// The names of all series with their labels.
fn series(metrics: &str) -> BTreeSet<String> {
    let values = metrics.lines().filter(|line| !line.starts_with('#'));
    values.map(|line| line.rsplit_once(' ').expect("a name and a value").0.to_owned()).collect()
}

// Class 28 of docs/protocol/turn.md.
#[tokio::test(flavor = "multi_thread")]
async fn many_users_of_the_relay_add_no_series_to_the_metrics_and_no_label_names_them() {
    const USERS: usize = 30;
    let federation = Federation::start(1, with_turn).await;
    let turn = federation.nodes[0].addrs().turn.expect("it listens");
    let before = series(&metrics(&federation).await);
    let (_peer, to) = peer().await;
    let mut users = Vec::new();
    for _ in 0..USERS {
        let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
        raw.attach(&inbox(1).0, now_ms()).await;
        raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
        let server = raw.expect("ice_servers").await["iceServers"][0].clone();
        let (client, relayed) = allocate(&server, turn).await;
        // One peer is allowed, the other refused.
        relayed.send_to(b"media", to).await.expect("it is sent");
        assert!(relayed.send_to(b"no", SocketAddr::from(([10, 0, 0, 1], 1))).await.is_err());
        users.push((raw, server, client, relayed));
    }
    until_metric(&federation, "chappe_turn_allocations", USERS as u64).await;
    until_metric(&federation, "chappe_turn_packets_total", USERS as u64).await;
    let text_of_metrics = metrics(&federation).await;
    assert_eq!(series(&text_of_metrics), before);
    for (_, server, _, relayed) in &users {
        let name = text(server, "username");
        let random = name.rsplit(':').next().expect("a word");
        let port = relayed.local_addr().expect("an address").port().to_string();
        for secret in [name, random, text(server, "credential"), "127.0.0.", &format!("\"{port}\"")] {
            assert!(!text_of_metrics.contains(secret), "{secret}");
        }
    }
    federation.shutdown().await;
}
