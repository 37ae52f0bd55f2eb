//! Two registries with one database.

use chappe_bootstrap::{BootstrapConfig, DatabaseUrl, StartError};
use chappe_common::{directory::DirectoryBundle, list_request::Load};
use futures_util::future::join_all;
use reqwest::StatusCode;

use crate::{
    fixture::{Fixture, TestNode, eventually, millis, now},
    postgres::Server,
};

async fn directory_at(fixture: &Fixture, base: &str) -> Vec<u8> {
    let response = fixture.http.get(format!("{base}/v1/directory")).send().await.expect("an answer");
    response.bytes().await.expect("a body").to_vec()
}

#[tokio::test]
async fn two_registries_on_one_database_are_one() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let share = |config: &mut BootstrapConfig| config.storage.url = Some(DatabaseUrl::new(url.clone()));
    let mut fixture = Fixture::start_with(share).await;
    let (other, other_base) = fixture.another(share).await;
    let first_base = fixture.base.clone();
    let nodes: Vec<_> = (1..=10).map(TestNode::start).collect();

    // Register at both at once, so that their commits conflict.
    let posts = nodes.iter().enumerate().map(|(index, node)| {
        let base = if index % 2 == 0 { &first_base } else { &other_base };
        let body = fixture.record(node, 1, 1).as_bytes().clone();
        fixture.http.post(format!("{base}/v1/nodes")).body(body).send()
    });
    for answer in join_all(posts).await {
        assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
    }
    let whole = |bytes: Vec<u8>| DirectoryBundle::decode(bytes, &[fixture.root].into(), now()).expect("a directory");
    eventually("both serve the same bytes", async || {
        let [ours, theirs] = [directory_at(&fixture, &first_base).await, directory_at(&fixture, &other_base).await];
        ours == theirs && whole(ours).directory().shard.1 > 1
    })
    .await;

    // A list request is valid once, at either registry.
    let request = fixture.list_request(&nodes[0].key, millis(), Load::Idle);
    let all = fixture.send_request(&request).await.expect("all nodes");
    assert_eq!(all.records(now()).count(), 10);
    fixture.base = other_base.clone();
    assert_eq!(fixture.send_request(&request).await, Err("stale".to_owned()));

    // A leave at one registry ends a listing from the other, and the number increases.
    assert_eq!(fixture.leave(&fixture.leave_note(&nodes[0], 1, 1)).await, StatusCode::OK);
    fixture.base = first_base.clone();
    assert_eq!(fixture.register(&fixture.record(&nodes[0], 1, 1)).await.1["error"], "stale");
    let after = fixture.ask_for_all(&nodes[1].key, millis(), Load::Idle).await.expect("all nodes");
    assert_eq!(after.records(now()).count(), 9);
    assert!(after.directory().seq > all.directory().seq);

    // Without the database, both serve their content and reject changes.
    drop(server);
    assert_eq!(fixture.register(&fixture.record(&nodes[2], 1, 2)).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!directory_at(&fixture, &first_base).await.is_empty());
    other.shutdown().await;
    let without = fixture.another_fails(share).await;
    assert!(matches!(without, StartError::Store(_)), "{without:?}");
    assert!(!format!("{without:?}").contains(&url), "the URL may hold a password");
}
