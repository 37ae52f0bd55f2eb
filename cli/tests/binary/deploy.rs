//! The samples in `deploy/`: systemd accepts the units, and the binary accepts their command lines and all samples.
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::process::{Running, arg, chappe, finished, texts};

/// Free ports, in place of the samples' ports.
const NODE_PORTS: [&str; 4] = ["--set", "client.listen=127.0.0.1:0", "--set", "federation.listen=127.0.0.1:0"];
/// The samples for compose set an address for the operator, too.
const ADMIN_PORT: [&str; 2] = ["--set", "admin.listen=127.0.0.1:0"];
const REGISTRY_PORTS: [&str; 2] = ["--set", "http.listen=127.0.0.1:0"];
/// Maximal exposure level of a unit in `systemd-analyze security`, times ten. systemd 252 reports 11.
const MOST_EXPOSED: &str = "--threshold=15";
const SERVICES: [&str; 2] = ["chappe-node.service", "chappe-registry.service"];
const SOCKETS: [&str; 5] = [
    "chappe-node-client.socket",
    "chappe-node-federation.socket",
    "chappe-node-turn.socket",
    "chappe-node-http.socket",
    "chappe-registry-http.socket",
];
/// The first systemd version with `RestartSteps=`.
const KNOWS_BACKOFF: u32 = 254;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// Runs a daemon until it is ready, and stops it like a service manager.
fn starts_and_stops(command: &mut Command) {
    let mut daemon = Running::start(command);
    daemon.event("ready");
    daemon.signal("TERM");
    let output = daemon.finish();
    assert!(output.status.success(), "{command:?}: {:?}", texts(&output));
}

/// The value of a key that occurs once in a unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}="));
    assert_eq!(values.next(), None, "{key}= twice");
    value
}

#[test]
fn systemd_accepts_the_units_and_rates_them_as_hardened() {
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).stdin(Stdio::null()).output();
    let Ok(version) = analyze(&["--version"]) else {
        eprintln!("not run: no systemd-analyze here (Debian: systemd)");
        return;
    };
    let version = texts(&version).0;
    let version: u32 = version.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a version");

    let dir = tempfile::tempdir().expect("a temporary folder");
    for unit in SERVICES.into_iter().chain(SOCKETS) {
        // The binary must exist.
        let text = read(&format!("systemd/{unit}")).replace("/usr/local/bin/chappe", env!("CARGO_BIN_EXE_chappe"));
        fs::write(dir.path().join(unit), text).expect("a writable folder");
    }
    if version >= KNOWS_BACKOFF {
        let folder = dir.path().join("chappe-.service.d");
        fs::create_dir(&folder).expect("a writable folder");
        fs::write(folder.join("backoff.conf"), read("systemd/chappe-.service.d/backoff.conf"))
            .expect("a writable folder");
    }
    for unit in SERVICES.into_iter().chain(SOCKETS) {
        let file = dir.path().join(unit);
        let verified = analyze(&["verify", "--man=no", "--recursive-errors=no", arg(&file)]).expect("it runs");
        let (_, errors) = texts(&verified);
        // Ignore messages about this machine's own units.
        let own: Vec<&str> = errors.lines().filter(|line| line.contains("chappe-")).collect();
        assert!(verified.status.success() && own.is_empty(), "{unit}: {errors}");
        if SOCKETS.contains(&unit) {
            continue;
        }
        let exposed =
            analyze(&["security", "--no-pager", "--offline=true", MOST_EXPOSED, arg(&file)]).expect("it runs");
        assert!(exposed.status.success(), "{unit}: {:?}", texts(&exposed));
        let level = texts(&exposed).0.lines().last().unwrap_or_default().to_owned();
        println!("{unit}: {level}");
    }
}

#[test]
fn a_socket_unit_has_the_name_and_the_default_address_of_its_key() {
    let template = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name)).expect("a template")
    };
    let (node, registry) = (template("node.toml"), template("bootstrap.toml"));
    for (unit, listen, name, service, template) in [
        (SOCKETS[0], "ListenStream", "client", "chappe-node.service", &node),
        (SOCKETS[1], "ListenDatagram", "federation", "chappe-node.service", &node),
        (SOCKETS[2], "ListenDatagram", "turn", "chappe-node.service", &node),
        (SOCKETS[3], "ListenStream", "http", "chappe-node.service", &node),
        (SOCKETS[4], "ListenStream", "http", "chappe-registry.service", &registry),
    ] {
        let text = read(&format!("systemd/{unit}"));
        assert_eq!((value(&text, "FileDescriptorName"), value(&text, "Service")), (name, service), "{unit}");
        let addr = value(&text, listen);
        // The relay for media is off by default; its port is that of STUN.
        let is_default = ["listen", "http_listen"].iter().any(|key| template.contains(&format!("#{key} = \"{addr}\"")));
        assert!(is_default || (name == "turn" && addr == "0.0.0.0:3478"), "{unit}: {addr}");
    }
}

