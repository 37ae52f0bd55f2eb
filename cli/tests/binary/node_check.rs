//! `chappe node check` with real files, ports and servers.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{
    Running, arg, chappe,
    federation::{init_registry, start_registry},
    finished, texts,
};

/// A config of `node init` on free ports of loopback.
fn node(registry: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("node.toml");
    let root = init_registry(&dir.path().join("bootstrap.toml"));
    let args = ["node", "init", "--config", arg(&config), "--registry", registry, "--root", &root];
    let more = ["--url", "ws://127.0.0.1:8710", "--advertise", "127.0.0.1:8711"];
    let made = finished(&[&args[..], &more].concat());
    assert!(made.status.success(), "{:?}", texts(&made));
    (dir, config)
}

/// Runs the check. Returns whether it succeeded, and its findings as `what level: found`.
fn check(config: &Path, settings: &[&str]) -> (bool, Vec<String>) {
    let free = ["client.listen=127.0.0.1:0", "federation.listen=127.0.0.1:0"];
    let settings = free.iter().chain(settings).flat_map(|setting| ["--set", setting]);
    let args = ["--json", "node", "check", "--system-resolver", "--config", arg(config)];
    let args: Vec<_> = args.into_iter().chain(settings).collect();
    let output = Running::start(&mut chappe(&args)).finish();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = texts(&output).0;
    let findings = findings.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let findings = findings.filter(|event| event["event"] == "check");
    let line = |event: Value| format!("{} {}: {}", text(&event["what"]), text(&event["level"]), text(&event["found"]));
    (output.status.success(), findings.map(line).collect())
}

/// Asserts that one of the findings begins with `start` and contains `part`.
#[track_caller]
fn has(findings: &[String], start: &str, part: &str) {
    assert!(findings.iter().any(|found| found.starts_with(start) && found.contains(part)), "{findings:#?}");
}

#[test]
fn a_fresh_node_has_no_problems() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let registry = dir.path().join("bootstrap.toml");
    init_registry(&registry);
    let (_registry, url) = start_registry(&registry);
    let (_dir, config) = node(&url);
    let (ok, findings) = check(&config, &[]);
    assert!(ok, "{findings:#?}");
    assert!(findings.iter().all(|found| !found.contains(" problem: ")), "{findings:#?}");
    has(&findings, "ports ok: 2 are free", "");
    has(&findings, "key ok: of node ", "");
    has(&findings, "registry ok: ", &url);
    has(&findings, "clock ok: ", "");
}

#[test]
fn each_mistake_is_found_with_its_key() {
    // Nothing listens at port 1.
    let (_dir, config) = node("http://127.0.0.1:1");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let addr = |addr: std::io::Result<std::net::SocketAddr>| addr.expect("an address").to_string();
    let key = config.with_file_name("node-data").join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a file of ours");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("a file of ours");
    let (ok, findings) = check(
        &config,
        &[
            &format!("client.listen={}", addr(taken.local_addr())),
            &format!("federation.listen={}", addr(taken_udp.local_addr())),
            "admin.listen=203.0.113.1:1",
            "client.urls=[\"wss://node.invalid\"]",
            "client.max_connections=100000000",
            &format!("client.tls_cert={}", arg(&config)),
            &format!("client.tls_key={}", arg(&key)),
            "client.page=/nonexistent/chappe.html",
        ],
    );
    assert!(!ok, "{findings:#?}");
    has(&findings, "ports warning: cannot listen on ", "(client.listen)");
    has(&findings, "ports warning: cannot listen on ", "(federation.listen)");
    has(&findings, "ports problem: cannot listen on 203.0.113.1:1 (admin.listen)", "");
    has(&findings, "open files warning: ", "client.max_connections is 100000000");
    has(&findings, "key problem: other users may read ", "node.key");
    has(&findings, "config file warning: other users may read it", "");
    has(&findings, "DNS problem: node.invalid: ", "");
    has(&findings, "files problem: client.page: cannot read /nonexistent/chappe.html", "");
    has(&findings, "certificate problem: ", "client.tls_cert");
    has(&findings, "registry problem: http://127.0.0.1:1: ", "");
}

#[test]
fn the_port_of_http_01_is_tried_if_the_node_would_listen_there() {
    let (_dir, config) = node("http://127.0.0.1:1");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = format!("client.acme.http_listen={}", taken.local_addr().expect("an address"));
    let acme = ["client.acme.enabled=true", "client.acme.terms_agreed=true", &listen];
    let (_, findings) = check(&config, &[&acme[..], &["client.urls=[\"wss://8.8.8.8:8710\"]"]].concat());
    has(&findings, "ports warning: cannot listen on ", "(client.acme.http_listen)");
    let (_, findings) = check(&config, &[&acme[..], &["client.urls=[\"wss://8.8.8.8\"]"]].concat());
    has(&findings, "ports ok: 2 are free", "");
}

#[test]
fn a_folder_of_everybody_is_a_problem_and_an_invalid_key_an_error() {
    let (dir, config) = node("http://127.0.0.1:1");
    let data = dir.path().join("node-data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).expect("a folder of ours");
    let (ok, findings) = check(&config, &[]);
    assert!(!ok, "{findings:#?}");
    has(&findings, "data folder problem: ", "everybody may write");
    for (setting, key) in [("times.idle=0s", "times.idle"), ("client.urls=[]", "client.urls")] {
        let invalid = finished(&["node", "check", "--config", arg(&config), "--set", setting]);
        assert!(texts(&invalid).1.contains(key), "{:?}", texts(&invalid));
    }
}

/// A real clock cannot be set here, so a server tells a wrong time.
#[test]
fn a_clock_that_differs_from_the_registry_s_is_a_problem() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let answer = "HTTP/1.1 200 OK\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    let (_dir, config) = node(&url);
    let (ok, findings) = check(&config, &[]);
    assert!(!ok, "{findings:#?}");
    has(&findings, "clock problem: this machine's clock is ", &format!("behind that of {url}"));
}
