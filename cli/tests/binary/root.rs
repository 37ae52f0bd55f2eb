//! The tasks of the root's holder with real daemons: beacons that are not signed blindly, and the revocation of a
//! stolen online key.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{self, Running, arg, chappe, federation::start_registry_at, finished, texts};

/// A federation's folder, with the keys of its root and its registry.
struct Keys {
    dir: TempDir,
    root: String,
}

impl Keys {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("bootstrap.toml");
        let mut init = Running::start(&mut chappe(&["--json", "bootstrap", "init", "--config", arg(&config)]));
        let root = init.event("made")["root"].as_str().expect("a key").to_owned();
        Self { dir, root }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A registry with the configuration in this folder, at this address.
fn registry(folder: &Path, listen: &str) -> (Running, String) {
    start_registry_at(&folder.join("bootstrap.toml"), listen)
}

struct Node {
    id: String,
    url: String,
    admin: String,
    _running: Running,
}

fn node(keys: &Keys, name: &str, registry: &str) -> Node {
    let config = keys.file(name).join("node.toml");
    fs::create_dir_all(keys.file(name)).expect("a folder");
    let made = finished(&["node", "init", "--config", arg(&config), "--registry", registry, "--root", &keys.root]);
    assert!(made.status.success(), "{:?}", texts(&made));
    let mut running = Running::start(
        chappe(&["--json", "node", "run", "--config", arg(&config)])
            .env("CHAPPE_CLIENT__LISTEN", "127.0.0.1:0")
            .env("CHAPPE_FEDERATION__LISTEN", "127.0.0.1:0")
            .env("CHAPPE_ADMIN__LISTEN", "127.0.0.1:0")
            .env("CHAPPE_FEDERATION__EXEMPT", "[\"127.0.0.0/8\"]")
            .env("CHAPPE_REGISTRY__RENEW_EVERY", "1s")
            .env("CHAPPE_TIMES__DRAIN", "1s"),
    );
    let ready = running.event("ready");
    let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
    Node { id: text("id"), url: text("client_url"), admin: text("admin_url"), _running: running }
}

/// Runs a command and checks its exit status.
fn eventually(args: &[&str], is_right: impl Fn(bool, &str, &str) -> bool) -> (String, String) {
    let deadline = Instant::now() + process::PATIENCE;
    loop {
        let output = finished(args);
        let (stdout, stderr) = texts(&output);
        if is_right(output.status.success(), &stdout, &stderr) {
            return (stdout, stderr);
        }
        assert!(Instant::now() < deadline, "{args:?}: {stdout}\n{stderr}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_beacon_is_signed_with_a_second_source_and_not_without_nodes_that_are_still_there() {
    let keys = Keys::make();
    let (_registry, url) = registry(keys.dir.path(), "127.0.0.1:0");
    let nodes = ["one", "two", "three"].map(|name| node(&keys, name, &url));
    let key = keys.file("root.key");
    let beacon = |file: &Path, more: &[&str]| -> Vec<String> {
        let args = ["bootstrap", "beacon", "--key", arg(&key), "--from", "0s", "--registry", &url, "--file", arg(file)];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    };
    let run = |args: &[String]| {
        let output = finished(&args.iter().map(String::as_str).collect::<Vec<_>>());
        (output.status.success(), texts(&output))
    };
    let file = keys.file("beacon");
    // All nodes and the registry list all nodes.
    for node in &nodes {
        let trial = beacon(&keys.file("trial"), &["--members", &node.admin]);
        let trial: Vec<_> = trial.iter().map(String::as_str).collect();
        eventually(&trial, |ok, stdout, _| {
            let _ = fs::remove_file(keys.file("trial"));
            ok && stdout.contains("with 3 nodes")
        });
    }
    let alone = beacon(&keys.file("trial"), &["--single-source"]);
    let alone: Vec<_> = alone.iter().map(String::as_str).collect();
    eventually(&alone, |ok, stdout, _| {
        let _ = fs::remove_file(keys.file("trial"));
        ok && stdout.contains("with 3 nodes")
    });

    let (ok, (_, stderr)) = run(&beacon(&file, &[]));
    assert!(!ok && stderr.contains("--members") && !file.exists(), "{stderr}");
    let (ok, (stdout, stderr)) = run(&beacon(&file, &["--members", &nodes[0].admin]));
    assert!(ok, "{stderr}");
    assert!(stdout.contains("the first beacon: 3 nodes may be homes"), "{stdout}");
    for node in &nodes {
        assert!(stdout.contains(&format!("new   {} in 127.0.0.0/24", node.id)), "{stdout}");
    }

    // The registry hides one of the three nodes.
    let config = keys.file("bootstrap.toml");
    let hidden = &nodes[2].id;
    let removed = finished(&["bootstrap", "remove", hidden, "--config", arg(&config), "--registry", &url]);
    assert!(removed.status.success(), "{:?}", texts(&removed));
    let signed = fs::read(&file).expect("the beacon");
    let (ok, (stdout, stderr)) = run(&beacon(&file, &["--single-source"]));
    assert!(!ok && stderr.contains("1 of 3 nodes of the last term that are still there"), "{stderr}");
    assert!(stdout.contains(&format!("gone  {hidden} in 127.0.0.0/24: it still proves its key")), "{stdout}");
    assert_eq!(fs::read(&file).expect("the beacon"), signed, "nothing was signed");
    let (ok, (stdout, stderr)) = run(&beacon(&file, &["--members", &nodes[0].admin]));
    assert!(ok && stdout.contains("3 stay, 0 are new, 0 are gone"), "{stdout}{stderr}");
    let (ok, (stdout, stderr)) = run(&beacon(&file, &["--single-source", "--force"]));
    assert!(ok && stdout.contains("with 2 nodes"), "{stdout}{stderr}");
}

#[test]
fn a_stolen_online_key_lists_no_nodes_once_it_is_revoked() {
    let keys = Keys::make();
    let (honest, url) = registry(keys.dir.path(), "127.0.0.1:0");
    let good = node(&keys, "good", &url);

    // A thief has copied key and delegation, and runs a registry that lists its own node.
    let theirs = keys.file("thief");
    fs::create_dir(&theirs).expect("a folder");
    for file in ["bootstrap.toml", "online.key", "delegation"] {
        fs::copy(keys.file(file), theirs.join(file)).expect("a copy");
    }
    let (_thief, stolen) = registry(&theirs, "127.0.0.1:0");
    let bad = node(&keys, "bad", &stolen);
    let root = keys.root.as_str();
    let by_thief = ["--registry", &stolen, "--root", root];
    eventually(&[&["discover"][..], &by_thief].concat(), |ok, stdout, _| ok && stdout.contains(&bad.id));
    eventually(&["discover", "--registry", &url, "--root", root], |ok, stdout, _| ok && stdout.contains(&good.id));

    // The root's holder revokes the key, and gives the registry a new one.
    let [key, delegation, file, online] =
        ["root.key", "delegation", "revocations", "online.key"].map(|name| keys.file(name));
    let revoke = ["bootstrap", "revoke", "--key", arg(&key), "--delegation", arg(&delegation), "--file", arg(&file)];
    let revoked = finished(&revoke);
    assert!(revoked.status.success() && texts(&revoked).0.contains("chappe1r="), "{:?}", texts(&revoked));
    let addr = url.trim_start_matches("http://").to_owned();
    drop(honest);
    let config = keys.file("bootstrap.toml");
    let refused = finished(&["bootstrap", "run", "--config", arg(&config), "--set", "http.listen=127.0.0.1:0"]);
    assert!(
        !refused.status.success() && texts(&refused).1.contains("the online key is revoked"),
        "{:?}",
        texts(&refused)
    );
    fs::remove_file(&online).expect("the stolen key");
    let delegate =
        ["bootstrap", "delegate", "--key", arg(&key), "--delegation", arg(&delegation), "--new-key", arg(&online)];
    let delegated = finished(&delegate);
    assert!(delegated.status.success(), "{:?}", texts(&delegated));
    let (_honest, _) = registry(keys.dir.path(), &addr);
    let told = "the list is signed by a revoked key";

    let (one, two) = (keys.file("profile-1"), keys.file("profile-2"));
    // A client that queries both registries accepts only the honest one's list, and remembers the revocation.
    let two_registries = ["--registry", &url, "--registry", &stolen, "--root", root];
    let search = [&["discover", "--verbose", "--profile", arg(&one)][..], &two_registries].concat();
    eventually(&search, |ok, stdout, _| ok && stdout.contains(&good.id));
    let (stdout, _) = texts(&finished(&[&["doctor", "--profile", arg(&one)][..], &by_thief].concat()));
    assert!(stdout.contains(told) && !stdout.contains(&bad.url), "{stdout}");

    // A client that knows only the thief's registry and a node learns of it from the node.
    let by_node = format!("{}#{}", good.url, good.id);
    let search = [&["doctor", "--profile", arg(&two), "--node", &by_node][..], &by_thief].concat();
    eventually(&search, |_, stdout, _| stdout.contains(told));
    let (stdout, _) = texts(&finished(&[&["doctor", "--profile", arg(&two)][..], &by_thief].concat()));
    assert!(stdout.contains(told), "{stdout}");
    // A client that has not learned of it is still misled, so the test is meaningful.
    let (stdout, _) = texts(&finished(&[&["discover"][..], &by_thief].concat()));
    assert!(stdout.contains(&bad.id), "{stdout}");

    // The root does not sign what the stolen key lists.
    let beacon = ["bootstrap", "beacon", "--key", arg(&key), "--single-source", "--registry", &stolen];
    let output = keys.file("beacon");
    let beacon = [&beacon[..], &["--file", arg(&output), "--revocations", arg(&file)]].concat();
    let refused = finished(&beacon);
    assert!(!refused.status.success() && texts(&refused).1.contains(told), "{:?}", texts(&refused));
}
