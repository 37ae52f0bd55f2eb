//! `chappe up` as a process.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Running, arg, chappe, finished, get, texts};

#[test]
fn up_once_makes_a_call_over_two_nodes_and_leaves_nothing_behind() {
    let output = finished(&["up", "--once", "--json"]);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "nothing to warn of");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("every line is an object")).collect();
    let ready = &lines[0];
    assert_eq!(ready["event"], "ready");
    assert!(ready["registry"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
    let nodes = ready["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert!(node["client_url"].as_str().is_some_and(|url| url.starts_with("ws://127.0.0.1:")));
        assert!(node["admin_url"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
        assert!(node["quic_addr"].as_str().is_some_and(|addr| addr.starts_with("127.0.0.1:")));
    }
    let call = lines.last().expect("a last line");
    assert_eq!((&call["event"], &call["ok"]), (&"call".into(), &true.into()));
    assert_ne!(call["caller_node"], call["callee_node"]);
    for side in ["caller_node", "callee_node"] {
        assert!(nodes.iter().any(|node| node["id"] == call[side]), "{call}");
    }
    // Offer, answer, candidates in both directions, hangup.
    assert!(call["delivered"].as_u64().is_some_and(|delivered| delivered >= 5), "{call}");
    assert!(call["audio_packets"].as_u64().is_some_and(|packets| packets >= 100), "{call}");
    assert!(call["setup_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{call}");
    let steps: Vec<u64> = lines.iter().filter_map(|line| line["ms"].as_u64()).collect();
    assert!(steps.len() > 10 && steps.is_sorted(), "the steps are in the order of time: {steps:?}");
    assert!(!std::path::Path::new(ready["dir"].as_str().expect("a folder")).exists());
}

#[test]
fn up_runs_until_a_stop_signal_and_keeps_a_named_folder() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let args = ["up", "--json", "--nodes", "1", "--dir", arg(dir.path())];
    let mut roots = Vec::new();
    for signal in ["INT", "TERM"] {
        let mut up = Running::start(&mut chappe(&args));
        roots.push(up.event("ready")["root"].clone());
        assert_eq!(up.event("call")["ok"], true);
        let stopping = Instant::now();
        up.signal(signal);
        let output = up.finish();
        assert!(output.status.success(), "{:?}", texts(&output));
        assert!(stopping.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(roots[0], roots[1], "the second start finds the federation of the first");
    for file in ["registry/root.key", "registry/bootstrap.toml", "node-1/node.toml", "node-1/node.key", "alice"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
}

#[test]
fn up_without_a_call_runs_until_a_stop_signal_and_has_called_nobody() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let args = ["up", "--json", "--nodes", "2", "--no-call", "--dir", arg(dir.path())];
    let mut up = Running::start(&mut chappe(&args));
    let ready = up.event("ready");
    let url = ready["nodes"][0]["client_url"].as_str().expect("a URL").trim_start_matches("ws://");
    assert_eq!(get(url.trim_end_matches("/ws"), "/health").0, 200);
    up.signal("TERM");
    let output = up.finish();
    assert!(output.status.success(), "{:?}", texts(&output));
    assert_eq!(texts(&output).0, "", "nothing after `ready`");
    assert!(dir.path().join("node-2/node.toml").exists() && !dir.path().join("alice").exists());
    assert_eq!(finished(&["up", "--once", "--no-call"]).status.code(), Some(2));
}

#[test]
fn up_reports_an_early_stop() {
    let mut up = Running::start(&mut chappe(&["up", "--json"]));
    up.event("ready");
    up.signal("TERM");
    let output = up.finish();
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("error: stopped before the call was over"), "{:?}", texts(&output));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    // Leaves space for the consecutive ports below 65536.
    if port > 65_000 {
        return;
    }
    let output = finished(&["up", "--once", "--port", &port.to_string()]);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(&format!("127.0.0.1:{port}")) && stderr.contains("http.listen"), "{stderr}");
    assert!(stderr.contains("another process uses this address"), "{stderr}");
}

#[test]
fn settings_of_up_reach_its_nodes() {
    let output = finished(&["up", "--once", "--set", "client.lissten=1"]);
    let (_, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("--set: unknown key client.lissten; the keys of [client] are listen,"), "{stderr}");
    let output = finished(&["up", "--once", "--nodes", "21"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn up_demo_says_in_one_line_what_the_page_lacks_and_goes_on() {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut up = Running::start(chappe(&["up", "--json", "--nodes", "1", "--demo"]).current_dir(elsewhere.path()));
    let page = up.event("page");
    let error = page["error"].as_str().expect("no page is built here");
    assert!(error.contains("run this there") && !error.contains('\n'), "{error}");
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    up.signal("INT");
    assert!(up.finish().status.success());
    // In the repository, without Node.
    let nowhere = [("PATH", elsewhere.path())];
    let mut up =
        Running::start(chappe(&["up", "--json", "--nodes", "1", "--demo"]).current_dir(repository).envs(nowhere));
    let error = up.event("page")["error"].as_str().expect("there is no Node").to_owned();
    assert!(error.contains("apt install nodejs npm") && !error.contains('\n'), "{error}");
    up.signal("INT");
    assert!(up.finish().status.success());
}
