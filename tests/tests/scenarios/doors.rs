//! A registry tries where clients connect to real nodes, hides nodes whose door fails, and believes members that reach one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chappe_bootstrap::BootstrapConfig;
use chappe_discovery::tls;
use chappe_node::{Node, NodeConfig};
use chappe_testkit::{PATIENCE, federation::Federation, tls::Files};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long a door fails in these tests until its node is hidden.
const GRACE: Duration = Duration::from_secs(2);
/// Enough failures at one a second, the rate of the registry's rounds, for more than three times [`GRACE`].
const FAILURES: i64 = 10;

/// A registry that probes every second.
async fn registry(tls: Arc<ClientConfig>, change: impl FnOnce(&mut BootstrapConfig)) -> Federation {
    let often = |config: &mut BootstrapConfig| {
        config.probing.interval = Duration::from_secs(1);
        config.probing.door_grace = GRACE;
        change(config);
    };
    Federation::start_registry(often, tls).await
}

/// A node that registers every second.
fn often(config: &mut NodeConfig) {
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    config.registry.renew_every = Duration::from_secs(1);
}

async fn http(addr: SocketAddr, method: &str, path: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    };
    timeout(3 * PATIENCE, exchange).await.expect("an answer in time")
}

/// Waits until `holds`, longer than a node needs to read its certificate again.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn registry_addr(federation: &Federation) -> SocketAddr {
    federation.registry_url().trim_start_matches("http://").parse().expect("an address")
}

async fn is_listed(federation: &Federation, node: &Node) -> bool {
    http(registry_addr(federation), "GET", "/servers").await.contains(&node.id().to_server_id())
}