#[test]
fn a_unit_starts_its_daemon_with_the_files_of_init() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let here = |path: &str| path.replace("/var/lib", arg(dir.path()));
    for (unit, daemon, ports) in
        [("chappe-node", "node", &NODE_PORTS[..]), ("chappe-registry", "bootstrap", &REGISTRY_PORTS[..])]
    {
        let text = read(&format!("systemd/{unit}.service"));
        let line = here(value(&text, "ExecStart"));
        let line: Vec<&str> = line.split(' ').collect();
        assert_eq!(line[..4], ["/usr/local/bin/chappe", daemon, "run", "--config"], "{unit}");
        assert_eq!(here(value(&text, "AssertPathExists")), line[4], "{unit}");

        let made = finished(&[daemon, "init", "--config", line[4]]);
        assert!(made.status.success(), "{unit}: {:?}", texts(&made));
        let data = dir.path().join(value(&text, "StateDirectory"));
        starts_and_stops(&mut chappe(&[&["--json"][..], &line[1..], ports].concat()));
        // No other folder is writable for the unit.
        assert!(fs::read_dir(&data).is_ok_and(|mut files| files.next().is_some()), "{unit}: {}", data.display());
    }
}

#[test]
fn daemons_behind_a_proxy_accept_the_keys_of_the_samples() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let node = dir.path().join("node.toml");
    fs::write(&node, read("proxy/node.toml")).expect("a writable folder");
    let run = ["--json", "node", "run", "--config", arg(&node)];
    starts_and_stops(&mut chappe(&[&run[..], &NODE_PORTS[..]].concat()));

    let registry = dir.path().join("registry/bootstrap.toml");
    let root = root_of(&finished(&["--json", "bootstrap", "init", "--config", arg(&registry)]));
    let text = read("proxy/bootstrap.toml") + &format!("[federation]\nroots = [\"{root}\"]\n");
    fs::write(&registry, text).expect("a writable folder");
    let run = ["--json", "bootstrap", "run", "--config", arg(&registry)];
    starts_and_stops(&mut chappe(&[&run[..], &REGISTRY_PORTS[..]].concat()));
}

fn root_of(made: &std::process::Output) -> String {
    assert!(made.status.success(), "{:?}", texts(made));
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    made["root"].as_str().expect("a root key").to_owned()
}

/// The text between two lines of the compose file.
fn block<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let (_, rest) = text.split_once(first).unwrap_or_else(|| panic!("no {first}"));
    rest.split_once(last).unwrap_or_else(|| panic!("no {last}")).0
}

/// The command of a service in the compose file, with its arguments and environment.
fn service(block: &str) -> Command {
    let mut lines = block.lines().map(str::trim);
    let command = lines.find_map(|line| line.strip_prefix("command: [")?.strip_suffix(']')).expect("a command");
    let args: Vec<&str> = ["--json"].into_iter().chain(command.split(", ")).collect();
    let mut service = chappe(&args);
    for line in block.lines().map(str::trim).filter(|line| line.starts_with("CHAPPE_")) {
        let (name, value) = line.split_once(": ").expect("a name and a value");
        service.env(name, value.trim_matches('\''));
    }
    service
}

#[test]
fn compose_starts_each_daemon_with_the_files_of_setup() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let setup = dir.path().join("setup.sh");
    fs::copy(deploy("compose/setup.sh"), &setup).expect("a copy");
    // Replaces the container: the folder for `--volume FOLDER:/var/lib/chappe`, and the binary for the image.
    let engine = dir.path().join("engine");
    let binary = env!("CARGO_BIN_EXE_chappe");
    let script =
        format!("#!/bin/sh\nset -e\n[ \"$7\" = --volume ]\ncd \"${{8%%:*}}\"\nshift 9\nexec '{binary}' \"$@\"\n");
    fs::write(&engine, script).expect("a writable folder");
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let own = fs::metadata(dir.path()).expect("a folder");
    let made = Command::new(&setup)
        .env("CONTAINER_ENGINE", &engine)
        .env("CHAPPE_USER", format!("{}:{}", own.uid(), own.gid()))
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    assert!(made.status.success(), "{:?}", texts(&made));
    let federation = dir.path().join("federation");
    assert!(federation.join("root.key").is_file() && !federation.join("registry/root.key").exists());
    let variables = fs::read_to_string(dir.path().join(".env")).expect("variables for compose");
    assert!(variables.contains("CHAPPE_BIND=127.0.0.1\n"), "{variables}");
    // A second run changes nothing.
    let again = Command::new(&setup).stdin(Stdio::null()).output().expect("bash");
    assert_eq!(again.status.code(), Some(1));

    let compose = read("compose/compose.yml");
    let mut registry = service(block(&compose, "\n  registry:\n", "\n  node1:\n"));
    starts_and_stops(registry.args(REGISTRY_PORTS).args(ADMIN_PORT).current_dir(federation.join("registry")));
    for node in ["node1", "node2", "node3"] {
        let config = fs::read_to_string(federation.join(node).join("node.toml")).expect("a config");
        let at = block(&compose, &format!("\n  {node}:\n"), "}\n");
        let (_, address) = at.split_once("ipv4_address: ").expect("an address");
        assert!(config.contains(&format!("\"{}:8711\"", address.trim())), "{node}: {address}");
        let (_, ports) = at.split_once("${CHAPPE_BIND}:").expect("a port");
        let port = &ports[..4];
        assert!(config.contains(&format!("\"ws://127.0.0.1:{port}\"")), "{node}: {port}");
        let mut command = service(block(&compose, "\nx-node:", "\nservices:\n"));
        command
            .args(NODE_PORTS)
            .args(ADMIN_PORT)
            .args(["--set", "registry.urls=[]"])
            .current_dir(federation.join(node));
        starts_and_stops(&mut command);
    }
}
