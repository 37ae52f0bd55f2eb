//! Which client gets which nodes.

use std::{collections::BTreeSet, time::Duration};

use chappe_common::{
    directory::DirectoryBundle,
    keys::{NodeId, SecretKey},
    list_request::{ListRequest, Load},
    record::Abilities,
    signed::Signed,
};
use reqwest::{Response, StatusCode};

use crate::fixture::{Fixture, TestNode, millis, now};

async fn with_nodes(count: u8) -> (Fixture, Vec<TestNode>) {
    let fixture = Fixture::start_with(|config| {
        // Lets a test send requests from any network.
        config.http.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    })
    .await;
    let nodes: Vec<_> = (1..=count).map(TestNode::start).collect();
    for node in &nodes {
        assert_eq!(fixture.register(&fixture.record(node, 1, 1)).await.0, StatusCode::OK);
    }
    (fixture, nodes)
}

async fn ask_from(fixture: &Fixture, address: &str, path: &str) -> Response {
    let request = fixture.http.get(format!("{}{path}", fixture.base)).header("x-forwarded-for", address);
    request.send().await.expect("an answer")
}

fn ids(bundle: &DirectoryBundle) -> BTreeSet<NodeId> {
    bundle.records(now()).map(|record| record.node).collect()
}

async fn shown(fixture: &Fixture, address: &str) -> DirectoryBundle {
    let body = ask_from(fixture, address, "/v1/directory").await.bytes().await.expect("a body");
    DirectoryBundle::decode(body, &[fixture.root].into(), now()).expect("a directory")
}

#[tokio::test]
async fn a_network_sees_the_same_eight_nodes_for_every_requester_and_after_a_restart() {
    let (mut fixture, nodes) = with_nodes(12).await;
    let mine = shown(&fixture, "198.51.100.7").await;
    assert_eq!(ids(&mine).len(), 8);
    assert_eq!(mine, shown(&fixture, "198.51.7.100").await, "byte for byte");
    let seen: BTreeSet<_> = ["192.0.2.1", "203.0.113.1", "2001:db8::1", "11.0.0.1", "12.0.0.1"].into();
    let mut all = BTreeSet::new();
    for address in seen {
        let theirs = shown(&fixture, address).await;
        assert_eq!(theirs.directory().seq, mine.directory().seq);
        if theirs.directory().shard == mine.directory().shard {
            assert_eq!(theirs, mine);
        }
        all.extend(ids(&theirs));
    }
    assert!(all.len() > 8, "other networks see other nodes");

    // The older list of servers contains the same nodes.
    let servers: serde_json::Value = ask_from(&fixture, "198.51.100.7", "/servers").await.json().await.expect("JSON");
    let servers = servers["servers"].as_array().expect("a list");
    let servers: BTreeSet<_> = servers.iter().map(|server| server["serverId"].as_str().expect("an id")).collect();
    let expected: BTreeSet<_> = ids(&mine).iter().map(|id| id.to_server_id()).collect();
    assert_eq!(servers, expected.iter().map(String::as_str).collect());

    let mut config = crate::fixture::config(fixture.dir.path(), fixture.root);
    config.http.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    fixture.restart_with(config).await;
    let after = shown(&fixture, "198.51.100.7").await;
    assert!(after.directory().seq > mine.directory().seq);
    // The period of three hours may have ended in between.
    if now().as_secs() / 10_800 == mine.directory().issued_at.as_secs() / 10_800 {
        assert_eq!(ids(&after), ids(&mine));
    }
    drop(nodes);
}

