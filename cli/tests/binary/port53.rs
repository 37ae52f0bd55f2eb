//! No command sends a query to port 53 without the option for it.
//!
//! The test starts itself again in its own namespaces. In these, every IPv4 address is this machine, and
//! `/etc/resolv.conf` names the test's resolver. It records each query to port 53 over UDP and TCP, for any destination
//! address.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    str::FromStr as _,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use chappe_testkit::rerun::rerun;
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};

use crate::process::{self, Running, arg, chappe, finished, get, texts};

/// Set in the inner process.
const INSIDE: &str = "CHAPPE_TEST_INSIDE";
/// A public address, which is this machine in the inner process.
const RELAY: Ipv4Addr = Ipv4Addr::new(9, 8, 7, 6);
/// A name with that address.
const RELAY_NAME: &str = "relay.example.org";
/// Where the registry shows its metrics.
const REGISTRY_ADMIN: &str = "127.0.0.1:8701";
/// A name with a private address.
const PRIVATE_NAME: &str = "private.example.org";

/// `command` in its own namespaces.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("the tool is installed");
    assert!(status.success(), "{program} {args:?}");
}

/// A resolver on port 53 that records the queried names.
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    fn start() -> Self {
        let resolver = Self::default();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("port 53");
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("port 53");
        let over_udp = resolver.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let answer = over_udp.answer(&buffer[..length]);
                let _ = udp.send_to(&answer, from);
            }
        });
        let over_tcp = resolver.clone();
        thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut question = vec![0; 4096];
                let length = stream.read(&mut question).unwrap_or(0);
                let answer = over_tcp.answer(question.get(2..length).unwrap_or_default());
                let prefix = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
                let _ = stream.write_all(&[&prefix[..], &answer].concat());
            }
        });
        resolver
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let Ok(question) = Message::from_vec(question) else {
            self.0.lock().expect("a record").push("bytes that are no question".to_owned());
            return Vec::new();
        };
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        for query in question.queries {
            let name = query.name().to_string();
            self.0.lock().expect("a record").push(format!("{name} {}", query.query_type()));
            let known = [(RELAY_NAME, RELAY), (PRIVATE_NAME, Ipv4Addr::new(10, 1, 2, 3))];
            let known = known.into_iter().find(|(known, _)| name == format!("{known}."));
            match known {
                Some((_, addr)) if query.query_type() == RecordType::A => {
                    let name = Name::from_str(&name).expect("a name");
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A(addr))));
                }
                Some(_) => {}
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            answer.add_query(query);
        }
        answer.to_vec().expect("a message")
    }

    /// The queries since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("a record"))
    }
}

/// A registry and two nodes with names that are resolved without a query.
struct Federation {
    registry: String,
    root: String,
    nodes: Vec<String>,
    running: Vec<Running>,
}

impl Federation {
    fn start(dir: &Path) -> Self {
        let config = dir.join("registry/bootstrap.toml");
        let mut init = Running::start(&mut chappe(&["--json", "bootstrap", "init", "--config", arg(&config)]));
        let root = init.event("made")["root"].as_str().expect("a key").to_owned();
        let run = ["--json", "bootstrap", "run", "--config", arg(&config), "--set", "http.listen=0.0.0.0:8700"];
        let admin = format!("admin.listen={REGISTRY_ADMIN}");
        let probing = ["--set", "probing.interval=1s", "--set", &admin];
        let mut running = vec![Running::start(&mut chappe(&[&run[..], &probing].concat()))];
        running[0].event("ready");
        let registry = "http://registry.localhost:8700".to_owned();
        let mut nodes = Vec::new();
        for (number, host) in ["relay7.localhost", RELAY_NAME].into_iter().enumerate() {
            let folder = dir.join(format!("node{number}"));
            fs::create_dir_all(&folder).expect("a folder");
            let config = folder.join("node.toml");
            let (client, federation) = (8710 + 10 * number, 8711 + 10 * number);
            let url = format!("ws://{host}:{client}");
            let advertise = format!("127.0.0.1:{federation}");
            let made =
                ["node", "init", "--config", arg(&config), "--registry", "http://127.0.0.1:8700", "--root", &root];
            let made = finished(&[&made[..], &["--url", &url, "--advertise", &advertise]].concat());
            assert!(made.status.success(), "{:?}", texts(&made));
            let mut node = Running::start(
                chappe(&["--json", "node", "run", "--config", arg(&config)])
                    .env("CHAPPE_CLIENT__LISTEN", format!("0.0.0.0:{client}"))
                    .env("CHAPPE_FEDERATION__LISTEN", format!("0.0.0.0:{federation}"))
                    .env("CHAPPE_FEDERATION__EXEMPT", "[\"127.0.0.0/8\"]"),
            );
            let id = node.event("ready")["id"].as_str().expect("a node id").to_owned();
            nodes.push(format!("{url}#{id}"));
            running.push(node);
        }
        Self { registry, root, nodes, running }
    }
}

