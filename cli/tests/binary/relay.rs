//! `chappe doctor` and `chappe node doctor` try a node's relay for media, and name the cause if it doesn't work.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

use crate::process::{
    Running, arg, chappe,
    federation::{Listening, run_node},
    finished,
    namespace::{run, run_inside},
    texts,
};

/// A node with a config file, on free ports of loopback.
struct RelayNode {
    config: PathBuf,
    node: Listening,
    turn: String,
    client: String,
    _dir: tempfile::TempDir,
}

impl RelayNode {
    /// Starts a node with these further keys of `[turn]`.
    fn start(turn_keys: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("node.toml");
        let made = finished(&["node", "init", "--config", arg(&config)]);
        assert!(made.status.success(), "{:?}", texts(&made));
        // The ports must be in the file: `node doctor` reads it too.
        let turn = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let client = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let (turn, client) = (turn.to_string(), client.to_string());
        let keys = turn_keys.replace("$TURN", &turn);
        let text = fs::read_to_string(&config).expect("a file");
        let text = text.replacen("[turn]", &format!("[turn]\n{keys}"), 1);
        fs::write(&config, text).expect("a writable folder");
        let mut command = run_node(&config);
        command.env("CHAPPE_CLIENT__LISTEN", &client);
        let node = Listening::start(&mut command);
        Self { config, node, turn, client, _dir: dir }
    }

    /// The objects that `chappe doctor` prints.
    fn doctor(&self) -> Vec<Value> {
        lines(&mut chappe(&["--json", "doctor", "--node", &self.node.address]))
    }

    /// The objects that `chappe node doctor` prints.
    fn node_doctor(&self) -> Vec<Value> {
        let mut command = chappe(&["--json", "node", "doctor", "--config", arg(&self.config)]);
        command.args(["--set", "federation.listen=127.0.0.1:8711"]);
        lines(command.env("CHAPPE_CLIENT__LISTEN", &self.client))
    }
}

fn lines(command: &mut Command) -> Vec<Value> {
    let output = Running::start(command).finish();
    let (stdout, stderr) = texts(&output);
    let lines: Vec<_> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!lines.is_empty(), "{stderr}");
    lines
}

/// The results for the relay: transport, whether it works, and the error.
fn results(lines: &[Value]) -> Vec<(String, bool, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let relay = lines.iter().filter(|line| line["event"] == "relay");
    relay
        .map(|line| {
            let is_explained = line["means"].is_string() && line["advice"].is_string();
            let is_ok = line["ok"] == true;
            assert_eq!(is_explained, !is_ok, "{line}");
            (text(&line["transport"]), is_ok, text(&line["error"]))
        })
        .collect()
}

const ON: &str = "listen = [\"$TURN\"]\nallowed_peers = [\"127.0.0.0/8\"]";

#[test]
fn a_working_relay_is_reported_for_each_transport() {
    let node = RelayNode::start(ON);
    let works = |transport: &str| (transport.to_owned(), true, String::new());
    for lines in [node.doctor(), node.node_doctor()] {
        assert_eq!(results(&lines), [works("udp"), works("tcp")]);
        assert!(lines.iter().filter(|line| line["event"] == "relay").all(|line| line["ms"].is_f64()));
    }
    let text = texts(&finished(&["doctor", "--node", &node.node.address])).0;
    assert!(text.contains(&format!("relay over UDP (turn:{}?transport=udp): works", node.turn)), "{text}");
    // The allocations were ended.
    node.node.wait_for("chappe_turn_allocations", |count| count == 0);
}

#[test]
fn a_relay_that_is_off_is_reported() {
    let node = RelayNode::start("");
    let doctor = results(&node.doctor());
    assert_eq!(doctor, [(String::new(), false, "the node offers no relay for media".to_owned())]);
    let node_doctor = results(&node.node_doctor());
    assert!(node_doctor[0].2.contains("turn.listen is empty"), "{node_doctor:?}");
}

#[test]
fn a_wrong_external_address_is_named() {
    let node = RelayNode::start(&format!("{ON}\nexternal = [\"203.0.113.7\"]"));
    let doctor = results(&node.doctor());
    assert_eq!(doctor[0].2, "the relay names the address 203.0.113.7, and answers at 127.0.0.1");
}

/// Runs in the namespace.
fn inside() {
    run("nft", &["add", "table", "inet", "test"]);
    let node = RelayNode::start(ON);
    let port = node.turn.rsplit(':').next().expect("a port").to_owned();
    let blocked = |hook: &str| {
        run("nft", &["add", "chain", "inet", "test", hook, &format!("{{ type filter hook {hook} priority 0; }}")]);
        run("nft", &["add", "rule", "inet", "test", hook, "udp", "dport", &port, "drop"]);
        let results = results(&node.doctor());
        run("nft", &["flush", "chain", "inet", "test", hook]);
        assert!(results[1].1, "TCP works: {results:?}");
        results[0].clone()
    };
    // On the way.
    assert_eq!(blocked("input"), ("udp".to_owned(), false, "no answer over UDP".to_owned()));
    // By this machine.
    let error = "this machine does not allow the packet out".to_owned();
    assert_eq!(blocked("output"), ("udp".to_owned(), false, error));
    node.node.process.signal("TERM");
}

#[test]
fn blocked_udp_is_named() {
    run_inside("relay::blocked_udp_is_named", inside);
}
