//! `deploy/prometheus/` and `deploy/grafana/`: promtool accepts the files, and every query finds series of a running node or
//! registry in a real Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::{Federation, Listening, run_registry},
    finished, texts,
    tls::Certificate,
};

const DASHBOARD: &str = "grafana/nodes.json";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// The expressions of the alerts.
fn alerts() -> Vec<String> {
    let rules = read("prometheus/rules.yml");
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let expressions: Vec<_> = expressions.map(str::to_owned).collect();
    assert_eq!(expressions.len(), rules.matches("- alert: ").count(), "each expression is on one line");
    expressions
}

/// The queries of the dashboard's panels and of its variables, as Grafana would send them.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect();
    let graphs = panels.iter().filter(|panel| panel["type"] != "row");
    assert!(graphs.into_iter().all(|panel| panel["targets"].as_array().is_some_and(|targets| !targets.is_empty())));
    queries.into_iter().map(|query| query.replace("$__rate_interval", "30s").replace("$instance", ".*")).collect()
}

/// The selectors of series in an expression, such as `up{job="x"}`.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let name = &rest[start..];
        let len = name.find(|letter| !is_name(letter)).unwrap_or(name.len());
        rest = &name[len..];
        if name.starts_with("chappe_") || &name[..len] == "up" {
            let labels = if rest.starts_with('{') { rest.find('}').map_or(0, |end| end + 1) } else { 0 };
            found.insert(name[..len + labels].to_owned());
            rest = &rest[labels..];
        } else if rest.starts_with('"') || rest.starts_with('{') {
            rest = &rest[1..];
        }
    }
    found
}

