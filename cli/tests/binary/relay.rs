//! `chappe doctor` and `chappe node doctor` try a node's relay for media, and name the cause if it doesn't work.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::{Listening, run_node},
    finished, get,
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
        Self::start_with(turn_keys, "urls = []")
    }

    /// Starts a node with these keys of `[turn]` and `[client]`.
    fn start_with(turn_keys: &str, client_keys: &str) -> Self {
        Self::start_by(turn_keys, client_keys, &[])
    }

    /// Starts a node with these settings in addition.
    fn start_by(turn_keys: &str, client_keys: &str, settings: &[(&str, &str)]) -> Self {
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
        let text = text.replacen("urls = []", &client_keys.replace("$CLIENT", &client), 1);
        fs::write(&config, text).expect("a writable folder");
        let mut command = run_node(&config);
        command.env("CHAPPE_CLIENT__LISTEN", &client).envs(settings.iter().copied());
        let node = Listening::start(&mut command);
        Self { config, node, turn, client, _dir: dir }
    }

    /// The objects that `chappe doctor` prints.
    fn doctor(&self) -> Vec<Value> {
        lines(&mut chappe(&["--json", "doctor", "--node", &self.node.address]))
    }

    /// The objects that `chappe node doctor` prints.
    fn node_doctor(&self) -> Vec<Value> {
        lines(&mut self.node_doctor_command())
    }

    /// The same, with the running node's `admin.listen`.
    fn node_doctor_with_admin(&self) -> Vec<Value> {
        lines(self.node_doctor_command().env("CHAPPE_ADMIN__LISTEN", &self.node.admin))
    }

    fn node_doctor_command(&self) -> Command {
        let mut command = chappe(&["--json", "node", "doctor", "--config", arg(&self.config)]);
        command.args(["--set", "federation.listen=127.0.0.1:8711"]).env("CHAPPE_CLIENT__LISTEN", &self.client);
        command
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
    for lines in [node.doctor(), node.node_doctor()] {
        assert_eq!(results(&lines), [works("udp"), works("tcp")]);
        assert!(lines.iter().filter(|line| line["event"] == "relay").all(|line| line["ms"].is_f64()));
    }
    let text = texts(&finished(&["doctor", "--node", &node.node.address])).0;
    assert!(text.contains(&format!("relay over UDP (turn:{}?transport=udp): works", node.turn)), "{text}");
    // The allocations were ended.
    node.node.wait_for("chappe_turn_allocations", |count| count == 0);
}

/// A WebSocket that a client keeps open.
fn hold_session(node: &RelayNode) -> TcpStream {
    let mut client = TcpStream::connect(&node.client).expect("it listens");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).expect("it is sent");
    node.node.wait_for("chappe_sessions", |sessions| sessions == 1);
    client
}

#[test]
fn a_relay_that_drains_or_has_stopped_is_reported() {
    let node = RelayNode::start_by(ON, "urls = []", &[("CHAPPE_TIMES__DRAIN", "30s")]);
    let session = hold_session(&node);
    node.node.process.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while get(&node.node.admin, "/health").1.contains("\"relay\":\"open\"") {
        assert!(Instant::now() < deadline, "the node is stopping");
        sleep(Duration::from_millis(50));
    }
    // The relay still answers STUN. The node accepts no connections, and says why at its admin.listen.
    let draining = "the node is stopping: its relay makes no new allocations".to_owned();
    let lines = node.node_doctor_with_admin();
    assert_eq!(results(&lines), [(String::new(), false, draining.clone())]);
    assert!(concludes(&lines, &draining), "{lines:#?}");
    // A client cannot find the reason.
    assert!(concludes(&node.doctor(), "no node was found"));
    drop(session);

    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&node.node.admin).is_ok() {
        assert!(Instant::now() < deadline, "the node stops");
        sleep(Duration::from_millis(50));
    }
    let results = results(&node.node_doctor_with_admin());
    assert!(results[0].2.contains(&format!("{} (turn.listen): ", node.turn)), "{results:?}");
    assert_eq!(results[1].2, "the node does not run");
}