/// Waits until the registry lists a node.
fn wait_until_listed(registry: &[&str]) {
    let deadline = Instant::now() + process::PATIENCE;
    loop {
        let output = finished(&[&["discover"][..], registry].concat());
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{:?}", texts(&output));
        thread::sleep(Duration::from_millis(100));
    }
}

/// Ada shows a code, and Ben enters it.
fn pair(ada: &Path, ben: &Path, network: &[&str]) {
    let side = |name, profile| ["--json", "pair", "--name", name, "--profile", profile];
    let mut showing = Running::start(&mut chappe(&[&side("Ada", arg(ada))[..], network].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let mut typing = Running::start(&mut chappe(&[&side("Ben", arg(ben))[..], network, &[&code]].concat()));
    showing.event("paired");
    typing.event("paired");
    assert!(showing.finish().status.success() && typing.finish().status.success());
}

/// Ben listens, and Ada calls.
fn call(ada: &Path, ben: &Path, more: &[&str]) {
    let listen = ["--json", "listen", "--once", "--profile", arg(ben)];
    let mut listening = Running::start(&mut chappe(&[&listen[..], more].concat()));
    listening.event("ready");
    let call = ["--json", "call", "--profile", arg(ada), "Ben", "--seconds", "1"];
    let calling = finished(&[&call[..], more].concat());
    assert!(calling.status.success(), "{:?}", texts(&calling));
    assert!(listening.finish().status.success());
}

fn inside() {
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["route", "add", "local", "default", "dev", "lo"]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (file, content) in [
        ("resolv.conf", "nameserver 192.0.2.53\noptions timeout:1 attempts:1\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
        ("hosts", "127.0.0.1 localhost\n"),
    ] {
        let own = dir.path().join(file);
        fs::write(&own, content).expect("a file");
        run("mount", &["--bind", arg(&own), &format!("/etc/{file}")]);
    }
    let resolver = Resolver::start();
    let federation = Federation::start(dir.path());
    let (ada, ben) = (dir.path().join("ada"), dir.path().join("ben"));
    let local = ["--node", &federation.nodes[0]];
    let registry = ["--registry", &federation.registry, "--root", &federation.root];

    // All client commands, with a node that has a host name.
    pair(&ada, &ben, &local);
    call(&ada, &ben, &[]);
    for args in [
        &["discover", "--profile", arg(&ada)][..],
        &["discover", "--verbose", local[0], local[1]],
        &["doctor", "--profile", arg(&ada)],
    ] {
        let output = finished(args);
        assert!(output.status.success(), "{args:?}: {:?}", texts(&output));
    }
    // Also if names have to be resolved, and no provider of DNS over HTTPS is reachable.
    let named = federation.nodes[1].as_str();
    let node_config = dir.path().join("node0/node.toml");
    let relayed = ["--config", arg(&node_config), "--set", "client.urls=[\"ws://node.example.org:8710\"]"];
    let relayed = [&relayed[..], &["--set", "turn.listen=[\"127.0.0.1:0\"]"]].concat();
    let far = ["--registry", "http://registry.example.org", "--dns", "nodes.example.org", "--root", &federation.root];
    for args in [
        [&["discover", "--verbose"][..], &far].concat(),
        [&["doctor", "--node", named][..], &far].concat(),
        vec!["pair", "--profile", arg(&dir.path().join("new")), "--node", named],
        vec!["call", "--profile", arg(&ada), "Ben", "--node", named],
        vec!["listen", "--profile", arg(&ben), "--node", named],
        vec!["node", "check", "--config", arg(&node_config), "--set", "client.urls=[\"wss://node.example.org\"]"],
        [&["node", "doctor"][..], &relayed].concat(),
    ] {
        let output = finished(&args);
        assert!(!output.status.success(), "{args:?}: {:?}", texts(&output));
    }
    // The commands of a registry's operator.
    wait_until_listed(&registry);
    let key = dir.path().join("registry/root.key");
    let config = dir.path().join("registry/bootstrap.toml");
    let (beacon, id) = (dir.path().join("beacon"), federation.nodes[0].rsplit('#').next().expect("a node id"));
    let operate = |url: &str, more: &[&str]| {
        let commands = [
            vec!["bootstrap", "beacon", "--key", arg(&key), "--file", arg(&beacon), "--single-source", "--force"],
            vec!["bootstrap", "publish", "--config", arg(&config), "--format", "txt"],
            vec!["bootstrap", "remove", id, "--config", arg(&config), "--for", "1s"],
            vec!["bootstrap", "restore", id, "--config", arg(&config)],
        ];
        for command in commands {
            let output = finished(&[&command[..], &["--registry", url], more].concat());
            let is_reached = url == federation.registry || !more.is_empty();
            // A second removal of a node within one second is rejected.
            let is_refused = texts(&output).1.contains("a later removal or restoration of this node");
            assert_eq!(output.status.success() || is_refused, is_reached, "{command:?}: {:?}", texts(&output));
        }
    };
    operate(&federation.registry, &[]);
    // The registry has tried the nodes' URLs, of which one names a host.
    let deadline = Instant::now() + process::PATIENCE;
    while !get(REGISTRY_ADMIN, "/metrics").1.contains("doors_total{outcome=\"not_tried\"}") {
        assert!(Instant::now() < deadline, "{}", get(REGISTRY_ADMIN, "/metrics").1);
        thread::sleep(Duration::from_millis(100));
    }
    operate(&format!("http://{RELAY_NAME}:8700"), &[]);
    assert_eq!(resolver.asked(), Vec::<String>::new(), "nobody asks port 53");

    // With the option, each of them sends queries.
    let system = ["--system-resolver", "--node", named];
    call(&ada, &ben, &system);
    let asked = resolver.asked();
    assert!(asked.contains(&format!("{RELAY_NAME}. A")), "{asked:?}");
    for args in [&["discover"][..], &["doctor"]] {
        let output = finished(&[args, &system].concat());
        assert!(output.status.success(), "{args:?}: {:?}", texts(&output));
        assert!(!resolver.asked().is_empty(), "{args:?}");
    }
    let output = finished(&[&["node", "doctor", "--system-resolver"][..], &relayed].concat());
    assert!(!output.status.success(), "the name is unknown: {:?}", texts(&output));
    assert!(resolver.asked().contains(&"node.example.org. A".to_owned()));
    // The option works without a source.
    let output = finished(&["discover", "--profile", arg(&ada), "--system-resolver"]);
    assert!(output.status.success(), "{:?}", texts(&output));
    assert!(!resolver.asked().is_empty());
    operate(&format!("http://{RELAY_NAME}:8700"), &["--system-resolver"]);
    assert!(!resolver.asked().is_empty());

    // Its answers with private addresses are ignored.
    let (_, id) = named.split_once('#').expect("a node id");
    let private = format!("ws://{PRIVATE_NAME}:8720#{id}");
    let output = finished(&["--json", "discover", "--verbose", "--system-resolver", "--node", &private]);
    assert!(!output.status.success() && texts(&output).0.contains("its name resolves to a private address"));
    let output = finished(&["discover", "--system-resolver", "--private-network", "--node", &private]);
    let text = texts(&output);
    assert!(text.0.contains("the node does not use this URL"), "it was reached: {text:?}");
    federation.running.iter().for_each(|process| process.signal("TERM"));
}

#[test]
fn no_command_asks_port_53_but_with_the_option_for_it() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let tried = unshare().args(["ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("not run: this needs network namespaces and `ip`, and they are not to be had here: {tried:?}");
        return;
    }
    rerun(unshare().env(INSIDE, "1"), "port53::no_command_asks_port_53_but_with_the_option_for_it");
}