#[test]
fn selectors_are_found_in_expressions() {
    let found = |expression| selectors(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(found("up{job=\"chappe-node\"} == 0"), ["up{job=\"chappe-node\"}"]);
    assert_eq!(
        found("sum by (code) (rate(chappe_a_total{instance=~\".*\"}[5m])) > 0.5 * chappe_b"),
        ["chappe_a_total{instance=~\".*\"}", "chappe_b"]
    );
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules() {
    for (kind, file) in [("config", "prometheus/scrape.yml"), ("rules", "prometheus/rules.yml")] {
        let Ok(checked) = Command::new("promtool").args(["check", kind]).arg(deploy(file)).output() else {
            println!("skipped: no promtool here (Debian: prometheus)");
            return;
        };
        assert!(checked.status.success(), "{file}: {:?}", texts(&checked));
    }
}

/// The values after a key, one for each line with it.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(key)).collect()
}

#[test]
fn compose_watches_each_of_its_daemons() {
    let (compose, config) = (read("compose/compose.yml"), read("compose/monitoring/prometheus.yml"));
    let targets = values(&config, "- targets: ").join(" ");
    let of = |daemon: &str, port: u16| {
        let (_, service) = compose.split_once(&format!("\n  {daemon}:\n")).expect("a service");
        let (_, address) = service.split_once("ipv4_address: ").expect("an address");
        format!("{}:{port}", address.split(' ').next().unwrap_or_default())
    };
    let daemons = [of("registry", 8702), of("node1", 8712), of("node2", 8712), of("node3", 8712)];
    assert!(daemons.iter().all(|daemon| targets.contains(&format!("\"{daemon}\""))), "{daemons:?} {targets}");
    assert_eq!(targets.matches(':').count(), daemons.len());
    assert_eq!(values(&compose, "CHAPPE_ADMIN__LISTEN: "), ["\"0.0.0.0:8712\"", "\"0.0.0.0:8702\""]);
    // The alerts and the dashboard name jobs.
    assert_eq!(values(&config, "- job_name: "), values(&read("prometheus/scrape.yml"), "- job_name: "));
    // Each mounted file is there: an engine would make a folder in place of one that is missing.
    let mounted: Vec<_> = values(&compose, "- .").iter().filter_map(|line| line.split_once(':')).collect();
    assert_eq!(mounted.len(), 5);
    for (path, _) in mounted {
        let path = deploy("compose").join(format!(".{path}"));
        assert!(path.exists(), "{}", path.display());
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("prometheus.yml"), config).expect("a writable folder");
    fs::write(dir.path().join("rules.yml"), read("prometheus/rules.yml")).expect("a writable folder");
    let Ok(checked) =
        Command::new("promtool").args(["check", "config"]).arg(dir.path().join("prometheus.yml")).output()
    else {
        return println!("skipped: no promtool here (Debian: prometheus)");
    };
    assert!(checked.status.success(), "{:?}", texts(&checked));
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = read("prometheus/rules.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default();
        for part in ["summary: ", "action: ", "severity: "] {
            assert!(rule.contains(part), "{name}: no {part}");
        }
    }
}

/// A running Prometheus, ended on drop.
struct Prometheus {
    child: Child,
    dir: TempDir,
    addr: SocketAddr,
}

impl Prometheus {
    /// Starts it with the samples, which scrape these daemons each second. Returns `None`, and says so, if it is not
    /// installed.
    fn start(nodes: &[&str], registry: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let nodes: Vec<_> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
        let config = read("prometheus/scrape.yml")
            .replace("\"127.0.0.1:8712\"", &nodes.join(", "))
            .replace("127.0.0.1:8702", registry)
            .replace("_interval: 15s", "_interval: 1s");
        fs::write(dir.path().join("scrape.yml"), config).expect("a writable folder");
        fs::write(dir.path().join("rules.yml"), read("prometheus/rules.yml")).expect("a writable folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        drop(listener);
        let log = fs::File::create(dir.path().join("log")).expect("a writable folder");
        let started = Command::new("prometheus")
            .args(["--config.file=scrape.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={addr}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(child) = started else {
            println!("skipped: no prometheus here (Debian: prometheus)");
            return None;
        };
        Some(Self { child, dir, addr })
    }

    /// The response to a request of its API.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.addr).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // Of version 1.0, so that the response is not in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        serde_json::from_str(response.split_once("\r\n\r\n")?.1).ok()
    }

    /// The number of series that a query finds.
    fn count(&self, query: &str) -> usize {
        let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let response = self.ask(&format!("/api/v1/query?query={query}")).unwrap_or_default();
        response["data"]["result"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_query_finds_series_of_a_running_node_or_registry() {
    let mut federation = Federation::start(0);
    // With an address for the operator.
    drop(federation.registry.take());
    let mut command = run_registry(&federation.dir.path().join("registry/bootstrap.toml"));
    let mut registry = Running::start(command.args(["--set", "admin.listen=127.0.0.1:0"]));
    let ready = registry.event("ready");
    federation.url = ready["registry"].as_str().expect("a URL").to_owned();
    let registry_admin = ready["admin_url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let (cert, key) = (federation.dir.path().join("cert.pem"), federation.dir.path().join("key.pem"));
    Certificate::new().write(&cert, &key);
    let node = |number| {
        let mut command = federation.node(number);
        command.env("CHAPPE_TURN__LISTEN", "[\"127.0.0.1:0\"]");
        // Only a node with TLS has the times of a certificate.
        command.env("CHAPPE_CLIENT__TLS_CERT", &cert).env("CHAPPE_CLIENT__TLS_KEY", &key);
        Listening::start(&mut command)
    };
    let nodes = [node(0), node(1)];
    let Some(mut prometheus) = Prometheus::start(&[&nodes[0].admin, &nodes[1].admin], &registry_admin) else { return };
    let alerts = alerts();
    let mut missing: BTreeSet<String> = alerts.iter().flat_map(|alert| selectors(alert)).chain(queries()).collect();
    let total = missing.len();
    assert!(total > 50, "only {total} queries");
    // A rate needs two scrapes.
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        missing.retain(|query| prometheus.count(query) == 0);
        let has_ended = prometheus.child.try_wait().expect("a child of ours");
        let log = || fs::read_to_string(prometheus.dir.path().join("log")).unwrap_or_default();
        assert!(
            has_ended.is_none() && Instant::now() < deadline,
            "of {total}, nothing is found by {missing:#?}\n{}",
            log()
        );
        thread::sleep(Duration::from_millis(500));
    }
    // Both nodes are in the panels, and the rules are loaded and evaluated without errors.
    assert_eq!(prometheus.count("chappe_sessions{instance=~\".*\"}"), 2);
    let rules = prometheus.ask("/api/v1/rules").expect("the rules");
    let groups = rules["data"]["groups"].as_array().expect("groups");
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    assert_eq!(rules.len(), alerts.len());
    let broken: Vec<_> = rules.iter().filter(|rule| rule["health"] == "err").collect();
    assert!(broken.is_empty(), "{broken:#?}");
    // A healthy federation fires no alert.
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert!(firing.is_empty(), "{firing:?}");
    println!("{total} queries and selectors find series; {} alerts are evaluated, none fires", rules.len());
}

#[test]
fn top_shows_what_a_running_node_does() {
    let federation = Federation::start(0);
    let node = Listening::start(&mut federation.node(0));
    let config = federation.folder(0).join("node.toml");
    let admin = format!("admin.listen={}", node.admin);
    // The ports of the running node are set beside its file.
    let ports = ["--set", "client.listen=127.0.0.1:0", "--set", "federation.listen=127.0.0.1:0"];
    let of = [&["node", "top", "--config", arg(&config)][..], &ports].concat();
    let top = [&of[..], &["--set", &admin, "--every", "200ms"]].concat();
    let shown = finished(&[&top[..], &["--once"]].concat());
    let (text, errors) = texts(&shown);
    assert!(shown.status.success(), "{errors}");
    for part in ["healthy", "sessions    0 of 18000, 0/s opened", "1 members", "nothing was refused"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // Not a terminal: nothing but lines.
    assert!(!text.contains('\x1b'), "{text:?}");
    // As JSON, until it is stopped.
    let mut running = Running::start(&mut chappe(&[&["--json"], &top[..]].concat()));
    for _ in 0..2 {
        let line = running.event("figures");
        assert_eq!(line["figures"]["members"], 1.0);
        assert_eq!(line["status"], "healthy");
    }
    drop(running);
    drop(node);
    let (_, errors) = texts(&finished(&[&top[..], &["--once"]].concat()));
    assert!(errors.contains("the node does not answer at http://127.0.0.1:"), "{errors}");
    let text = fs::read_to_string(&config).expect("the config").replace("\nlisten = \"127.0.0.1:8712\"", "");
    fs::write(&config, text).expect("a writable folder");
    let (_, errors) = texts(&finished(&[&of[..], &["--once"]].concat()));
    assert!(errors.contains("node.toml: admin.listen is not set"), "{errors}");
}