#[test]
fn a_relay_over_its_budget_is_reported() {
    run_inside("relay::a_relay_over_its_budget_is_reported", || {
        // Far from the end of a month.
        let day: u32 = run("date", &["-u", "+%d"]).trim().parse().expect("a day");
        let first_day = if (8..22).contains(&day) { "1" } else { "15" };
        let budget = [
            ("CHAPPE_BUDGET__MONTHLY_BYTES", "1000000000"),
            ("CHAPPE_BUDGET__INTERFACES", "[\"lo\"]"),
            ("CHAPPE_BUDGET__FIRST_DAY", first_day),
        ];
        let node = RelayNode::start_by(ON, "urls = []", &budget);
        assert_eq!(results(&node.doctor()), [works("udp"), works("tcp")]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // Each packet counts as sent and received: 92 %.
        for _ in 0..920_000_000 / 2 / 60_000 {
            // Nobody reads them.
            let _ = socket.send_to(&[0; 60_000], socket.local_addr().expect("bound"));
        }
        node.node.wait_for("chappe_budget_level", |level| level == 1);
        let paused = "the budget of the month is nearly used up: the relay makes no new allocations".to_owned();
        for lines in [node.doctor(), node.node_doctor()] {
            assert_eq!(results(&lines), [(String::new(), false, paused.clone())]);
            assert!(concludes(&lines, &paused), "{lines:#?}");
        }
    });
}

const NO_ADDRESS: &str = "the relay does not know its external address: it makes no allocations";

#[test]
fn a_relay_that_does_not_know_its_address_is_reported_also_beside_another_server() {
    // Members would tell the address, and there are none.
    let on = "listen = [\"0.0.0.0:0\"]";
    let node = RelayNode::start(on);
    let lines = node.doctor();
    assert_eq!(results(&lines), [(String::new(), false, NO_ADDRESS.to_owned())]);
    assert!(concludes(&lines, NO_ADDRESS), "{lines:#?}");

    // A server of the operator, which is down. Both are reported.
    let closed = closed();
    let servers = format!("[{{urls = [\"turn:{closed}?transport=tcp\"], secret = \"a shared secret\"}}]");
    let node = RelayNode::start_by(on, "urls = []", &[("CHAPPE_ICE__SERVERS", &servers)]);
    let lines = node.doctor();
    let found = results(&lines);
    assert_eq!(found[0], (String::new(), false, NO_ADDRESS.to_owned()));
    assert_eq!((found.len(), found[1].0.as_str(), found[1].1), (2, "tcp", false));
    assert!(concludes(&lines, NO_ADDRESS), "{lines:#?}");
    assert!(concludes(&lines, "the node's relay for media does not work from here"), "{lines:#?}");
    let text = texts(&finished(&["doctor", "--node", &node.node.address])).0;
    let line = format!("relay: {NO_ADDRESS}\n  it means: ");
    let other = format!("relay over TCP (turn:{closed}?transport=tcp): ");
    assert!(text.contains(&line) && text.contains(&other), "{text}");
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
        let [doctor, node_doctor] = [node.doctor(), node.node_doctor()].map(|lines| results(&lines));
        run("nft", &["flush", "chain", "inet", "test", hook]);
        assert!(doctor[1].1, "TCP works: {doctor:?}");
        // On the node's machine, the address that the relay is bound to is tried as well.
        assert_eq!(node_doctor[1..], doctor);
        assert_eq!(node_doctor[0], (String::new(), false, format!("{} (turn.listen): {}", node.turn, doctor[0].2)));
        doctor[0].clone()
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

fn works(transport: &str) -> (String, bool, String) {
    (transport.to_owned(), true, String::new())
}

fn fails(transport: &str, error: &str) -> (String, bool, String) {
    (transport.to_owned(), false, error.to_owned())
}

/// Serves each connection to a free port of loopback on a thread. Returns the address.
fn serve(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Answers as a reverse proxy that forwards only HTTP.
fn refuse_as_http(mut stream: TcpStream) {
    use std::io::{Read as _, Write as _};
    let _ = stream.read(&mut [0; 1000]);
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
}

fn never_answer(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// An address of loopback where nothing listens.
fn closed() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").to_string()
}

/// Whether the doctor ends with this conclusion, among others.
fn concludes(lines: &[Value], problem: &str) -> bool {
    let problems =
        lines.iter().filter(|line| line["event"] == "verdict").filter_map(|line| line["problems"].as_array());
    problems.flatten().any(|one| one == problem)
}

#[test]
fn each_fault_of_tcp_is_named_by_a_line_of_its_own() {
    let urls = ["$CLIENT".to_owned(), closed(), serve(refuse_as_http), serve(never_answer)];
    let node = RelayNode::start_with(ON, &format!("urls = {:?}", urls.map(|addr| format!("ws://{addr}"))));
    for lines in [node.doctor(), node.node_doctor()] {
        let expected = [
            works("udp"),
            works("tcp"),
            fails("tcp", "connection refused"),
            fails("tcp", "the server is not a STUN server"),
            fails("tcp", "no answer over TCP"),
        ];
        assert_eq!(results(&lines), expected);
        assert!(concludes(&lines, "the node's relay for media does not work over TCP"), "{lines:#?}");
    }
}

/// Connects each client of `listener` to a TLS server.
fn wrap_in_tls(listener: TcpListener, server: String, client: rustls::ClientConfig) {
    let serving = async move {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
        while let Ok((mut stream, _)) = listener.accept().await {
            let (connector, server) = (connector.clone(), server.clone());
            tokio::spawn(async move {
                let tcp = tokio::net::TcpStream::connect(server).await?;
                let mut tls = connector.connect("localhost".try_into().expect("a name"), tcp).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut tls).await
            });
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(serving);
    });
}

#[test]
fn each_fault_of_tls_is_named_by_a_line_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = chappe_testkit::tls::Files::make(dir.path());
    // `chappe` doesn't trust this certificate, so its WebSocket comes through a proxy that does.
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain = proxy.local_addr().expect("an address");
    let urls = [
        format!("ws://{plain}"),
        "wss://$CLIENT".to_owned(),
        format!("wss://{}", closed()),
        format!("wss://{}", serve(refuse_as_http)),
    ];
    let (certificate, key) = (files.certificate(), files.key());
    let keys = format!("urls = {urls:?}\ntls_cert = {certificate:?}\ntls_key = {key:?}");
    let node = RelayNode::start_with(ON, &keys);
    wrap_in_tls(proxy, node.client.clone(), files.client());
    for lines in [node.doctor(), node.node_doctor()] {
        let expected = [
            works("udp"),
            fails("tls", "the server's certificate is not trusted"),
            fails("tls", "connection refused"),
            fails("tls", "the TLS handshake failed"),
        ];
        assert_eq!(results(&lines), expected);
        assert!(concludes(&lines, "the node's relay for media does not work over TLS"), "{lines:#?}");
    }
}
