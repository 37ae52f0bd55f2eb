//! The budget of a node: it counts what the kernel counts, and lowers what it offers step by step.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::{Federation, Listening, init_registry, metric, run_node, run_registry},
    finished, get,
    namespace::{run, run_inside},
    texts,
};

const MONTHLY: i64 = 1_000_000_000;

/// A network namespace, joined to this one by a cable. Ends with its process.
struct Machine {
    process: Child,
}

impl Machine {
    /// The machine has 203.0.113.2, its interface is `up0`, which is its default route. This one has 203.0.113.1.
    fn start() -> Self {
        let process = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("a namespace");
        let machine = Self { process };
        let deadline = Instant::now() + PATIENCE;
        while run("nsenter", &machine.args(&["cat", "/proc/self/comm"])) != "cat\n" || machine.is_same_network() {
            assert!(Instant::now() < deadline, "no namespace");
            sleep(Duration::from_millis(20));
        }
        let id = machine.id();
        run("ip", &["link", "add", "cable", "type", "veth", "peer", "name", "up0", "netns", &id]);
        run("ip", &["addr", "add", "203.0.113.1/24", "dev", "cable"]);
        run("ip", &["link", "set", "cable", "up"]);
        for args in [
            &["ip", "link", "set", "lo", "up"][..],
            &["ip", "addr", "add", "203.0.113.2/24", "dev", "up0"],
            &["ip", "link", "set", "up0", "up"],
            &["ip", "route", "add", "default", "via", "203.0.113.1"],
            &["nft", "add", "table", "inet", "count"],
        ] {
            run("nsenter", &machine.args(args));
        }
        for hook in ["input", "output"] {
            let chain = format!("{{ type filter hook {hook} priority 0; }}");
            run("nsenter", &machine.args(&["nft", "add", "chain", "inet", "count", hook, &chain]));
            let side = if hook == "input" { "iifname" } else { "oifname" };
            run("nsenter", &machine.args(&["nft", "add", "rule", "inet", "count", hook, side, "up0", "counter"]));
        }
        machine
    }

    fn id(&self) -> String {
        self.process.id().to_string()
    }

    fn is_same_network(&self) -> bool {
        fs::read_link(format!("/proc/{}/ns/net", self.id())).ok() == fs::read_link("/proc/self/ns/net").ok()
    }

