//! What nodes and the registry do for each other.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use chappe_bootstrap::keys::{ROOT_KEY_FILE, add_statements, load_secret_key};
use chappe_common::{
    federation::FederationId,
    keys::SecretKey,
    root_statements::RootStatement,
    signed::Signed,
    succession::{RootSuccessor, SignedSuccession},
    time::UnixTime,
};
use chappe_discovery::{registry::RegistryClient, source::Source as _, tls};
use chappe_testkit::{federation::Federation, raw::Raw};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

/// The response to a GET request.
async fn get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).await.expect("an answer");
    page
}

async fn status_page(federation: &Federation) -> String {
    get(federation.registry_url().trim_start_matches("http://"), "/").await
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
    let now = SystemTime::now().into();
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

/// That a new root follows this one, as both have signed it.
fn succession(old: &SecretKey, new: &SecretKey) -> RootStatement {
    let federation = FederationId::of_roots(&[old.public()]);
    let successor = RootSuccessor { federation, old: old.public(), new: new.public() };
    let successor = Signed::sign(successor, old).expect("a successor");
    let now: UnixTime = SystemTime::now().into();
    let until = now + Duration::from_secs(24 * 3600);
    RootStatement::Succession(SignedSuccession::sign(&successor, new, now, until).expect("a succession"))
}

#[tokio::test]
async fn a_second_successor_of_a_root_has_no_effect_at_a_node_and_is_counted() {
    let [known, other] = [7, 8].map(|seed| SecretKey::from_bytes(&[seed; 32]));
    let mut root = None;
    let federation = Federation::start_registry(
        |config| {
            let dir = config.federation.delegation.with_file_name("");
            let old = load_secret_key(&dir.join(ROOT_KEY_FILE)).expect("the root's key");
            config.federation.revocations = dir.join("revocations");
            add_statements(&config.federation.revocations, [succession(&old, &other)], config.federation.roots())
                .expect("a new file");
            root = Some(old);
        },
        tls::config(),
    )
    .await;
    let root = root.expect("it was read");
    let node = federation
        .start_node(0, |config| {
            config.admin.listen = Some(([127, 0, 0, 1], 0).into());
            config.registry.renew_every = Duration::from_secs(1);
            // What the node has learned in an earlier run.
            fs::create_dir_all(&config.node.data_dir).expect("a folder");
            let file = config.node.data_dir.join("revocations");
            add_statements(&file, [succession(&root, &known)], config.federation.roots()).expect("a new file");
        })
        .await;
    let admin = node.addrs().admin.expect("an operator's interface").to_string();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let metrics = get(&admin, "/metrics").await;
        let count = |code: &str| {
            let name = format!("chappe_successions_refused_total{{code=\"{code}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<u64>().ok());
            line.unwrap_or_else(|| panic!("no {name}in {metrics}"))
        };
        assert_eq!(["federation", "root", "loop", "full"].map(count), [0; 4]);
        if count("fork") > 1 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing was refused: {metrics}");
        sleep(Duration::from_millis(100)).await;
    }
    node.shutdown().await;
    federation.shutdown().await;
}
