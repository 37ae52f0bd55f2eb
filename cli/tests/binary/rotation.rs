//! The rotation of a federation's root key with real daemons: nobody is left behind, and a thief of the old root leads only
//! those astray who have not learned of the new one.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant, SystemTime},
};

use chappe_common::{
    directory::{DirectoryBundle, DirectoryError},
    keys::PublicKey,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PATIENCE, Running, arg, chappe, federation::start_registry_at, finished, get, texts};

/// A federation's folder, and its registry.
struct Operator {
    dir: TempDir,
    root: String,
    url: String,
    running: Option<Running>,
}

/// What `rotate-root` has printed.
struct Rotated {
    new: String,
    federation: String,
}

impl Operator {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("bootstrap.toml");
        let mut init = Running::start(&mut chappe(&["--json", "bootstrap", "init", "--config", arg(&config)]));
        let root = init.event("made")["root"].as_str().expect("a key").to_owned();
        let (running, url) = registry(dir.path(), "127.0.0.1:0");
        Self { dir, root, url, running: Some(running) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn addr(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    fn restart(&mut self) {
        let addr = self.addr().to_owned();
        self.running = None;
        self.running = Some(registry(self.dir.path(), &addr).0);
    }

    /// Runs `rotate-root` on the files beside the registry's config.
    fn rotate(&self, more: &[&str]) -> Rotated {
        let output = finished(&rotate_args(self.dir.path(), more).iter().map(String::as_str).collect::<Vec<_>>());
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{stdout}{stderr}");
        let event: Value = serde_json::from_str(stdout.lines().next().expect("a line")).expect("JSON");
        let text = |key: &str| event[key].as_str().expect("a text").to_owned();
        Rotated { new: text("new"), federation: text("federation") }
    }

    fn discover(&self, more: &[&str]) -> Output {
        finished(&[&["discover", "--registry", &self.url][..], more].concat())
    }
}

fn rotate_args(folder: &Path, more: &[&str]) -> Vec<String> {
    let mut args: Vec<_> = ["--json", "bootstrap", "rotate-root"].map(str::to_owned).into();
    for (option, file) in [("--delegation", "delegation"), ("--file", "revocations"), ("--beacon", "beacon")] {
        args.extend([option.to_owned(), arg(&folder.join(file)).to_owned()]);
    }
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

fn registry(folder: &Path, listen: &str) -> (Running, String) {
    start_registry_at(&folder.join("bootstrap.toml"), listen)
}

struct Node {
    id: String,
    url: String,
    running: Running,
}

/// A command of a node, at free ports.
fn node_command(args: &[&str]) -> Command {
    let mut command = chappe(args);
    command
        .env("CHAPPE_CLIENT__LISTEN", "127.0.0.1:0")
        .env("CHAPPE_CLIENT__URLS", "[]")
        .env("CHAPPE_FEDERATION__LISTEN", "127.0.0.1:0")
        .env("CHAPPE_FEDERATION__ADVERTISE", "[]")
        .env("CHAPPE_FEDERATION__EXEMPT", "[\"127.0.0.0/8\"]")
        .env("CHAPPE_REGISTRY__RENEW_EVERY", "1s")
        .env("CHAPPE_TIMES__DRAIN", "1s");
    command
}

impl Node {
    fn create(operator: &Operator, name: &str, registry: &str) -> Self {
        let config = operator.file(name).join("node.toml");
        fs::create_dir_all(operator.file(name)).expect("a folder");
        let made =
            finished(&["node", "init", "--config", arg(&config), "--registry", registry, "--root", &operator.root]);
        assert!(made.status.success(), "{:?}", texts(&made));
        Self::start(&config)
    }

    fn start(config: &Path) -> Self {
        let mut running = Running::start(&mut node_command(&["--json", "node", "run", "--config", arg(config)]));
        let ready = running.event("ready");
        let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
        Self { id: text("id"), url: text("client_url"), running }
    }

    /// Stops the node and returns its log.
    fn stop(self) -> String {
        self.running.signal("TERM");
        texts(&self.running.finish()).1
    }
}

/// Repeats a command until its result is right.
fn eventually(run: impl Fn() -> Output, is_right: impl Fn(bool, &str, &str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run();
        let (stdout, stderr) = texts(&output);
        if is_right(output.status.success(), &stdout, &stderr) {
            return;
        }
        assert!(Instant::now() < deadline, "{stdout}\n{stderr}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The bytes of a response's body.
fn fetch(addr: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    answer.split_off(end + 4)
}

/// What a client that has pinned this root and knows no succession makes of the registry's directory.
fn as_earlier_version(operator: &Operator, root: &str) -> Option<DirectoryError> {
    let root: PublicKey = root.parse().expect("a key");
    let bytes = fetch(operator.addr(), "/v1/directory");
    DirectoryBundle::decode(bytes, &[root].into(), SystemTime::now().into()).err()
}

#[test]
fn nobody_is_left_behind_when_the_root_is_rotated_twice() {
    let mut operator = Operator::start();
    let old = operator.root.clone();
    let nodes = ["one", "two", "three"].map(|name| Node::create(&operator, name, &operator.url));
    let config = operator.file("bootstrap.toml");
    let link = finished(&["--json", "bootstrap", "join-link", "--config", arg(&config), "--registry", &operator.url]);
    let link: Value = serde_json::from_str(&texts(&link).0).expect("JSON");
    let link = link["link"].as_str().expect("a link").to_owned();
    let (kept, away) = (operator.file("kept"), operator.file("away"));
    let by_old = |operator: &Operator, profile: &Path| operator.discover(&["--root", &old, "--profile", arg(profile)]);
    for profile in [&kept, &away] {
        eventually(|| by_old(&operator, profile), |ok, _, _| ok);
    }

    // During the overlap the registry signs under the old root, so that earlier versions find it.
    let keys = ["root.key", "root-2.key", "root-3.key"].map(|name| operator.file(name));
    let second = operator.rotate(&["--key", arg(&keys[0]), "--new-key", arg(&keys[1])]);
    operator.restart();
    assert_eq!(as_earlier_version(&operator, &old), None);
    eventually(|| by_old(&operator, &kept), |ok, _, _| ok);

    // The new root ends the old one without its key. A running registry notices it by itself.
    let again = operator.rotate(&["--new-key", arg(&keys[1]), "--overlap", "0s"]);
    assert_eq!((&again.new, &again.federation), (&second.new, &second.federation));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = as_earlier_version(&operator, &old);
        if read == Some(DirectoryError::Root) {
            break;
        }
        assert!(Instant::now() < deadline, "the registry still signs under the old root: {read:?}");
        thread::sleep(Duration::from_millis(200));
    }
    eventually(|| by_old(&operator, &kept), |ok, _, _| ok);
    eventually(|| operator.discover(&["--root", &old]), |ok, _, _| ok);
    let by_new = ["--root", &second.new, "--federation", &second.federation];
    eventually(|| operator.discover(&by_new), |ok, _, _| ok);
    assert!(!operator.discover(&["--root", &second.new]).status.success(), "the id is needed");

    // Nodes tell what to change, and restart with the old config. A link made before leads here.
    let [first, ..] = nodes;
    let id = first.id.clone();
    let deadline = Instant::now() + PATIENCE;
    let addr = first.url.trim_start_matches("ws://").to_owned();
    // Written after it was logged.
    let stored = operator.file("one").join("node-data/revocations");
    while fs::read(&stored).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "the node has not learned of the succession");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(!fetch(&addr, "/v1/revocations").is_empty(), "it serves what it has learned");
    assert!(get(&addr, "/v1/federation").1.contains(&old), "the link's id is that of the founding root");
    let log = first.stop();
    let told = format!("set federation.roots = [\"{}\"] and federation.id = \"{}\"", second.new, second.federation);
    let warnings = log.matches("the federation's root key was rotated").count();
    assert!((1..=2).contains(&warnings), "once for each statement: {log}");
    assert!(log.contains(&told), "{log}");
    let config = operator.file("one").join("node.toml");
    let check = Running::start(&mut node_command(&["node", "check", "--config", arg(&config)])).finish();
    assert!(texts(&check).0.contains(&second.new), "{:?}", texts(&check));
    let restarted = Node::start(&config);
    assert_eq!(restarted.id, id);
    let joined = operator.file("four").join("node.toml");
    let args = ["node", "init", "--join", &link, "--config", arg(&joined)];
    let init = finished(&[&args[..], &["--address", "127.0.0.1", "--tls", "none", "--yes"]].concat());
    assert!(init.status.success(), "{:?}", texts(&init));
    let fourth = Node::start(&joined);
    let has = |id: &str| {
        operator.discover(&["--root", &old, "--verbose"]).status.success() && {
            let bytes = fetch(operator.addr(), "/servers");
            let key = id.parse::<PublicKey>().expect("a key").to_base64();
            String::from_utf8_lossy(&bytes).contains(&key)
        }
    };
    for node in [&restarted, &fourth] {
        let deadline = Instant::now() + PATIENCE;
        while !has(&node.id) {
            assert!(Instant::now() < deadline, "the node is not listed");
            thread::sleep(Duration::from_millis(200));
        }
    }

    // A second rotation, of which one profile has not seen the first.
    let third = operator.rotate(&["--key", arg(&keys[1]), "--new-key", arg(&keys[2]), "--overlap", "0s"]);
    operator.restart();
    for profile in [&away, &kept] {
        eventually(|| by_old(&operator, profile), |ok, _, _| ok);
    }
    let by_third = ["--root", &third.new, "--federation", &third.federation];
    eventually(|| operator.discover(&by_third), |ok, _, _| ok);
    assert_eq!(as_earlier_version(&operator, &second.new), Some(DirectoryError::Root));
}

#[test]
fn a_link_and_a_call_from_before_a_rotation_outlive_it() {
    let mut operator = Operator::start();
    let node = Node::create(&operator, "node", &operator.url);
    let root = operator.root.clone();
    let [first, second, third] = ["root.key", "root-2.key", "root-3.key"].map(|name| operator.file(name));
    let (ada, bob) = (operator.file("ada"), operator.file("bob"));
    eventually(|| operator.discover(&["--root", &root]), |ok, _, _| ok);
    let network = ["--registry", &operator.url, "--root", &root];
    let show = ["--json", "pair", "--qr", "--name", "bob", "--profile", arg(&bob)];
    let mut showing = Running::start(&mut chappe(&[&show[..], &network].concat()));
    let link = showing.event("code")["link"].as_str().expect("a link").to_owned();

    operator.rotate(&["--key", arg(&first), "--new-key", arg(&second), "--overlap", "0s"]);
    operator.restart();
    let open = ["--json", "pair", "--name", "ada", "--profile", arg(&ada), "--private-network", &link];
    let mut opening = Running::start(&mut chappe(&open));
    showing.event("paired");
    opening.event("paired");
    assert!(showing.finish().status.success() && opening.finish().status.success());

    let on_loopback = ["--media-ip", "127.0.0.1"];
    let listen = ["--json", "listen", "--once", "--profile", arg(&bob)];
    let mut listening = Running::start(&mut chappe(&[&listen[..], &on_loopback].concat()));
    listening.event("ready");
    let call = ["--json", "call", "bob", "--seconds", "4", "--profile", arg(&ada)];
    let mut calling = Running::start(&mut chappe(&[&call[..], &on_loopback].concat()));
    while !calling.event("step")["what"].as_str().is_some_and(|what| what.contains("answer")) {}
    operator.rotate(&["--key", arg(&second), "--new-key", arg(&third), "--overlap", "0s"]);
    operator.restart();
    for side in [&mut calling, &mut listening] {
        let result = side.event("call");
        assert!(result["audio_packets"].as_u64().is_some_and(|packets| packets > 150), "{result}");
    }
    // The contact is found through the registry of the third root.
    eventually(|| finished(&["discover", "--profile", arg(&ada)]), |ok, out, _| ok && out.contains(&node.id));
}

#[test]
fn the_thief_of_an_old_root_misleads_only_those_who_do_not_know_the_new_one() {
    let mut operator = Operator::start();
    let good = Node::create(&operator, "good", &operator.url);
    let profile = operator.file("profile");
    let [old, new, evil] = ["root.key", "root-2.key", "evil.key"].map(|name| operator.file(name));

    // The thief has copied the key, the delegation and an online key before.
    let theirs = operator.file("thief");
    fs::create_dir(&theirs).expect("a folder");
    for file in ["bootstrap.toml", "online.key", "delegation"] {
        fs::copy(operator.file(file), theirs.join(file)).expect("a copy");
    }
    operator.rotate(&["--key", arg(&old), "--new-key", arg(&new), "--overlap", "0s"]);
    operator.restart();
    let root = operator.root.clone();
    eventually(
        || operator.discover(&["--root", &root, "--profile", arg(&profile)]),
        |ok, out, _| ok && out.contains(&good.id),
    );

    let args = |folder| rotate_args(folder, &["--key", arg(&old), "--new-key", arg(&evil)]);
    let run = |args: Vec<String>| finished(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let again = run(args(operator.dir.path()));
    assert!(texts(&again).1.contains("the root has another successor already"), "{:?}", texts(&again));
    let forged = run(args(&theirs));
    assert!(forged.status.success(), "{:?}", texts(&forged));
    let (_thief, stolen) = registry(&theirs, "127.0.0.1:0");
    let bad = Node::create(&operator, "bad", &stolen);
    let by_thief = ["discover", "--registry", &stolen, "--root", &root];
    eventually(|| finished(&by_thief), |ok, out, _| ok && out.contains(&bad.id));
    let known = finished(&[&by_thief[..], &["--verbose", "--profile", arg(&profile)]].concat());
    assert!(!texts(&known).0.contains(&bad.url), "{:?}", texts(&known));
}

#[test]
fn a_lost_root_is_replaced_by_a_succession_that_was_prepared() {
    let mut operator = Operator::start();
    let node = Node::create(&operator, "node", &operator.url);
    let root = operator.root.clone();
    let [old, new, prepared] = ["root.key", "root-2.key", "successor"].map(|name| operator.file(name));
    let args =
        rotate_args(operator.dir.path(), &["--key", arg(&old), "--new-key", arg(&new), "--prepare", arg(&prepared)]);
    let done = finished(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(done.status.success(), "{:?}", texts(&done));
    assert!(!operator.file("revocations").exists(), "nothing is published yet");

    fs::remove_file(&old).expect("the lost key");
    let delegate = ["bootstrap", "delegate", "--key", arg(&old), "--delegation", arg(&operator.file("delegation"))]
        .map(str::to_owned);
    let lost = finished(&delegate.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(texts(&lost).1.contains("cannot use"), "{:?}", texts(&lost));
    operator.rotate(&["--prepared", arg(&prepared), "--new-key", arg(&new), "--overlap", "0s"]);
    operator.restart();
    assert_eq!(as_earlier_version(&operator, &root), Some(DirectoryError::Root));
    eventually(|| operator.discover(&["--root", &root]), |ok, out, _| ok && out.contains(&node.id));
}

#[test]
fn the_online_key_is_replaced_while_clients_and_nodes_run() {
    let mut operator = Operator::start();
    let node = Node::create(&operator, "node", &operator.url);
    let (root, profile) = (operator.root.clone(), operator.file("profile"));
    let by_root = ["--root", &root, "--profile", arg(&profile)];
    eventually(|| operator.discover(&by_root), |ok, out, _| ok && out.contains(&node.id));
    let [key, delegation, online] = ["root.key", "delegation", "online-2.key"].map(|name| operator.file(name));
    let args =
        ["bootstrap", "delegate", "--key", arg(&key), "--delegation", arg(&delegation), "--new-key", arg(&online)];
    let done = finished(&args);
    assert!(done.status.success(), "{:?}", texts(&done));
    fs::rename(&online, operator.file("online.key")).expect("the new key");
    operator.restart();
    // The node registers again, and the client accepts the new key's list although it knows one of the old key.
    eventually(|| operator.discover(&["--root", &root]), |ok, out, _| ok && out.contains(&node.id));
    let found = operator.discover(&[&by_root[..], &["--verbose"]].concat());
    assert!(found.status.success() && !texts(&found).0.contains("older than"), "{:?}", texts(&found));
}
