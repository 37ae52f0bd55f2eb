//! The node's own WebSocket: as clients of every kind see it, plain and over TLS.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_testkit::{
    PATIENCE,
    ca::Ca,
    eventually,
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

/// A node with a certificate by `ca`.
async fn tls_node(ca: &Ca, dir: &tempfile::TempDir) -> Federation {
    let (certificate, key) = ca.issue(&[]);
    let pem = |label, der| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    let (cert_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_path, pem("CERTIFICATE", certificate.as_ref())).expect("a writable folder");
    std::fs::write(&key_path, pem("PRIVATE KEY", key.secret_der())).expect("a writable folder");
    Federation::start(1, |config| {
        no_limits(config);
        config.times.upgrade = Duration::from_millis(500);
        config.client.tls_cert = Some(cert_path.clone());
        config.client.tls_key = Some(key_path.clone());
    })
    .await
}

/// All that comes after these first words.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) -> String {
    stream.write_all(words).await.expect("sent");
    let mut answer = Vec::new();
    // A connection over TLS may end without its last word.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_everything_is_as_without() {
    let (ca, dir) = (Ca::new("theirs"), tempfile::tempdir().expect("a folder"));
    let federation = tls_node(&ca, &dir).await;
    let url = federation.nodes[0].client_url();
    assert!(url.starts_with("wss://127.0.0.1:"), "{url}");
    let (key, address) = inbox(1);
    let mut callee = Raw::connect_tls(url, ca.trusted()).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect_tls(url, ca.trusted()).await;
    for size in [0, 1, 1000, 20_000, 48 * 1024] {
        let payload = "x".repeat(size);
        caller.send(json!({"type": "call_ice", "to": address, "payload": payload, "id": "i"})).await;
        caller.expect_exactly(json!({"type": "delivered", "id": "i"})).await;
        callee.expect_exactly(json!({"type": "call_ice", "to": key.public().to_base64url(), "payload": payload})).await;
    }
    caller.send_frame(Message::Close(None)).await;
    assert_eq!(caller.close_code().await, None);
    let addr = federation.nodes[0].addrs().client;
    let connector = TlsConnector::from(ca.trusted());
    let tcp = TcpStream::connect(addr).await.expect("a connection");
    let tls = connector.connect(std::net::Ipv4Addr::LOCALHOST.into(), tcp).await.expect("a handshake");
    let health = answer(tls, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"healthy\""), "{health}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_tls_that_does_not_end_is_dropped_in_time() {
    let (ca, dir) = (Ca::new("theirs"), tempfile::tempdir().expect("a folder"));
    let federation = tls_node(&ca, &dir).await;
    let addr = federation.nodes[0].addrs().client;
    for first_words in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"] {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let since = Instant::now();
        answer(stream, first_words).await;
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    }
    assert_eq!(federation.nodes[0].stats().sessions, 0);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_for_one_request() {
    let federation = Federation::start(1, no_limits).await;
    let stream = TcpStream::connect(federation.nodes[0].addrs().client).await.expect("a connection");
    let requests = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
    let answers = answer(stream, requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_upgrade_gets_an_http_error() {
    let federation = Federation::start(1, no_limits).await;
    let addr = federation.nodes[0].addrs().client;
    let oversized = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (request, status) in [
        ("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "426"),
        ("GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        ("nonsense\r\n\r\n", "400"),
        (oversized.as_str(), "431"),
    ] {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let answer = answer(stream, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_senders_arrive_once_whole_and_each_senders_in_order() {
    const SENDERS: u8 = 8;
    const MESSAGES: usize = 300;
    let federation = Federation::start(2, no_limits).await;
    let (key, address) = inbox(1);
    let mut callee = Raw::connect(federation.nodes[0].client_url()).await;
    callee.attach(&key, now_ms()).await;
    // From both nodes at once; sizes that fill the socket, so that parts wait in the queue.
    let senders = (0..SENDERS).map(|sender| {
        let (url, address) = (federation.nodes[usize::from(sender) % 2].client_url().to_owned(), address.clone());
        tokio::spawn(async move {
            let mut raw = Raw::connect(&url).await;
            for number in 0..MESSAGES {
                let payload = format!("{sender} {number} {}", "x".repeat(number * 37 % 9000));
                raw.send(json!({"type": "call_ice", "to": address, "payload": payload, "id": "i"})).await;
                // A few are under way at any time.
                if number >= 4 {
                    raw.expect("delivered").await;
                }
            }
            for _ in 0..4 {
                raw.expect("delivered").await;
            }
        })
    });
    let sending = join_all(senders);
    let receiving = async {
        let mut next = [0; SENDERS as usize];
        for _ in 0..usize::from(SENDERS) * MESSAGES {
            let message = callee.next().await;
            let words: Vec<_> = message["payload"].as_str().expect("a text").splitn(3, ' ').collect();
            let [sender, number] = [0, 1].map(|word: usize| words[word].parse::<usize>().expect("a number"));
            assert_eq!((number, words[2].len()), (next[sender], number * 37 % 9000), "of sender {sender}");
            next[sender] += 1;
        }
    };
    let (sent, ()) = tokio::join!(sending, receiving);
    assert!(sent.into_iter().all(|sent| sent.is_ok()));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_framing_is_closed_with_the_reason() {
    let federation = Federation::start(1, no_limits).await;
    let addr = federation.nodes[0].addrs().client;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
                   13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Without a mask, binary with a reserved bit, text that is no UTF-8, parts without end.
    let no_mask: &[u8] = &[0x81, 1, b'x'];
    let reserved: &[u8] = &[0xC2, 0x80, 0, 0, 0, 0];
    let not_text: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, 0xFF];
    let parts = [&[0x01, 0x80, 0, 0, 0, 0][..], &[0x00, 0x80, 0, 0, 0, 0].repeat(100)].concat();
    for (frame, code) in [(no_mask, 1002_u16), (reserved, 1002), (not_text, 1007), (&parts, 1008)] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        // The frame stands right behind the request, as nobody has to wait for the answer to be rude.
        stream.write_all(&[upgrade.as_bytes(), frame].concat()).await.expect("sent");
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an end in time");
        let at = said.windows(4).rposition(|bytes| bytes[0] == 0x88 && bytes[2..] == code.to_be_bytes());
        assert!(at.is_some(), "no close frame with {code}: {}", String::from_utf8_lossy(&said));
    }
    eventually("nobody is left", || federation.nodes[0].stats().sessions == 0).await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_block_other_clients() {
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.max_connections = 8;
        config.times.upgrade = PATIENCE;
    })
    .await;
    let (addr, url) = (federation.nodes[0].addrs().client, federation.nodes[0].client_url());
    let mut silent = Vec::new();
    // Half of a request, all of one that is no upgrade, and nothing at all.
    for words in [&b"GET / HTTP/1.1\r\n"[..], b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b""].repeat(4) {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        // What had to make room may be gone already.
        let _ = stream.write_all(words).await;
        silent.push(stream);
    }
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(Raw::connect(url).await);
    }
    for session in &mut sessions {
        session.expect_silence().await;
    }
    drop(silent);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_to_a_full_node_is_closed_and_disturbs_nobody() {
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.max_connections = 8;
        // Longer than a stall of the machine, which would close honest connections.
        config.times.upgrade = Duration::from_secs(10);
    })
    .await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(Raw::connect(federation.nodes[0].client_url()).await);
    }
    // There is no room for more: one that says nothing is closed after `times.upgrade`.
    let mut late = TcpStream::connect(federation.nodes[0].addrs().client).await.expect("a connection");
    assert_eq!(timeout(PATIENCE, late.read(&mut [0])).await.expect("an end in time").unwrap_or(0), 0);
    for session in &mut sessions {
        session.expect_silence().await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_on_although_it_is_refused_is_closed() {
    let federation = Federation::start(1, |config| config.limits.messages_per_minute = 5).await;
    let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
    for _ in 0..5 {
        raw.expect_silence().await;
    }
    for _ in 0..6 {
        raw.send(json!({"type": "ping"})).await;
        raw.expect_error("rate_limited", "Rate limit exceeded. Please slow down.").await;
    }
    assert_eq!(raw.close_code().await, Some(1008));
    federation.shutdown().await;
}
