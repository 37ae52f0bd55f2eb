//! A node that sleeps because of its budget returns to its federation when its month is over, without a restart.

use std::{fs, process::Command, time::Duration};

use chappe_node::{Node, NodeConfig, clock::Clock};
use chappe_testkit::{eventually, federation::Federation};
use serde_json::{Value, json};

const DAYS: Duration = Duration::from_secs(24 * 3600);
const MONTHLY: u64 = 1_000_000_000;

/// A day at which a month of the budget has begun today or in the last days, but not in the last five before those.
fn first_day() -> u8 {
    let output = Command::new("date").args(["-u", "+%d"]).output().expect("coreutils");
    let today: u8 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a day");
    today.min(28)
}

/// Changes the state so that the budget of the month before is used up, in which the node was awake all the time.
fn use_up_last_month(config: &NodeConfig) {
    let path = config.node.data_dir.join("budget");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    let month = state["bytes"].as_object().expect("months").keys().next().expect("a month").clone();
    let (year, number) = month.split_once('-').expect("year and month");
    let (year, number): (u32, u32) = (year.parse().expect("a year"), number.parse().expect("a month"));
    let last = if number == 1 { format!("{:04}-12", year - 1) } else { format!("{year:04}-{:02}", number - 1) };
    let counted_at = state["counted_at"].as_u64().expect("a time") - 5 * DAYS.as_secs();
    state["bytes"] = json!({ last.as_str(): MONTHLY });
    state["counted_at"] = json!(counted_at);
    state["awake"] = json!([last, counted_at - 30 * DAYS.as_secs()]);
    state["slept"] = json!([last, { "secs": 40 * DAYS.as_secs(), "nanos": 0 }]);
    fs::write(path, state.to_string()).expect("a writable folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_node_returns_when_its_month_is_over() {
    let first_day = first_day();
    let mut federation = Federation::start(2, |_| {}).await;
    let config = federation.node_config(2, |config| {
        config.budget.monthly_bytes = MONTHLY;
        config.budget.first_day = first_day;
        config.budget.interfaces = vec!["lo".to_owned()];
    });
    let node = Node::spawn(config.clone()).await.expect("a node");
    let sees = |node: &Node, count: usize| node.members() == count;
    eventually("it has joined", || sees(&node, 3)).await;
    node.shutdown().await;
    eventually("it has left", || federation.nodes.iter().all(|node| sees(node, 2))).await;
    use_up_last_month(&config);

    // It is still the month before.
    let clock = Clock::behind(5 * DAYS);
    let node = Node::spawn_by(config, clock.clone()).await.expect("a node");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sees(&node, 1) && federation.nodes.iter().all(|node| sees(node, 2)), "it sleeps");
    clock.set_like(&Clock::default());
    federation.nodes.push(node);
    federation.settle().await;
    federation.shutdown().await;
}
