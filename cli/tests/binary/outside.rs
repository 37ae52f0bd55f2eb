//! `chappe node doctor` has members try a node from outside, and names the transport that fails, who failed, and the fix.

use std::{
    net::{TcpListener, UdpSocket},
    process::Command,
};

use serde_json::Value;

use crate::process::{
    Running, arg, chappe,
    federation::{Federation, Listening},
    namespace::{run, run_inside},
    texts,
};

/// A free port of loopback.
fn free_addr() -> String {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    addr.expect("a free port").to_string()
}

/// Sets where the node and its doctor find each other.
fn with_addrs<'a>(command: &'a mut Command, client: &str, certificate: Option<&[String; 2]>) -> &'a mut Command {
    command.env("CHAPPE_CLIENT__LISTEN", client);
    if let Some([cert, key]) = certificate {
        command.env("CHAPPE_CLIENT__TLS_CERT", cert).env("CHAPPE_CLIENT__TLS_KEY", key);
    }
    command
}

/// The objects that `chappe node doctor` prints for the node with this number.
fn doctor(federation: &Federation, number: usize, admin: &str, client: &str) -> Vec<Value> {
    let config = federation.folder(number).join("node.toml");
    let mut command = chappe(&["--json", "node", "doctor", "--config", arg(&config)]);
    command.args(["--set", "federation.listen=127.0.0.1:8711"]).env("CHAPPE_ADMIN__LISTEN", admin);
    let output = Running::start(with_addrs(&mut command, client, None)).finish();
    let (stdout, stderr) = texts(&output);
    let lines: Vec<_> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!lines.is_empty(), "{stderr}");
    lines
}

/// The line on a transport.
#[track_caller]
fn line<'a>(lines: &'a [Value], transport: &str) -> &'a Value {
    let of = |line: &&Value| line["event"] == "outside" && line["transport"] == transport;
    lines.iter().find(of).unwrap_or_else(|| panic!("nothing about {transport} in {lines:#?}"))
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// Runs in the namespace.
fn inside() {
    run("nft", &["add", "table", "inet", "test"]);
    run("nft", &["add", "chain", "inet", "test", "input", "{ type filter hook input priority 0; }"]);
    // Links that are open before the rules that close ports go on.
    run("nft", &["add", "rule", "inet", "test", "input", "ct", "state", "established", "accept"]);
    let mut federation = Federation::start(2);
    let client = free_addr();
    let port = client.rsplit(':').next().expect("a port");
    let quic = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut command = federation.node(2);
    // The last setting of a key counts.
    command.args(["--set", &format!("federation.listen=127.0.0.1:{quic}")]);
    let node = Listening::start(with_addrs(&mut command, &client, None));
    node.wait_for("chappe_members", |members| members == 3);
    for (protocol, port) in [("tcp", port), ("udp", &quic.to_string())] {
        run("nft", &["add", "rule", "inet", "test", "input", protocol, "dport", port, "drop"]);
    }
    let lines = doctor(&federation, 2, &node.admin, &client);
    let tcp = line(&lines, "tcp");
    assert_eq!((&tcp["ok"], &tcp["error"]), (&false.into(), &"no answer".into()), "{tcp}");
    assert_eq!((count(&tcp["reached"]), count(&tcp["failed"])), (0, 2), "{tcp}");
    assert_eq!(tcp["target"], format!("ws://{client}"), "{tcp}");
    assert_eq!(tcp["firewall"], "nftables", "{tcp}");
    let command = format!("nft insert rule inet test input tcp dport {port} accept");
    assert_eq!(tcp["commands"], serde_json::json!([command]), "{tcp}");
    let udp = line(&lines, "quic");
    assert_eq!((&udp["ok"], &udp["error"]), (&false.into(), &"no answer".into()), "{udp}");
    let udp_command = format!("nft insert rule inet test input udp dport {quic} accept");
    assert_eq!(udp["commands"], serde_json::json!([udp_command]), "{udp}");
    assert_eq!(lines.iter().filter(|line| line["event"] == "path").count(), 2, "{lines:#?}");
    let verdict = lines.last().expect("a verdict");
    assert_eq!(verdict["tried_from"], "here and outside");
    assert!(verdict["problems"].to_string().contains("members do not reach the TCP for clients"), "{verdict}");
    // The commands are the fix.
    for command in [command, udp_command] {
        let words: Vec<_> = command.split(' ').collect();
        run(words[0], &words[1..]);
    }
    let lines = doctor(&federation, 2, &node.admin, &client);
    for transport in ["quic", "tcp", "client"] {
        let line = line(&lines, transport);
        assert_eq!((&line["ok"], count(&line["reached"]), count(&line["commands"])), (&true.into(), 2, 0), "{line}");
    }
    for process in federation.nodes.drain(..).chain([node.process]) {
        process.signal("TERM");
    }
}

#[test]
fn a_port_that_a_firewall_closes_is_named_with_the_command_that_opens_it() {
    run_inside("outside::a_port_that_a_firewall_closes_is_named_with_the_command_that_opens_it", inside);
}

#[test]
fn an_expired_certificate_is_named_and_a_node_that_does_not_listen() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = chappe_testkit::tls::Files::make_expired(dir.path());
    let certificate = [files.certificate(), files.key()].map(|path| arg(&path).to_owned());
    let federation = Federation::start(2);
    let client = free_addr();
    let node = Listening::start(with_addrs(&mut federation.node(2), &client, Some(&certificate)));
    node.wait_for("chappe_members", |members| members == 3);
    let lines = doctor(&federation, 2, &node.admin, &client);
    let tls = line(&lines, "tls");
    assert_eq!((&tls["ok"], &tls["error"]), (&false.into(), &"the certificate has expired".into()), "{tls}");
    assert!(tls["advice"].as_str().is_some_and(|advice| advice.contains("renew it")), "{tls}");
    assert_eq!((count(&tls["failed"]), count(&tls["commands"])), (2, 0), "{tls}");
    assert_eq!(line(&lines, "tcp")["ok"], true, "{lines:#?}");
    // Without the running node, or its listener for operators, the command says so.
    let not_asked = |admin: &str| {
        let lines = doctor(&federation, 2, admin, &client);
        let problem = lines.iter().find(|line| line["event"] == "outside_problem").expect("a remark");
        assert_eq!(lines.last().expect("a verdict")["tried_from"], "here");
        problem["error"].as_str().expect("a text").to_owned()
    };
    assert_eq!(not_asked("127.0.0.1:0"), "members were not asked: admin.listen is not set");
    assert!(not_asked(&free_addr()).starts_with("members were not asked: connection refused"));
}
