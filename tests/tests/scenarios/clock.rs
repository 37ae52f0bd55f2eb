//! A node whose clock is wrong for a while: in a running federation, and at its start.

use std::time::Duration;

use chappe_node::{Node, clock::Clock};
use chappe_testkit::{
    PATIENCE, eventually,
    federation::Federation,
    raw::{Raw, inbox, now_ms},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

async fn health(node: &Node) -> (u16, Value) {
    let mut stream = TcpStream::connect(node.addrs().client).await.expect("it listens");
    let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    (status, serde_json::from_str(body).expect("JSON"))
}

async fn eventually_is(node: &Node, status: u16, word: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (code, health) = health(node).await;
        if (code, &health["status"]) == (status, &word.into()) {
            return health;
        }
        assert!(tokio::time::Instant::now() < deadline, "{health}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Attaches an inbox, and tries again as clients do: the node's homes may not know yet that its clock is right.
async fn attaches_soon(node: &Node) {
    let mut client = Raw::connect(node.client_url()).await;
    let attached = async {
        loop {
            let item = client.attachment(&inbox(1).0, now_ms(), Duration::from_secs(600));
            client.send(json!({"type": "attach", "id": "attach", "inboxes": [item]})).await;
            if client.expect("attached").await["rejected"] == json!([]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, attached).await.expect("it attaches inboxes again");
}

/// Starts a federation of which the last node goes by a clock of its own.
async fn with_clock(others: usize, clock: &Clock) -> (Federation, Node) {
    let federation = Federation::start(others, |_| {}).await;
    let config =
        federation.node_config(others, |config| config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")]);
    let node = Node::spawn_by(config, clock.clone()).await.expect("a node");
    (federation, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_whose_clock_is_set_wrong_sends_its_clients_away_until_it_is_right() {
    for others in [1, 3] {
        for wrong in [Clock::behind(Duration::from_secs(7200)), Clock::ahead(Duration::from_secs(7200))] {
            let clock = Clock::default();
            let (federation, node) = with_clock(others, &clock).await;
            eventually("it is a member", || node.members() == others + 1).await;
            let mut client = Raw::connect(node.client_url()).await;
            clock.set_like(&wrong);
            client.expect("going_away").await;
            let health = eventually_is(&node, 503, "cut_off").await;
            assert!(health["problems"][0].as_str().is_some_and(|text| text.contains("clock is wrong")), "{health}");
            clock.set_like(&Clock::default());
            eventually_is(&node, 200, "healthy").await;
            assert_eq!(node.members(), others + 1);
            attaches_soon(&node).await;
            node.shutdown().await;
            federation.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_with_a_wrong_clock_is_a_member_soon_after_it_is_right() {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    for wrong in [Clock::behind(since_1970 - Duration::from_secs(60)), Clock::ahead(Duration::from_secs(600))] {
        let clock = Clock::default();
        clock.set_like(&wrong);
        let (federation, node) = with_clock(2, &clock).await;
        // As long as a machine takes that asks a time server at its start.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(node.members(), 1);
        clock.set_like(&Clock::default());
        eventually("it is a member", || node.members() == 3 && federation.nodes.iter().all(|one| one.members() == 3))
            .await;
        eventually_is(&node, 200, "healthy").await;
        node.shutdown().await;
        federation.shutdown().await;
    }
}
