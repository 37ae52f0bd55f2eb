//! Searches and dials against small stand-ins for a node and a registry, honest and not.

mod stand_in;

use std::time::Duration;

use chappe_common::directory::DirectoryError;
use chappe_discovery::{
    CauseError, Discovery,
    dial::{DialError, dial},
    net::Net,
    source::{Candidate, SourceError, SourceKind},
};
use stand_in::{Answer, Manner, directory, key, node, registry};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn pinned(url: &str, n: u8) -> Candidate {
    Candidate::new(url, Some(key(n).node_id()), SourceKind::Manual)
}

#[tokio::test]
async fn a_node_that_proves_the_pinned_key_is_connected_and_carries_texts() {
    let (url, _tasks) = node(1, Manner::Honest).await;
    let mut connection =
        timeout(LIMIT, dial(&pinned(&url, 1), &Net::default(), || {})).await.expect("in time").expect("a connection");
    assert_eq!(connection.node(), key(1).node_id());
    assert_eq!(connection.nonce(), &[5; 32]);
    connection.send("{\"type\":\"echo\"}".to_owned()).await.expect("sent");
    let text = timeout(LIMIT, connection.next()).await.expect("in time").expect("an answer");
    assert_eq!(text.as_str(), "{\"type\":\"echo\"}");
    timeout(LIMIT, connection.close()).await.expect("a close does not hang");
}

#[tokio::test]
async fn a_node_that_does_not_prove_the_expected_key_is_refused_with_the_reason() {
    for (manner, expected, error) in [
        (Manner::Honest, 2, DialError::OtherNode),
        (Manner::Forges, 1, DialError::Proof),
        (Manner::Renamed, 1, DialError::OtherUrl { own: Some("ws://relay.example".to_owned()) }),
        (Manner::Silent, 1, DialError::Timeout),
        (Manner::Newer, 1, DialError::Version(2)),
    ] {
        let (url, _tasks) = node(1, manner).await;
        let refused = timeout(LIMIT, dial(&pinned(&url, expected), &Net::default(), || {})).await.expect("in time");
        assert_eq!(refused.map(|connection| connection.node()), Err(error));
    }
}

#[tokio::test]
async fn a_registry_leads_to_a_node_and_the_cache_to_it_again_when_the_registry_is_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    let (url, _node) = node(1, Manner::Honest).await;
    let endpoint = format!("{url}/");
    let body = directory(40, 0, &[(1, &endpoint), (2, "ws://127.0.0.1:9")]);
    let (registry_url, registry) = registry(Answer { status: 200, body }).await;
    let search = |urls: Vec<String>| {
        Discovery::builder().registry(urls, [key(40).public()]).cache(&cache).build().expect("a search")
    };
    let blocked = "http://127.0.0.1:9".to_owned();
    let found = timeout(LIMIT, search(vec![blocked, registry_url.clone()]).connect(&[])).await.expect("in time");
    assert_eq!(found.expect("a node").node(), key(1).node_id());
    drop(registry);
    let found = timeout(LIMIT, search(vec![registry_url]).connect(&[])).await.expect("in time");
    assert_eq!(found.expect("a node from the cache").node(), key(1).node_id());
}

#[tokio::test]
async fn invalid_registry_responses_are_refused_with_the_reason() {
    let list = [(1, "ws://127.0.0.1:9")];
    for (status, body, error) in [
        (302, Vec::new(), SourceError::Status(302)),
        (200, vec![0; 600 * 1024], SourceError::TooLong),
        (200, directory(41, 0, &list), SourceError::Directory(DirectoryError::Root)),
        (200, directory(40, 0, &[]), SourceError::Directory(DirectoryError::Empty)),
    ] {
        let (url, _registry) = registry(Answer { status, body }).await;
        let search = Discovery::builder().registry([url], [key(40).public()]).build().expect("a search");
        let failed = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect_err("no node");
        assert_eq!(failed.causes[0].error, CauseError::Source(error));
    }
}

#[tokio::test]
async fn a_played_back_directory_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    for (ms_ago, rolled_back) in [(0, false), (60_000, true)] {
        let body = directory(40, ms_ago, &[(1, "ws://127.0.0.1:9")]);
        let (url, _registry) = registry(Answer { status: 200, body }).await;
        let search = Discovery::builder().registry([url], [key(40).public()]).cache(&cache).build().expect("a search");
        let failed = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect_err("no node");
        let refused = failed.causes[0].error == CauseError::Source(SourceError::RolledBack);
        assert_eq!(refused, rolled_back, "{failed}");
    }
}