    /// The arguments of `nsenter` for a command in the machine.
    fn args<'a>(&self, command: &[&'a str]) -> Vec<&'a str> {
        let own: &'static str = Box::leak(format!("--net=/proc/{}/ns/net", self.id()).into_boxed_str());
        [&[own, "--"][..], command].concat()
    }

    /// The bytes that `up0` has received and sent, as the kernel counts them: with the headers of Ethernet.
    fn interface_bytes(&self) -> u64 {
        let text = run("nsenter", &self.args(&["cat", "/proc/self/net/dev"]));
        let line = text.lines().find(|line| line.trim_start().starts_with("up0:")).expect("an interface");
        let numbers: Vec<u64> = line.split_whitespace().skip(1).map(|number| number.parse().expect("bytes")).collect();
        numbers[0] + numbers[8]
    }

    /// The bytes of the IP packets that `up0` has received and sent, as a firewall counts them.
    fn ip_bytes(&self) -> u64 {
        let text = run("nsenter", &self.args(&["nft", "list", "table", "inet", "count"]));
        let bytes = text.split(" bytes ").skip(1).map(|rest| rest.split_whitespace().next().expect("a number"));
        bytes.map(|bytes| bytes.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// STUN, HTTP, and packets that nobody wants, to a node on the machine.
fn use_the_node(client: &str, turn: &str) {
    let socket = UdpSocket::bind("203.0.113.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let mut answers = 0;
    for number in 0..3000u32 {
        let mut request = [0; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        request[8..12].copy_from_slice(&number.to_be_bytes());
        socket.send_to(&request, turn).expect("a way");
        if number % 300 == 0 && socket.recv(&mut [0; 2048]).is_ok() {
            answers += 1;
        }
        socket.send_to(&[7; 1200], turn).expect("a way");
    }
    assert!(answers > 0, "STUN is answered");
    for _ in 0..300 {
        assert_eq!(get(client, "/health").0, 200);
    }
    let mut large = TcpStream::connect(client).expect("it listens");
    let _ = large.write_all(&[b'x'; 2_000_000]);
}

#[test]
fn a_node_counts_what_the_kernel_counts() {
    run_inside("budget::a_node_counts_what_the_kernel_counts", || {
        let machine = Machine::start();
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("node.toml");
        let made = finished(&["node", "init", "--config", arg(&config)]);
        assert!(made.status.success(), "{:?}", texts(&made));
        let binary = chappe(&[]).get_program().to_str().expect("a path").to_owned();
        let settings = [
            "client.listen=203.0.113.2:8710",
            "federation.listen=203.0.113.2:8711",
            "admin.listen=203.0.113.2:8712",
            "turn.listen=[\"203.0.113.2:3478\"]",
            "federation.exempt=[\"203.0.113.0/24\"]",
            "limits.exempt=[\"203.0.113.0/24\"]",
            "budget.monthly_bytes=1000000000",
        ];
        let mut args = vec![binary.as_str(), "--json", "node", "run", "--config", arg(&config)];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let args = machine.args(&args);
        let start = || {
            let mut node = Command::new("nsenter");
            node.args(&args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut node = Running::start(&mut node);
            node.event("ready");
            node
        };
        let node = start();
        let used = || u64::try_from(metric("203.0.113.2:8712", "chappe_budget_used_bytes")).expect("not negative");
        // The first count takes what was there before as its beginning.
        let deadline = Instant::now() + PATIENCE;
        while !dir.path().join("node-data/budget").exists() {
            assert!(Instant::now() < deadline, "the state is stored");
            sleep(Duration::from_millis(50));
        }
        let before = [machine.interface_bytes(), machine.ip_bytes(), used()];
        let compare = |what: &str| {
            // Until the node has counted all: twice its interval, without other packets.
            sleep(Duration::from_secs(11));
            let interface = machine.interface_bytes() - before[0];
            let [ip, counted] = [machine.ip_bytes() - before[1], used() - before[2]];
            let off = counted.abs_diff(interface) as f64 / interface as f64 * 100.0;
            println!("{what}: counted {counted} bytes, the interface {interface} ({off:.2} % off), IP packets {ip}");
            assert!(interface > 4_000_000 && off < 3.0);
            assert!(counted >= ip, "a provider does not count more");
        };
        use_the_node("203.0.113.2:8710", "203.0.113.2:3478");
        compare("after use");
        node.signal("KILL");
        node.finish();
        let socket = UdpSocket::bind("203.0.113.1:0").expect("a socket");
        for _ in 0..1000 {
            socket.send_to(&[7; 1200], "203.0.113.2:9").expect("a way");
        }
        let _node = start();
        compare("killed, and packets while it was away");
    });
}

/// Sends packets over loopback, where each counts as received and sent, until the node has used that much.
fn use_up(node: &Listening, until: i64) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let used = node.metric("chappe_budget_used_bytes");
        if used >= until {
            return;
        }
        assert!(Instant::now() < deadline, "{used} of {until} bytes are used");
        let missing = usize::try_from(until - used).expect("positive");
        // Nobody reads them.
        for _ in 0..missing / 2 / 16_000 + 1 {
            let _ = socket.send_to(&[0; 16_000], socket.local_addr().expect("bound"));
        }
        sleep(Duration::from_secs(6));
    }
}

/// Whether the node's relay works, as a client sees it.
fn relays(node: &Listening) -> bool {
    let output = Running::start(&mut chappe(&["--json", "doctor", "--node", &node.address])).finish();
    let (stdout, _) = texts(&output);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.iter().any(|line| line["event"] == "relay" && line["transport"] == "udp" && line["ok"] == true)
}

/// A client's WebSocket.
fn connect(node: &Listening) -> TcpStream {
    let mut client = TcpStream::connect(&node.client).expect("it listens");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).expect("it takes a request");
    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
    client
}

/// What the client received until the node has closed the connection. The client answers nothing.
fn read_to_end(client: &mut TcpStream) -> String {
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("the node closes the connection");
    String::from_utf8_lossy(&received).into_owned()
}

/// Moves the month in the state file to the month before, in which the node was awake for all of it.
fn make_last_month(state: &Path) {
    let mut stored: Value = serde_json::from_slice(&fs::read(state).expect("a file")).expect("JSON");
    let months = stored["bytes"].as_object().expect("months").clone();
    let (name, used) = months.iter().next_back().expect("a month");
    let (year, month) = name.split_once('-').expect("year and month");
    let (year, month): (u32, u32) = (year.parse().expect("a year"), month.parse().expect("a month"));
    let before = if month == 1 { format!("{:04}-12", year - 1) } else { format!("{year:04}-{:02}", month - 1) };
    stored["bytes"] = json!({ before.as_str(): used });
    let counted_at = stored["counted_at"].as_u64().expect("a time");
    stored["counted_at"] = json!(counted_at - 31 * 24 * 3600);
    stored["awake"] = json!([before, counted_at - 60 * 24 * 3600]);
    stored["slept"] = json!([before, { "secs": 40 * 24 * 3600, "nanos": 0 }]);
    fs::write(state, stored.to_string()).expect("a writable folder");
}

#[test]
fn a_node_beyond_its_rate_relays_no_new_media_until_it_is_idle() {
    run_inside("budget::a_node_beyond_its_rate_relays_no_new_media_until_it_is_idle", || {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("node.toml");
        let made = finished(&["node", "init", "--config", arg(&config)]);
        assert!(made.status.success(), "{:?}", texts(&made));
        let mut command = run_node(&config);
        command
            .env("CHAPPE_TURN__LISTEN", "[\"127.0.0.1:0\"]")
            .env("CHAPPE_TURN__ALLOWED_PEERS", "[\"127.0.0.0/8\"]")
            .env("CHAPPE_BUDGET__BYTES_PER_SECOND", "1000000")
            .env("CHAPPE_BUDGET__INTERFACES", "[\"lo\"]");
        let node = Listening::start(&mut command);
        // The first count takes what was there before as its beginning.
        sleep(Duration::from_secs(1));
        assert!(relays(&node));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // Each counts twice: 64 MB, more than a minute's worth.
        for _ in 0..2000 {
            let _ = socket.send_to(&[0; 16_000], socket.local_addr().expect("bound"));
        }
        node.wait_for("chappe_budget_rate_exceeded", |exceeded| exceeded == 1);
        let began = Instant::now();
        assert!(!relays(&node));
        assert_eq!(get(&node.client, "/readyz"), (200, "ok\n".to_owned()));
        node.wait_for("chappe_budget_rate_exceeded", |exceeded| exceeded == 0);
        println!("new allocations again after {:?}", began.elapsed());
        assert!(relays(&node));
    });
}

#[test]
fn a_node_lowers_what_it_offers_sleeps_and_returns_in_the_next_month() {
    run_inside("budget::a_node_lowers_what_it_offers_sleeps_and_returns_in_the_next_month", || {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("registry/bootstrap.toml");
        let root = init_registry(&config);
        let mut registry = Running::start(run_registry(&config).args(["--set", "admin.listen=127.0.0.1:0"]));
        let ready = registry.event("ready");
        let text = |key: &str| ready[key].as_str().expect("a text").trim_start_matches("http://").to_owned();
        let (url, admin) = (format!("http://{}", text("registry")), text("admin_url"));
        let federation = Federation { dir, registry: Some(registry), nodes: Vec::new(), url, root };
        let listed = |name: &str, count: i64| {
            let deadline = Instant::now() + PATIENCE;
            while metric(&admin, name) != count {
                assert!(Instant::now() < deadline, "{name} is {}", metric(&admin, name));
                sleep(Duration::from_millis(100));
            }
        };
        let others = [0, 1].map(|number| Listening::start(&mut federation.node(number)));
        // Far from the end of a month.
        let day: u32 = run("date", &["-u", "+%d"]).trim().parse().expect("a day");
        let first_day = if (8..22).contains(&day) { "1" } else { "15" };
        let start = || {
            let mut command = federation.node(2);
            command
                .env("CHAPPE_TURN__LISTEN", "[\"127.0.0.1:0\"]")
                .env("CHAPPE_TURN__ALLOWED_PEERS", "[\"127.0.0.0/8\"]")
                .env("CHAPPE_BUDGET__MONTHLY_BYTES", MONTHLY.to_string())
                .env("CHAPPE_BUDGET__FIRST_DAY", first_day)
                .env("CHAPPE_BUDGET__INTERFACES", "[\"lo\"]");
            Listening::start(&mut command)
        };
        let node = start();
        let state = federation.folder(2).join("node-data/budget");
        node.wait_for("chappe_members", |members| members == 3);
        listed("chappe_bootstrap_listed_nodes", 3);
        assert!(relays(&node));
        assert_eq!(node.health().1["budget"], "open");

        use_up(&node, MONTHLY / 100 * 90);
        node.wait_for("chappe_budget_level", |level| level == 1);
        assert!(!relays(&node));
        listed("chappe_bootstrap_listed_nodes", 3);
        println!("relay off at {}", node.metric("chappe_budget_used_bytes"));

        use_up(&node, MONTHLY / 100 * 95);
        node.wait_for("chappe_budget_level", |level| level == 2);
        listed("chappe_bootstrap_reserve_nodes", 1);
        listed("chappe_bootstrap_listed_nodes", 2);
        node.wait_for("chappe_members", |members| members == 3);
        assert_eq!(get(&node.client, "/readyz"), (200, "ok\n".to_owned()));
        println!("unlisted at {}", node.metric("chappe_budget_used_bytes"));

        let mut client = connect(&node);
        node.wait_for("chappe_sessions", |sessions| sessions == 1);
        use_up(&node, MONTHLY / 100 * 99);
        let received = read_to_end(&mut client);
        assert!(received.contains("\"going_away\"") && !received.contains("\"nodes\":[]"), "{received}");
        node.wait_for("chappe_budget_level", |level| level == 3);
        listed("chappe_bootstrap_reserve_nodes", 0);
        for other in &others {
            other.wait_for("chappe_members", |members| members == 2);
        }
        let (status, reason) = get(&node.client, "/readyz");
        assert!(status == 503 && reason.contains("budget") && reason.contains("until 20"), "{reason}");
        let (status, health) = node.health();
        assert_eq!((status, &health["status"], &health["budget"]), (503, &json!("budget"), &json!("asleep")));
        println!("asleep at {}: {reason}", node.metric("chappe_budget_used_bytes"));
        // A client that comes anyway does not stay.
        let received = read_to_end(&mut connect(&node));
        assert!(received.contains("\"going_away\""), "{received}");
        node.wait_for("chappe_sessions", |sessions| sessions == 0);

        let used = node.metric("chappe_budget_used_bytes");
        node.process.signal("KILL");
        node.process.finish();
        let node = start();
        node.wait_for("chappe_budget_level", |level| level == 3);
        // The level is that of the file. The bytes since the last store are counted when the kernel's counters are read first.
        node.wait_for("chappe_budget_used_bytes", |counted| counted >= used);
        // The level shows a moment before the node acts on it.
        let deadline = Instant::now() + PATIENCE;
        while get(&node.client, "/readyz").0 != 503 {
            assert!(Instant::now() < deadline, "the node accepts clients");
            sleep(Duration::from_millis(50));
        }
        for other in &others {
            assert_eq!(other.metric("chappe_members"), 2);
        }
        node.process.signal("TERM");
        assert!(node.process.finish().status.success());

        make_last_month(&state);
        let node = start();
        node.wait_for("chappe_members", |members| members == 3);
        assert_eq!(node.metric("chappe_budget_level"), 0);
        assert!(node.metric("chappe_budget_used_bytes") < MONTHLY / 10);
        listed("chappe_bootstrap_listed_nodes", 3);
        assert!(relays(&node));
        assert_eq!(get(&node.client, "/readyz").0, 200);
    });
}
