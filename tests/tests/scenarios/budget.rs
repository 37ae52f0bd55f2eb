//! A node that sleeps because of its budget leaves in order, and returns to its federation when its month is over, without a
//! restart.

use std::{
    fs,
    net::UdpSocket,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::record::Abilities;
use chappe_discovery::{registry::RegistryClient, source::Source as _};
use chappe_node::{Node, NodeConfig, clock::Clock};
use chappe_testkit::{
    PATIENCE, eventually,
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
    rerun::rerun,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use turn::client::{Client, ClientConfig};

use crate::turn::allocate;

const DAYS: Duration = Duration::from_secs(24 * 3600);
const MONTHLY: u64 = 1_000_000_000;
/// More than all other tests send over this machine's loopback, which a node counts with its own.
const BEYOND_OTHERS: u64 = 1_000 * MONTHLY;

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
    state["bytes"] = json!({ last.as_str(): BEYOND_OTHERS });
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
        config.budget.monthly_bytes = BEYOND_OTHERS;
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
    sleep(Duration::from_secs(2)).await;
    assert!(sees(&node, 1) && federation.nodes.iter().all(|node| sees(node, 2)), "it sleeps");
    clock.set_like(&Clock::default());
    federation.nodes.push(node);
    federation.settle().await;
    federation.shutdown().await;
}

/// Sends packets over loopback, where each counts as received and sent, until the month's bytes are used.
fn use_up_this_month() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let own = socket.local_addr().expect("bound");
    for _ in 0..MONTHLY / 2 / 60_000 + 1 {
        // Nobody reads them.
        let _ = socket.send_to(&[0; 60_000], own);
    }
}

/// Whether the node's relay makes an allocation for this credential.
async fn can_allocate(server: &Value, addr: String) -> bool {
    let text = |key: &str| server[key].as_str().expect("a text").to_owned();
    let client = Client::new(ClientConfig {
        stun_serv_addr: addr.clone(),
        turn_serv_addr: addr,
        username: text("username"),
        password: text("credential"),
        realm: "turn".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket")),
        vnet: None,
    })
    .await
    .expect("a client");
    client.listen().await.expect("it listens");
    client.allocate().await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_while_it_falls_asleep_drains_its_clients_and_leaves() {
    let federation = Federation::start(2, |_| {}).await;
    let config = federation.node_config(2, |config| {
        no_limits(config);
        config.times.drain = Duration::from_secs(8);
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
        config.budget.monthly_bytes = MONTHLY;
        config.budget.interfaces = vec!["lo".to_owned()];
    });
    let node = Node::spawn(config).await.expect("a node");
    eventually("it has joined", || node.members() == 3).await;
    let turn = node.addrs().turn.expect("it listens").to_string();
    let mut client = Raw::connect(node.client_url()).await;
    client.attach(&inbox(1).0, now_ms()).await;
    client.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    let server = client.expect("ice_servers").await["iceServers"][0].clone();
    assert!(can_allocate(&server, turn.clone()).await);

    tokio::task::spawn_blocking(use_up_this_month).await.expect("no panic");
    client.expect("going_away").await;
    let began = Instant::now();
    let stopping = tokio::spawn(node.shutdown());
    assert!(!can_allocate(&server, turn).await, "the relay takes no new calls while clients leave");
    // The client stays for a while, as one that completes a call.
    while began.elapsed() < Duration::from_secs(4) {
        client.send(json!({"type": "ping"})).await;
        while client.next().await["type"] != "pong" {}
        sleep(Duration::from_millis(200)).await;
    }
    eventually("it has left", || federation.nodes.iter().all(|node| node.members() == 2)).await;
    drop(client);
    timeout(PATIENCE, stopping).await.expect("it stops").expect("no panic");
    federation.shutdown().await;
}

/// Whether the node's record at the registry offers a relay. `None` if the registry does not list the node.
async fn offers_relay(federation: &Federation, node: &Node) -> Option<bool> {
    let registry = RegistryClient::new([federation.registry_url()], vec![federation.root()], &Default::default());
    let listing = registry.expect("a registry").list(std::time::SystemTime::now().into()).await.ok()?;
    let record = listing.lists.iter().flat_map(|list| &list.records).find(|record| record.node == node.id())?;
    Some(record.abilities.contains(Abilities::ICE_SERVERS))
}

/// Waits until the node's record at the registry offers a relay, or none.
async fn until_offered(federation: &Federation, expected: bool) {
    let offered = async {
        while offers_relay(federation, &federation.nodes[0]).await != Some(expected) {
            sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(timeout(2 * PATIENCE, offered).await.is_ok(), "the record offers a relay: {expected}");
}

/// The ICE servers of a session.
async fn ice_servers(session: &mut Raw) -> Value {
    session.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    session.expect("ice_servers").await["iceServers"].clone()
}

/// Set in the network namespace, in which only this test sends packets.
const INSIDE: &str = "CHAPPE_TEST_NAMESPACE";
const NAME: &str = "budget::at_90_percent_a_running_allocation_goes_on_and_the_relay_is_offered_no_more";

#[tokio::test(flavor = "multi_thread")]
async fn at_90_percent_a_running_allocation_goes_on_and_the_relay_is_offered_no_more() {
    if std::env::var_os(INSIDE).is_none() {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
            command
        };
        if unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
            rerun(unshare().env(INSIDE, "1"), NAME);
        } else {
            println!("skipped: needs unshare (util-linux), ip (iproute2), and network namespaces");
        }
        return;
    }
    let first_day = first_day();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
        config.budget.monthly_bytes = MONTHLY;
        config.budget.first_day = first_day;
        config.budget.interfaces = vec!["lo".to_owned()];
    })
    .await;
    let node = &federation.nodes[0];
    let turn = node.addrs().turn.expect("it listens");
    until_offered(&federation, true).await;
    let mut session = Raw::connect(node.client_url()).await;
    session.attach(&inbox(1).0, now_ms()).await;
    let servers = ice_servers(&mut session).await;
    assert!(servers[0]["credential"].is_string());
    let (client, relayed) = allocate(&servers[0], turn).await;
    let peer = tokio::net::UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    let to = peer.local_addr().expect("bound");

    // Each packet counts as sent and received. With its headers, and what else the test sends, this is less than 95 %.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..MONTHLY / 100 * 92 / 2 / 60_000 {
        // Nobody reads them.
        let _ = socket.send_to(&[0; 60_000], socket.local_addr().expect("bound"));
    }
    until_offered(&federation, false).await;
    let servers = ice_servers(&mut session).await;
    assert_eq!(servers[0]["urls"], json!([format!("stun:{turn}")]), "a client still learns its own address");
    assert!(servers[0]["username"].is_null() && servers[0]["credential"].is_null() && servers[1].is_null());
    // The running call goes on, also to a new peer.
    let mut packet = [0; 100];
    relayed.send_to(b"media", to).await.expect("it is sent");
    let (len, _) = timeout(PATIENCE, peer.recv_from(&mut packet)).await.expect("in time").expect("a packet");
    assert_eq!(&packet[..len], b"media");
    client.close().await.expect("it closes");
    federation.shutdown().await;
}
