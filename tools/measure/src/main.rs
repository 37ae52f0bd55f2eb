//! Measures start, call setup and memory of real processes: `cargo xtask measure [--json]`.
//!
//! The time of `chappe up --once`; the time from a call's offer to its answer, over one node and over two; the memory
//! of a node without sessions and with a thousand idle ones.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use chappe_client::{Client, Event, Events, contact::ContactId, profile::Profile};
use chappe_common::{code::PairingCode, keys::SecretKey};
use chappe_harness::{
    figures::{Figures, percentile},
    process::{self, Process, init},
};
use chappe_testkit::{
    PATIENCE, http,
    raw::{Raw, now_ms},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const CALLS: usize = 100;
const SESSIONS: u32 = 1000;

#[tokio::main]
async fn main() -> ExitCode {
    let figures = Figures::from_args();
    figures.remark("building the binary…");
    if !process::is_built() {
        eprintln!("error: cargo build -p chappe failed");
        return ExitCode::FAILURE;
    }
    measure_up(figures).await;
    let federation = Processes::start().await;
    measure_calls(figures, &federation, "same node", 0, 0).await;
    measure_calls(figures, &federation, "cross node", 0, 1).await;
    measure_memory(figures, &federation.nodes[2]).await;
    ExitCode::SUCCESS
}

async fn measure_up(figures: Figures) {
    figures.remark("chappe up --once…");
    let since = Instant::now();
    let mut process = Process::start(&["up", "--once"]);
    let mut last = Value::Null;
    while last["event"] != "call" {
        last = process.line().await;
    }
    assert!(process.succeeded().await, "{last}");
    figures.print("up --once, from start to exit", since.elapsed().as_secs_f64(), "s", None);
    let setup = last["setup_ms"].as_f64().expect("a number");
    figures.print("up --once, setup_ms of its call", setup, "ms", None);
}

/// A registry and three nodes, each a process.
struct Processes {
    nodes: Vec<Running>,
    _registry: Process,
    _dir: TempDir,
}

struct Running {
    process: Process,
    id: String,
    url: String,
}

impl Processes {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("bootstrap.toml");
        let root = init("bootstrap", &config, &[]).await["root"].as_str().expect("a key").to_owned();
        let exempt = "limits.exempt=[\"127.0.0.0/8\"]";
        let run = ["run", "--config", config.to_str().expect("a path")];
        let local = ["--set", "http.listen=127.0.0.1:0", "--set", exempt];
        let mut registry = Process::start(&[&["bootstrap"], &run[..], &local].concat());
        let url = registry.line().await["registry"].as_str().expect("a URL").to_owned();
        let mut nodes = Vec::new();
        for number in 0..3 {
            let config = dir.path().join(format!("node{number}")).join("node.toml");
            std::fs::create_dir(config.parent().expect("a folder")).expect("a folder");
            init("node", &config, &["--registry", &url, "--root", &root]).await;
            let mut process = Process::start(&[
                "node",
                "run",
                "--config",
                config.to_str().expect("a path"),
                "--set",
                "client.listen=127.0.0.1:0",
                "--set",
                "federation.listen=127.0.0.1:0",
                "--set",
                exempt,
                "--set",
                "limits.offers_per_minute=100000",
                // Three nodes in one network.
                "--set",
                "federation.exempt=[\"127.0.0.0/8\"]",
            ]);
            let ready = process.line().await;
            let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
            nodes.push(Running { process, id: text("id"), url: text("client_url") });
        }
        let http = http::client();
        for node in &nodes {
            let stats = node.url.replace("ws://", "http://") + "/stats";
            let joined = async {
                loop {
                    let answer = http.get(&stats).send().await.expect("an answer").text().await.expect("a body");
                    let answer: Value = serde_json::from_str(&answer).expect("JSON");
                    if answer["members"] == 3 {
                        break;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, joined).await.expect("the nodes find each other in time");
        }
        Self { nodes, _registry: registry, _dir: dir }
    }
}

async fn client(node: &Running, name: &str) -> (Client, Events, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let profile = Profile::open_or_create(dir.path().join("profile"), name).expect("a profile");
    let address = format!("{}#{}", node.url, node.id).parse().expect("an address");
    let (client, events) = Client::builder(profile).node(address).connect().await.expect("a connection");
    (client, events, dir)
}

/// From the call of the library to the answer in the caller's hands: lookup, sealing and both ways.
async fn measure_calls(figures: Figures, federation: &Processes, what: &str, from: usize, to: usize) {
    figures.remark(&format!("{CALLS} calls, {what}…"));
    let (caller, _caller_events, _caller_dir) = client(&federation.nodes[from], "Ada").await;
    let (callee, mut callee_events, _callee_dir) = client(&federation.nodes[to], "Bob").await;
    let shown = callee.show_code().await.expect("a code");
    let code = shown.code().parse().expect("the code reads back");
    let (paired, waited) = tokio::join!(caller.pair(&code), shown.paired());
    waited.expect("paired");
    let contact: ContactId = paired.expect("paired").contact.id();
    let answering = tokio::spawn(async move {
        while let Some(event) = callee_events.next().await {
            if let Event::IncomingCall { call, .. } = event {
                call.accept("v=0").await.expect("a call that rings");
            }
        }
    });
    // A session description of a browser, with its candidates.
    let offer = "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\r\n".repeat(40);
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let since = Instant::now();
        let call = caller.call(contact, offer.clone()).await.expect("no other call");
        timeout(PATIENCE, call.answered()).await.expect("in time").expect("an answer");
        times.push(since.elapsed().as_secs_f64() * 1000.0);
        call.hang_up().await.expect("a call to end");
        timeout(PATIENCE, call.ended()).await.expect("in time");
        // The callee has one call at a time, and hears of the end a moment later.
        sleep(Duration::from_millis(20)).await;
    }
    answering.abort();
    figures.print(&format!("setup_ms, {what}, {CALLS} calls, median"), percentile(&mut times, 0.5), "ms", None);
    figures.print(&format!("setup_ms, {what}, {CALLS} calls, p99"), percentile(&mut times, 0.99), "ms", None);
    caller.shutdown().await;
    callee.shutdown().await;
}

/// Each session is registered by a code and has one inbox attached.
async fn measure_memory(figures: Figures, node: &Running) {
    figures.remark(&format!("{SESSIONS} idle sessions…"));
    #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
    let mib = |kib: u64| kib as f64 / 1024.0;
    let before = node.process.resident_kib();
    figures.print("memory of a node, no session", mib(before), "MiB", None);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let mut raw = Raw::connect(&node.url).await;
        let code = PairingCode::from_random(number);
        let key = "A".repeat(43) + "=";
        raw.send(json!({"type": "register", "pairingCode": code.as_str(), "publicKey": key})).await;
        raw.expect("registered").await;
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        raw.attach(&SecretKey::from_bytes(&seed), now_ms()).await;
        sessions.push(raw);
    }
    sleep(Duration::from_secs(2)).await;
    let after = node.process.resident_kib();
    figures.print(&format!("memory of a node, {SESSIONS} idle sessions"), mib(after), "MiB", None);
    #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
    let each = after.saturating_sub(before) as f64 / f64::from(SESSIONS);
    figures.print("memory of an idle session", each, "KiB", None);
}