/// A metric of the registry. One with a label has no value before the first event, and is only waited for.
async fn metric(federation: &Federation, name: &str) -> i64 {
    let text = http(federation.registry_admin(), "GET", "/metrics").await;
    let name = format!("chappe_bootstrap_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
    assert!(value.is_some() || name.contains('{'), "no {name} in {text}");
    value.unwrap_or(0)
}

/// What the node says about registries that do not show it.
async fn hidden_by(node: &Node) -> Vec<Value> {
    let text = http(node.addrs().admin.expect("an address"), "GET", "/reachability").await;
    let report: Value = serde_json::from_str(&text).expect("JSON");
    report["registries"].as_array().expect("a list").clone()
}

/// A listener in front of a node, which can be closed.
struct Door {
    addr: SocketAddr,
    to: watch::Sender<Option<SocketAddr>>,
    serving: JoinSet<()>,
}

impl Door {
    async fn open(ip: [u8; 4]) -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::from(ip), 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (to, target) = watch::channel(None);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut target = target.clone();
                open.spawn(async move {
                    let to = *target.wait_for(Option::is_some).await.ok()?;
                    let mut node = TcpStream::connect(to?).await.ok()?;
                    copy_bidirectional(&mut stream, &mut node).await.ok()
                });
            }
        });
        Self { addr, to, serving }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    fn leads_to(&self, node: &Node) {
        self.to.send_replace(Some(node.addrs().client));
    }

    async fn close(mut self) {
        self.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_hides_a_node_and_a_new_one_shows_it() {
    let [valid, expired, used] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let (valid, expired) = (Files::make(valid.path()), Files::make_expired(expired.path()));
    let used = Files::in_folder(used.path());
    let install = |from: &Files| {
        std::fs::copy(from.key(), used.key()).expect("a writable folder");
        std::fs::copy(from.certificate(), used.certificate()).expect("a writable folder");
    };
    install(&expired);
    let mut federation = registry(Arc::new(valid.client()), |_| {}).await;
    for number in 0..3 {
        federation.nodes.push(federation.start_node(number, often).await);
    }
    let node = federation
        .start_node(3, |config| {
            often(config);
            (config.client.tls_cert, config.client.tls_key) = (Some(used.certificate()), Some(used.key()));
        })
        .await;
    eventually("it is listed first", async || is_listed(&federation, &node).await).await;
    eventually("it is hidden", async || !is_listed(&federation, &node).await).await;
    for other in &federation.nodes {
        assert!(is_listed(&federation, other).await);
    }
    let url = node.client_url();
    let hidden = http(federation.registry_admin(), "GET", "/hidden").await;
    let line = format!("{}: the certificate of {url} has expired on 2020-01-01", node.id());
    assert!(hidden.contains(&line), "{hidden}");
    assert_eq!(metric(&federation, "hidden_nodes").await, 1);
    let page = http(registry_addr(&federation), "GET", "/").await;
    assert!(page.contains("the certificate of its URL for clients has expired on 2020-01-01"), "{page}");
    assert!(page.contains(&node.id().short().to_string()) && !page.contains(url), "{page}");
    eventually("the node learns why", async || {
        let by = hidden_by(&node).await;
        by.first().is_some_and(|by| by["outcome"] == "certificate_expired" && by["target"] == url)
    })
    .await;
    install(&valid);
    eventually("it is listed again", async || is_listed(&federation, &node).await).await;
    eventually("the node learns that too", async || hidden_by(&node).await.is_empty()).await;
    node.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_is_closed_hides_a_node_and_members_that_reached_it_show_it_again() {
    // Long enough for the node to send its statements.
    let mut federation = registry(tls::config(), |config| config.probing.door_grace = 3 * GRACE).await;
    let door = Door::open([127, 1, 0, 1]).await;
    let url = door.url();
    // Each in a network of its own.
    for (number, network) in (0..).zip([1, 2, 3, 4]) {
        let node = federation.start_node(number, |config| {
            often(config);
            let ip = [127, network, 0, 1];
            (config.client.listen, config.federation.listen) = ((ip, 0).into(), (ip, 0).into());
            if number == 0 {
                config.client.urls = vec![url.clone()];
            }
        });
        let node = node.await;
        federation.nodes.push(node);
    }
    federation.settle().await;
    let node = &federation.nodes[0];
    door.leads_to(node);
    eventually("it is listed", async || is_listed(&federation, node).await).await;
    let admin = node.addrs().admin.expect("an address");
    let report: Value = serde_json::from_str(&http(admin, "POST", "/reachability").await).expect("JSON");
    assert_eq!(report["statements"].as_array().map(Vec::len), Some(3), "{report}");
    door.close().await;
    let failures = async || metric(&federation, "doors_total{outcome=\"refused\"}").await;
    eventually("it fails for long", async || {
        assert!(is_listed(&federation, node).await, "three members in three networks reached it");
        failures().await >= FAILURES
    })
    .await;
    assert!(metric(&federation, "statements_total{outcome=\"accepted\"}").await >= 3);
    assert!(hidden_by(node).await.is_empty());
    // A new run has no statements about itself yet.
    federation.nodes.remove(0).shutdown().await;
    let node = federation
        .start_node(0, |config| {
            often(config);
            let ip = [127, 1, 0, 1];
            (config.client.listen, config.federation.listen) = ((ip, 0).into(), (ip, 0).into());
            config.client.urls = vec![url.clone()];
        })
        .await;
    eventually("it is listed as new", async || is_listed(&federation, &node).await).await;
    eventually("it is hidden", async || !is_listed(&federation, &node).await).await;
    eventually("the node learns why", async || {
        hidden_by(&node).await.first().is_some_and(|by| by["outcome"] == "refused")
    })
    .await;
    node.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_reaches_no_door_any_more_blames_its_own_network() {
    let mut federation = registry(tls::config(), |config| config.probing.door_grace = 3 * GRACE).await;
    let mut doors = Vec::new();
    for number in 0..4 {
        let door = Door::open([127, 0, 0, 1]).await;
        let node = federation.start_node(number, |config| {
            often(config);
            config.client.urls = vec![door.url()];
        });
        let node = node.await;
        door.leads_to(&node);
        federation.nodes.push(node);
        doors.push(door);
    }
    let all_listed = async || {
        for node in &federation.nodes {
            if !is_listed(&federation, node).await {
                return false;
            }
        }
        true
    };
    let works = async || metric(&federation, "doors_total{outcome=\"works\"}").await;
    eventually("all are listed", all_listed).await;
    let before = works().await;
    eventually("all doors work", async || works().await >= before + 12).await;
    assert_eq!(metric(&federation, "own_network_doubted").await, 0);
    for door in doors {
        door.close().await;
    }
    eventually("all of them fail for long", async || {
        assert!(all_listed().await, "no node is hidden");
        metric(&federation, "doors_total{outcome=\"refused\"}").await >= 4 * FAILURES
    })
    .await;
    assert_eq!(metric(&federation, "own_network_doubted").await, 1);
    let page = http(registry_addr(&federation), "GET", "/").await;
    assert!(page.contains("own network is the likely cause"), "{page}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_with_a_private_address_gets_no_packet() {
    let federation = registry(tls::config(), |config| config.limits.exempt.clear()).await;
    let bystander = TcpListener::bind("127.7.7.7:0").await.expect("a port");
    let url = format!("ws://{}", bystander.local_addr().expect("an address"));
    let arrived = Arc::new(AtomicUsize::new(0));
    let counting = arrived.clone();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while bystander.accept().await.is_ok() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    let node = federation
        .start_node(0, |config| {
            often(config);
            config.client.urls = vec![url.clone()];
        })
        .await;
    eventually("it is probed", async || metric(&federation, "doors_total{outcome=\"not_tried\"}").await >= 4).await;
    assert_eq!(arrived.load(Ordering::Relaxed), 0);
    assert!(is_listed(&federation, &node).await, "nothing follows from that");
    node.shutdown().await;
    federation.shutdown().await;
}
