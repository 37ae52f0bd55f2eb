//! A node's pages for people and monitors.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

use crate::process::{
    self, PATIENCE, arg,
    federation::{Federation, Listening},
    finished, get, texts,
};

/// The head and the body of the response to a request with these header fields.
fn exchange(addr: &str, path: &str, fields: &str) -> (String, String) {
    let response = String::from_utf8(exchange_bytes(addr, path, fields)).expect("a text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

fn exchange_bytes(addr: &str, path: &str, fields: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n{fields}\r\n").expect("it takes a request");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("it answers");
    response
}

#[test]
fn a_browser_sees_what_the_node_is_and_a_contact_is_text_there() {
    let hostile = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";
    let federation = Federation::start(0);
    let mut command = federation.node(0);
    // In quotes, it is a text whatever is in it.
    command.args(["--set", &format!("node.contact={}", serde_json::to_string(hostile).expect("a text"))]);
    command.args(["--set", "node.abuse_contact=abuse@example.org"]);
    let node = Listening::start(&mut command);
    let (head, body) = exchange(&node.client, "/", "");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html; charset=utf-8"), "{head}");
    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(!body.contains("<script") && !body.contains("<img"), "{body}");
    assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && body.contains("abuse@example.org"), "{body}");
    assert!(body.contains("not a Tor exit") && body.contains("cannot read what it relays"), "{body}");
    // A client with another version of WebSocket learns of it.
    let (head, _) =
        exchange(&node.client, "/", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n");
    assert!(head.starts_with("http/1.1 426") && head.contains("sec-websocket-version: 13"), "{head}");
}

#[test]
fn a_contact_of_many_lines_is_refused_with_its_key() {
    let federation = Federation::start(0);
    drop(federation.node(0));
    let config = federation.folder(0).join("node.toml");
    for key in ["node.contact", "node.abuse_contact"] {
        for value in ["\"one\\ntwo\"", "\"\\u202Eabc\"", &format!("\"{}\"", "x".repeat(129))] {
            let set = format!("{key}={value}");
            let output = finished(&[
                "node",
                "run",
                "--config",
                arg(&config),
                "--set",
                &set,
                "--set",
                "client.listen=127.0.0.1:0",
            ]);
            assert_eq!(output.status.code(), Some(1));
            assert!(texts(&output).1.contains(&format!("{key}: at most 128 bytes")), "{:?}", texts(&output));
        }
    }
}

#[test]
fn monitors_learn_whether_the_node_lives_and_whether_it_accepts_clients() {
    let federation = Federation::start(0);
    let mut command = federation.node(0);
    let node = Listening::start(command.env("CHAPPE_TIMES__DRAIN", "3s"));
    for addr in [&node.client, &node.admin] {
        assert_eq!(get(addr, "/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(get(addr, "/readyz"), (200, "ok\n".to_owned()));
        assert_eq!(get(addr, "/health").0, 200);
    }
    // A client that stays lets the node drain.
    let mut session = TcpStream::connect(&node.client).expect("it listens");
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    session.write_all(upgrade.as_bytes()).expect("it takes a request");
    node.wait_for("chappe_sessions", |sessions| sessions == 1);
    node.process.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while get(&node.admin, "/readyz") != (503, "draining\n".to_owned()) {
        assert!(Instant::now() < deadline, "it does not drain");
    }
    assert_eq!(get(&node.admin, "/healthz"), (200, "ok\n".to_owned()), "it lives while it stops");
    assert!(node.process.finish().status.success());
}

#[test]
fn the_page_for_calls_is_served_only_if_it_is_configured_and_at_a_bounded_rate() {
    let federation = Federation::start(0);
    let without = Listening::start(&mut federation.node(0));
    for path in ["/call", "/call/", "/i"] {
        assert_eq!(get(&without.client, path).0, 404, "{path}");
    }
    drop(without);

    let file = federation.dir.path().join("chappe.html");
    std::fs::write(&file, "<!doctype html><title>a page</title>").expect("a folder");
    let with = |file: &std::path::Path| {
        let mut command = federation.node(0);
        command.args(["--set", &format!("client.page={}", arg(file))]);
        command
    };
    let node = Listening::start(&mut with(&file));
    let (head, _) = exchange(&node.client, "/call", "");
    let location = head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a place");
    assert!(location.starts_with("call/#root=") && location.contains("&registry=http%3a%2f%2f127.0.0.1"), "{location}");
    assert!(location.contains("&node=ws%3a%2f%2f127.0.0.1") && location.ends_with("&private"), "{location}");
    let compressed = "Accept-Encoding: br, gzip\r\n";
    let page = exchange_bytes(&node.client, "/call/", compressed);
    assert!(page.windows(3).any(|bytes| bytes == b"\x1f\x8b\x08"), "it is compressed");
    let head = String::from_utf8_lossy(&page);
    let head = head.split_once("\r\n\r\n").expect("a head").0;
    assert!(head.contains("content-security-policy: frame-ancestors 'none'"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let (known, body) = exchange(&node.client, "/i", &format!("If-None-Match: {etag}\r\n"));
    assert!(known.starts_with("http/1.1 304") && body.is_empty(), "{known}");
    // The larger form, which nobody needs, is not served.
    assert_eq!(get(&node.client, "/call/").0, 406);
    // A flood: what the burst allows, then refusals that are counted.
    let answers: Vec<bool> =
        (0..130).map(|_| exchange_bytes(&node.client, "/call/", compressed).starts_with(b"HTTP/1.1 503")).collect();
    assert!(answers.contains(&false) && answers.contains(&true), "{answers:?}");
    assert!(node.metric("chappe_call_pages_refused_total") > 0);

    drop(node);
    let large = federation.dir.path().join("large.html");
    std::fs::write(&large, vec![b'x'; (2 << 20) + 1]).expect("a folder");
    for (file, reason) in
        [(&large, "more than 2 MiB"), (&federation.dir.path().join("none.html"), "client.page: cannot read")]
    {
        let refused = process::Running::start(&mut with(file)).finish();
        assert!(texts(&refused).1.contains(reason), "{:?}", texts(&refused));
    }
}