#[tokio::test]
async fn a_listed_node_that_proves_its_key_sees_all_and_its_request_is_good_once() {
    let (fixture, nodes) = with_nodes(12).await;
    let now_millis = millis();
    let all = fixture.ask_for_all(&nodes[0].key, now_millis, Load::Idle).await.expect("all nodes");
    assert_eq!((ids(&all).len(), all.directory().shard), (12, (0, 1)));
    let again = fixture.ask_for_all(&nodes[0].key, now_millis, Load::Idle).await;
    assert_eq!(again, Err("stale".to_owned()));
    assert!(fixture.ask_for_all(&nodes[0].key, now_millis + 1, Load::Idle).await.is_ok());
    let late = fixture.ask_for_all(&nodes[1].key, now_millis - 200_000, Load::Idle).await;
    assert_eq!(late, Err("clock".to_owned()));

    let stranger = SecretKey::from_bytes(&[77; 32]);
    assert_eq!(fixture.ask_for_all(&stranger, now_millis, Load::Idle).await, Err("signer".to_owned()));
    let elsewhere = ListRequest::sign(fixture.federation(), stranger.public(), &nodes[2].key, now_millis, Load::Idle);
    assert_eq!(fixture.send_request(&elsewhere).await, Err("registry".to_owned()), "it was for another registry");
    let forged = fixture.list_request(&stranger, now_millis, Load::Idle);
    let mut forged = forged.as_bytes().to_vec();
    forged[48..80].copy_from_slice(nodes[2].key.public().as_bytes());
    let url = format!("{}/v1/directory", fixture.base);
    assert_eq!(fixture.http.post(url).body(forged).send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_node_requests_the_list_at_a_rate_of_its_own_from_whatever_sources() {
    let (fixture, nodes) = with_nodes(2).await;
    let first = millis();
    let mut accepted = 0;
    // Each from a source of its own. A slow machine allows a few more while the allowance refills.
    let refused = loop {
        assert!(accepted < 100, "{accepted} were accepted");
        let request = fixture.list_request(&nodes[0].key, first + accepted, Load::Idle);
        let sent = fixture.http.post(format!("{}/v1/directory", fixture.base)).body(request.as_bytes().clone());
        let sent = sent.header("x-forwarded-for", format!("2001:db8:0:{accepted:x}::1")).send().await;
        match sent.expect("an answer").status() {
            StatusCode::OK => accepted += 1,
            status => break status,
        }
    };
    assert!(accepted >= 30 && refused == StatusCode::TOO_MANY_REQUESTS, "{accepted}, {refused}");
    // What others repeat of another node's requests is not counted as that node's.
    for _ in 0..40 {
        let again = fixture.ask_for_all(&nodes[1].key, first, Load::Idle).await;
        assert!(again.is_ok() || again == Err("stale".to_owned()), "{again:?}");
    }
    assert!(fixture.ask_for_all(&nodes[1].key, first + 1, Load::Idle).await.is_ok());
}

#[tokio::test]
async fn the_operator_sees_all_by_root_or_online_key() {
    use chappe_bootstrap::keys;
    let (fixture, _nodes) = with_nodes(9).await;
    for file in [keys::ROOT_KEY_FILE, keys::ONLINE_KEY_FILE] {
        let key = keys::load_secret_key(&fixture.dir.path().join(file)).expect("a key");
        let seq = millis();
        assert_eq!(ids(&fixture.ask_for_all(&key, seq, Load::Unknown).await.expect("all nodes")).len(), 9);
        assert_eq!(fixture.ask_for_all(&key, seq, Load::Unknown).await, Err("stale".to_owned()));
    }
}

#[tokio::test]
async fn a_node_in_reserve_is_registered_and_in_no_answer() {
    let fixture = Fixture::start().await;
    let [public, reserve] = [1, 2].map(TestNode::start);
    assert_eq!(fixture.register(&fixture.record(&public, 1, 1)).await.0, StatusCode::OK);
    let mut record = fixture.record(&reserve, 1, 1).into_value();
    record.abilities = Abilities::RESERVE;
    record.region = "nowhere-else".to_owned();
    let record = Signed::sign(record, &reserve.key).expect("a record within its bounds");
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK);

    let id = reserve.key.node_id();
    assert!(!ids(&shown(&fixture, "127.0.0.1").await).contains(&id));
    let all = fixture.ask_for_all(&reserve.key, millis(), Load::Idle).await.expect("it is of the federation");
    assert!(!ids(&all).contains(&id), "not to nodes either: they hear of it from itself");
    tokio::time::sleep(Duration::from_millis(20)).await;
    for path in ["/servers", "/", "/health"] {
        let text = ask_from(&fixture, "127.0.0.1", path).await.text().await.expect("text");
        assert!(!text.contains(&id.to_server_id()) && !text.contains("nowhere-else"), "{path}: {text}");
    }
}

#[tokio::test]
async fn an_unchanged_directory_is_not_sent_again() {
    let (fixture, _nodes) = with_nodes(9).await;
    let url = format!("{}/v1/directory", fixture.base);
    let first = fixture.http.get(&url).send().await.expect("an answer");
    assert_eq!(first.headers()["cache-control"], "private, max-age=10", "another network would be shown it");
    let etag = first.headers()["etag"].clone();
    let again = fixture.http.get(&url).header("if-none-match", etag.clone()).send().await.expect("an answer");
    assert_eq!((again.status(), &again.headers()["etag"]), (StatusCode::NOT_MODIFIED, &etag));
    assert_eq!(again.bytes().await.expect("a body").len(), 0);

    let another = TestNode::start(30);
    assert_eq!(fixture.register(&fixture.record(&another, 1, 1)).await.0, StatusCode::OK);
    let new = fixture.http.get(&url).header("if-none-match", etag).send().await.expect("an answer");
    assert_eq!(new.status(), StatusCode::OK, "a new directory");
}
