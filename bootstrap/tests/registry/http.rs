//! Requests of nodes and clients, and the responses.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_bootstrap::{Bootstrap, BootstrapConfig, StartError, keys};
use chappe_common::{
    beacon::{Beacon, MAX_ELIGIBLE, Term},
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    record::NodeRecord,
    signed::Signed,
};
use reqwest::StatusCode;
use serde_json::Value;

use crate::fixture::{Fixture, TestNode, config, eventually, now};

#[tokio::test]
async fn a_node_that_proves_its_key_is_listed_and_a_newer_record_replaces_the_old_one() {
    let fixture = Fixture::start().await;
    let node = TestNode::start(1);
    assert_eq!(fixture.listed().await, []);
    let (status, body) = fixture.register(&fixture.record(&node, 1, 1)).await;
    assert_eq!((status, body), (StatusCode::OK, serde_json::json!({ "listed": true })));
    assert_eq!(fixture.listed().await, [(1, 1)]);
    let first = fixture.directory().await.expect("a directory").directory().seq;

    assert_eq!(fixture.register(&fixture.record(&node, 1, 2)).await.0, StatusCode::OK);
    eventually("the newer record is shown", async || fixture.listed().await == [(1, 2)]).await;
    assert!(fixture.directory().await.expect("a directory").directory().seq > first);

    let (status, body) = fixture.register(&fixture.record(&node, 1, 1)).await;
    assert_eq!((status, &body["error"]), (StatusCode::CONFLICT, &"stale".into()));
    assert_eq!(fixture.listed().await, [(1, 2)]);
}

