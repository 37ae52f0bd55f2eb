//! What nodes and the registry do for each other.

use std::time::Duration;

use chappe_discovery::{registry::RegistryClient, source::Source as _};
use chappe_testkit::{federation::Federation, raw::Raw};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

async fn status_page(federation: &Federation) -> String {
    let url = federation.registry_url();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("an answer");
    page
}

#[tokio::test]
async fn nodes_prove_themselves_to_the_registry_and_the_page_sums_up_how_busy_they_are() {
    // A node that is listed asks for all nodes with its next record; that is a proof that it had listed them.
    let federation = Federation::start(3, |config| config.registry.renew_every = Duration::from_secs(1)).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let page = status_page(&federation).await;
        if page.contains("<h2>Load</h2>") {
            assert!(page.contains(">idle</th>"), "{page}");
            break;
        }
        assert!(Instant::now() < deadline, "nobody asked: {page}");
        sleep(Duration::from_millis(200)).await;
    }
    federation.shutdown().await;
}

#[tokio::test]
async fn a_reserve_node_is_a_member_and_is_not_listed() {
    let mut federation = Federation::start(1, |_| {}).await;
    let reserve = federation.start_node(1, |config| config.node.reserve = true).await;
    federation.nodes.push(reserve);
    federation.settle().await;
    let registry = RegistryClient::new([federation.registry_url()], vec![federation.root()], &Default::default());
    let now = std::time::SystemTime::now().into();
    let listing = registry.expect("a registry").list(now).await.expect("a directory");
    let listed: Vec<_> = listing.lists.iter().flat_map(|list| &list.records).map(|record| record.node).collect();
    assert_eq!(listed, [federation.nodes[0].id()]);

    // The public node goes, and tells its clients of others; this one isn't among them.
    let node = federation.nodes.remove(0);
    let mut client = Raw::connect(node.client_url()).await;
    let stopping = tokio::spawn(node.shutdown());
    assert_eq!(client.expect("going_away").await["nodes"], serde_json::json!([]));
    stopping.await.expect("a clean stop");
    federation.shutdown().await;
}
