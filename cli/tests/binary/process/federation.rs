//! A registry and nodes as processes, created by `init` and started by `run`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Running, arg, chappe, finished, get, texts};

/// A federation of processes.
pub(crate) struct Federation {
    pub(crate) dir: TempDir,
    pub(crate) registry: Option<Running>,
    pub(crate) nodes: Vec<Running>,
    pub(crate) url: String,
    pub(crate) root: String,
}

impl Federation {
    /// A registry and `count` nodes.
    pub(crate) fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("registry/bootstrap.toml");
        let root = init_registry(&config);
        let (registry, url) = start_registry(&config);
        let mut federation = Self { dir, registry: Some(registry), nodes: Vec::new(), url, root };
        for number in 0..count {
            let node = federation.start_node(number);
            federation.nodes.push(node);
        }
        federation
    }

    /// Starts the node with this number, and waits until it is ready.
    pub(crate) fn start_node(&self, number: usize) -> Running {
        let mut node = Running::start(&mut self.node(number));
        let ready = node.event("ready");
        assert_eq!(ready["client_url"], format!("ws://{}", ready["client_addr"].as_str().expect("an address")));
        node
    }

    /// The folder of a node's config.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node-{number}"))
    }

    /// The command that runs a node, whose config and key are created first.
    pub(crate) fn node(&self, number: usize) -> Command {
        let folder = self.folder(number);
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("node.toml");
        if !config.exists() {
            let args = ["node", "init", "--config", arg(&config), "--region", "here"];
            let made = finished(&[&args[..], &self.network()].concat());
            assert!(made.status.success(), "{:?}", texts(&made));
        }
        run_node(&config)
    }

    /// The options that configure a client.
    pub(crate) fn network(&self) -> [&str; 4] {
        ["--registry", &self.url, "--root", &self.root]
    }

    /// Waits until a client finds a node.
    pub(crate) fn wait_for_a_node(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = finished(&[&["--json", "discover"][..], &self.network()].concat());
            if output.status.success() {
                assert!(texts(&output).0.contains("\"region\":\"here\""), "{:?}", texts(&output));
                return;
            }
            assert!(Instant::now() < deadline, "{:?}", texts(&output));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The ready line of a node.
pub(crate) struct Listening {
    pub(crate) process: Running,
    /// The node in the format of `--node`.
    pub(crate) address: String,
    pub(crate) client: String,
    pub(crate) admin: String,
}

impl Listening {
    /// Starts a node of [`Federation::node`] with an admin address.
    pub(crate) fn start(command: &mut Command) -> Self {
        // Tests send more requests than one source may.
        command.env("CHAPPE_ADMIN__LISTEN", "127.0.0.1:0").env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]");
        let mut process = Running::start(command);
        let ready = process.event("ready");
        let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
        let admin = text("admin_url").trim_start_matches("http://").to_owned();
        let address = format!("{}#{}", text("client_url"), text("id"));
        Self { process, address, client: text("client_addr"), admin }
    }

    /// The status and the body of `/health`.
    pub(crate) fn health(&self) -> (u16, Value) {
        let (status, body) = get(&self.client, "/health");
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    /// A value of `/metrics`. The name of a counter ends in `_total`.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        metric(&self.admin, name)
    }

    /// Waits until a value of `/metrics` is as expected.
    pub(crate) fn wait_for(&self, name: &str, is_right: impl Fn(i64) -> bool) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name);
            if is_right(value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{name} is {value}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A value of a daemon's `/metrics`.
pub(crate) fn metric(admin: &str, name: &str) -> i64 {
    let (_, text) = get(admin, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().parse().expect("a whole number")
}

/// The command that runs a node with its config on free ports of loopback.
pub(crate) fn run_node(config: &Path) -> Command {
    let mut command =
        chappe(&["--json", "node", "run", "--config", arg(config), "--set", "federation.listen=127.0.0.1:0"]);
    command
        .env("CHAPPE_CLIENT__LISTEN", "127.0.0.1:0")
        .env("CHAPPE_FEDERATION__EXEMPT", "[\"127.0.0.0/8\"]")
        .env("CHAPPE_TIMES__DRAIN", "1s");
    command
}

/// Creates a registry's config and keys. Returns the root key.
pub(crate) fn init_registry(config: &Path) -> String {
    let mut init = Running::start(&mut chappe(&["--json", "bootstrap", "init", "--config", arg(config)]));
    init.event("made")["root"].as_str().expect("a key").to_owned()
}

/// The command that runs a registry with its config on a free port of loopback.
pub(crate) fn run_registry(config: &Path) -> Command {
    chappe(&["--json", "bootstrap", "run", "--config", arg(config), "--set", "http.listen=127.0.0.1:0"])
}

/// Starts a registry on a free port. Returns its URL.
pub(crate) fn start_registry(config: &Path) -> (Running, String) {
    start_registry_at(config, "127.0.0.1:0")
}

/// Starts a registry at this address. Returns its URL.
pub(crate) fn start_registry_at(config: &Path, listen: &str) -> (Running, String) {
    let set = format!("http.listen={listen}");
    let mut registry =
        Running::start(&mut chappe(&["--json", "bootstrap", "run", "--config", arg(config), "--set", &set]));
    let url = registry.event("ready")["registry"].as_str().expect("a URL").to_owned();
    (registry, url)
}