#[tokio::test]
async fn a_node_that_does_not_prove_its_key_is_not_listed() {
    let fixture = Fixture::start().await;
    let node = TestNode::start(1);
    let impostor = fixture.record_at(&SecretKey::from_bytes(&[2; 32]), node.addr, 1, 1);
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let unreachable = fixture.record_at(&node.key, silent.local_addr().expect("an address"), 1, 1);
    for record in [impostor, unreachable] {
        let (status, body) = fixture.register(&record).await;
        assert_eq!((status, &body["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &"unreachable".into()));
    }
    assert_eq!(fixture.listed().await, []);
}

#[tokio::test]
async fn one_of_several_addresses_is_enough() {
    let fixture = Fixture::start().await;
    let node = TestNode::start(1);
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let mut record = fixture.record(&node, 1, 1).into_value();
    record.quic_addrs.insert(0, silent.local_addr().expect("an address"));
    let record = Signed::sign(record, &node.key).expect("a record within its bounds");
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_answer_from_another_network_than_that_of_the_first_address_is_none() {
    let fixture = Fixture::start_with(|config| config.limits.exempt = loopback()).await;
    let node = TestNode::start(1);
    let mut record = fixture.record(&node, 1, 1).into_value();
    record.quic_addrs.insert(0, ([127, 9, 0, 1], 9).into());
    let record = Signed::sign(record, &node.key).expect("a record within its bounds");
    assert_eq!(fixture.register(&record).await.1["error"], "unreachable");
}

fn loopback() -> Vec<ipnet::IpNet> {
    vec!["127.0.0.0/8".parse().expect("a network")]
}

#[tokio::test]
async fn a_private_address_that_a_stranger_names_gets_no_packet_unless_the_operator_allows_it() {
    for (exempt, code) in [(Vec::new(), "private_address"), (loopback(), "unreachable")] {
        let may_dial = !exempt.is_empty();
        let fixture = Fixture::start_with(|config| config.limits.exempt = exempt).await;
        let (key, mut heard) = (SecretKey::from_bytes(&[1; 32]), 0);
        for _ in 0..4 {
            let victim = tokio::net::UdpSocket::bind("127.0.7.9:0").await.expect("a free port");
            let mut record = fixture.record_at(&key, victim.local_addr().expect("an address"), 1, 1).into_value();
            record.quic_addrs.push(([127, 0, 7, 10], 9).into());
            let record = Signed::sign(record, &key).expect("a record within its bounds");
            assert_eq!(fixture.register(&record).await.1["error"], code);
            while victim.try_recv(&mut [0; 2048]).is_ok() {
                heard += 1;
            }
        }
        assert_eq!(heard > 0, may_dial, "{heard} packets");
    }
}

#[tokio::test]
async fn an_invalid_record_is_refused_with_the_reason() {
    let fixture = Fixture::start().await;
    let node = TestNode::start(1);
    let good = fixture.record(&node, 1, 1);
    let mut altered = good.as_bytes().to_vec();
    // A byte of the region: the record stays well-formed.
    let region = altered.windows(7).position(|window| window == b"eu-west").expect("the region");
    altered[region] = b'x';
    let mut foreign = good.clone().into_value();
    foreign.federation = FederationId::of_roots(&[]);
    let mut future = good.clone().into_value();
    future.issued_at = now() + Duration::from_secs(1000);
    let mut over = good.clone().into_value();
    over.expires_at = now();
    let sign = |record: NodeRecord| Signed::sign(record, &node.key).expect("within bounds").as_bytes().clone();
    let cases = [
        (Bytes::from_static(b"nonsense"), StatusCode::BAD_REQUEST, "malformed"),
        (Bytes::from(vec![0; 10_000]), StatusCode::BAD_REQUEST, "malformed"),
        (altered.into(), StatusCode::FORBIDDEN, "signature"),
        (sign(foreign), StatusCode::FORBIDDEN, "federation"),
        (sign(future), StatusCode::BAD_REQUEST, "clock"),
        (sign(over), StatusCode::BAD_REQUEST, "expired"),
    ];
    for (body, expected, code) in cases {
        let (status, answer) = fixture.register_bytes(body).await;
        assert_eq!((status, &answer["error"]), (expected, &code.into()));
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(fixture.listed().await, []);
}

#[tokio::test]
async fn a_leave_ends_the_listing_and_no_replay_brings_it_back() {
    let mut fixture = Fixture::start().await;
    let node = TestNode::start(1);
    let record = fixture.record(&node, 3, 7);
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
    assert_eq!(fixture.leave(&fixture.leave_note(&node, 3, 6)).await, StatusCode::CONFLICT);
    assert_eq!(fixture.leave(&fixture.leave_note(&node, 3, 7)).await, StatusCode::OK);
    assert_eq!(fixture.listed().await, []);
    assert_eq!(fixture.register(&record).await.1["error"], "stale");
    fixture.restart().await;
    assert_eq!(fixture.register(&record).await.1["error"], "stale", "after a restart as well");
    assert_eq!(fixture.register(&fixture.record(&node, 4, 0)).await.0, StatusCode::OK);
    assert_eq!(fixture.listed().await, [(4, 0)]);
}

#[tokio::test]
async fn a_restart_keeps_the_listing_and_the_directory_does_not_go_back() {
    let mut fixture = Fixture::start().await;
    let node = TestNode::start(1);
    assert_eq!(fixture.register(&fixture.record(&node, 1, 1)).await.0, StatusCode::OK);
    let before = fixture.directory().await.expect("a directory").directory().seq;
    fixture.restart().await;
    assert_eq!(fixture.listed().await, [(1, 1)]);
    assert!(fixture.directory().await.expect("a directory").directory().seq > before);
    assert_eq!(fixture.register(&fixture.record(&node, 1, 0)).await.1["error"], "stale");
}

#[tokio::test]
async fn the_beacon_in_the_file_is_served_and_a_large_one_counts_as_several_requests() {
    let fixture = Fixture::start().await;
    let url = format!("{}/v1/beacon", fixture.base);
    assert_eq!(fixture.http.get(&url).send().await.expect("an answer").status(), StatusCode::NOT_FOUND);
    let root = keys::load_secret_key(&fixture.dir.path().join(keys::ROOT_KEY_FILE)).expect("a key");
    let node = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        NodeId::new(PublicKey::from_bytes(key))
    };
    let eligible = (0..MAX_ELIGIBLE).map(node).collect();
    let term = Term { value: [7; 32], eligible };
    let (federation, root_key) = (fixture.federation(), root.public());
    let beacon = Beacon { federation, root: root_key, number: 1, from: now(), before: None, term };
    let beacon = Signed::sign(beacon, &root).expect("a beacon within its bounds");
    std::fs::write(fixture.dir.path().join(keys::BEACON_FILE), beacon.as_bytes()).expect("a writable folder");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = fixture.http.get(&url).send().await.expect("an answer");
        if answer.status() == StatusCode::OK {
            assert_eq!(answer.bytes().await.expect("a body"), beacon.as_bytes());
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the beacon is not served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // As a request of its own, each would be one of 600 in a minute.
    for _ in 0..100 {
        let status = fixture.http.get(&url).send().await.expect("an answer").status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        assert_eq!(status, StatusCode::OK);
    }
    panic!("a source gets any number of large beacons");
}

#[tokio::test]
async fn clients_in_the_field_get_a_signed_list_of_servers() {
    let fixture = Fixture::start().await;
    let node = TestNode::start(1);
    let record = fixture.record(&node, 1, 1);
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
    let registered = Duration::from_millis(first_server(&fixture).await["registeredAt"].as_u64().expect("a number"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK, "the same bytes again");
    // The list of servers follows within its own interval.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    let server = loop {
        let server = first_server(&fixture).await;
        if server["lastSeen"].as_u64() > server["registeredAt"].as_u64() {
            break server;
        }
        assert!(tokio::time::Instant::now() < deadline, "lastSeen stays behind: {server}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(server["serverId"], node.key.node_id().to_server_id());
    assert_eq!(server["publicKey"], node.key.public().to_base64());
    assert_eq!(server["endpoint"], "ws://127.0.0.1:4711");
    assert_eq!(server["region"], "eu-west");
    assert_eq!(server["registeredAt"].as_u64().map(Duration::from_millis), Some(registered));
    assert_eq!(server.as_object().map(serde_json::Map::len), Some(6));
}

async fn first_server(fixture: &Fixture) -> Value {
    let url = format!("{}/servers", fixture.base);
    let response = fixture.http.get(url).header("origin", "https://example.org").send().await.expect("an answer");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["access-control-expose-headers"], "x-bootstrap-signature,etag");
    let signature = STANDARD.decode(&response.headers()["x-bootstrap-signature"]).expect("base64");
    let body = response.bytes().await.expect("a body");
    let online = keys::load_secret_key(&fixture.dir.path().join(keys::ONLINE_KEY_FILE)).expect("a key").public();
    assert!(online.verify(&body, signature.as_slice().try_into().expect("64 bytes")));
    let list: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(list.as_object().map(serde_json::Map::len), Some(2));
    assert!(list["timestamp"].as_u64().is_some_and(|millis| millis / 1000 + 60 > now().as_secs()));
    list["servers"][0].clone()
}

#[tokio::test]
async fn a_source_that_asks_too_often_is_refused_and_counted() {
    let fixture = Fixture::start_with(|config| config.limits.registrations_per_minute = 2).await;
    let node = TestNode::start(1);
    for seq in 1..=2 {
        assert_eq!(fixture.register(&fixture.record(&node, 1, seq)).await.0, StatusCode::OK);
    }
    let (status, body) = fixture.register(&fixture.record(&node, 1, 3)).await;
    assert_eq!((status, &body["error"]), (StatusCode::TOO_MANY_REQUESTS, &"rate_limited".into()));

    let admin = fixture.registry.as_ref().and_then(Bootstrap::admin_addr).expect("an admin address");
    let metrics = fixture.http.get(format!("http://{admin}/metrics")).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("text");
    assert!(metrics.contains("chappe_bootstrap_records_total{outcome=\"accepted\"} 2"), "{metrics}");
    assert!(metrics.contains("chappe_bootstrap_records_total{outcome=\"rate_limited\"} 1"), "{metrics}");
    let public = fixture.http.get(format!("{}/metrics", fixture.base)).send().await.expect("an answer");
    assert_eq!(public.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_address_is_not_dialled_in_a_loop_for_any_requester() {
    let fixture = Fixture::start_with(|config| config.limits.dials_per_minute = 1).await;
    let node = TestNode::start(1);
    assert_eq!(fixture.register(&fixture.record(&node, 1, 1)).await.0, StatusCode::OK);
    let (status, body) = fixture.register(&fixture.record(&TestNode::start(2), 1, 1)).await;
    assert_eq!((status, &body["error"]), (StatusCode::TOO_MANY_REQUESTS, &"rate_limited".into()));
}

#[tokio::test]
async fn a_connection_that_sends_no_headers_is_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let fixture = Fixture::start_with(|config| config.times.headers = Duration::from_millis(200)).await;
    let addr = fixture.registry.as_ref().expect("it runs").addr();
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost:").await.expect("sent");
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_stopping() {
    // The deadlines are longer than the test, so they do not cause its results.
    let alter = |config: &mut BootstrapConfig| {
        config.times.headers = Duration::from_secs(60);
        config.times.drain = Duration::from_secs(60);
    };
    let mut fixture = Fixture::start_with(alter).await;
    let registry = fixture.registry.take().expect("it runs");
    let _idle = tokio::net::TcpStream::connect(registry.addr()).await.expect("a connection");
    fixture.http.get(format!("{}/health", fixture.base)).send().await.expect("an answer");
    tokio::time::timeout(Duration::from_secs(6), registry.shutdown()).await.expect("stopped in time");
}

#[tokio::test]
async fn two_registries_do_not_share_a_store_nor_an_address() {
    let fixture = Fixture::start().await;
    let config = config(fixture.dir.path(), fixture.root);
    let same_store = Bootstrap::spawn(config.clone()).await;
    assert!(matches!(&same_store, Err(StartError::Store(_))), "{same_store:?}");

    let mut same_addr = config;
    same_addr.http.listen = fixture.registry.as_ref().expect("it runs").addr();
    same_addr.bootstrap.data_dir = fixture.dir.path().join("other");
    let Err(error) = Bootstrap::spawn(same_addr).await else { panic!("two registries on one address") };
    assert!(error.to_string().contains("http.listen"), "{error}");
}

#[tokio::test]
async fn a_delegation_by_a_stranger_does_not_start() {
    let fixture = Fixture::start().await;
    let mut config = config(fixture.dir.path(), SecretKey::from_bytes(&[5; 32]).public());
    config.bootstrap.data_dir = fixture.dir.path().join("other");
    assert!(matches!(Bootstrap::spawn(config).await, Err(StartError::Root)));
}
