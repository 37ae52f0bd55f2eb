//! Nodes that an operator has removed.

use std::time::Duration;

use chappe_bootstrap::keys;
use chappe_common::{
    keys::{NodeId, SecretKey},
    removal::NodeRemoval,
    signed::Signed,
    time::UnixTime,
};
use reqwest::StatusCode;

use crate::fixture::{Fixture, TestNode, now};

const HOUR: Duration = Duration::from_secs(3600);

fn removal(fixture: &Fixture, signer: &SecretKey, node: NodeId, at: UnixTime, until: UnixTime) -> Signed<NodeRemoval> {
    let federation = fixture.federation();
    let removal = NodeRemoval { federation, signer: signer.public(), node, issued_at: at, until };
    Signed::sign(removal, signer).expect("a removal within its bounds")
}

async fn send(fixture: &Fixture, removal: &Signed<NodeRemoval>) -> StatusCode {
    let url = format!("{}/v1/removals", fixture.base);
    fixture.http.post(url).body(removal.as_bytes().clone()).send().await.expect("an answer").status()
}

#[tokio::test]
async fn a_removed_node_is_gone_at_once_and_does_not_come_back_by_itself_nor_by_a_restart() {
    let mut fixture = Fixture::start().await;
    let [one, two] = [1, 2].map(TestNode::start);
    assert_eq!(fixture.register(&fixture.record(&one, 1, 1)).await.0, StatusCode::OK);
    assert_eq!(fixture.register(&fixture.record(&two, 1, 2)).await.0, StatusCode::OK);
    let [root, online] = [keys::ROOT_KEY_FILE, keys::ONLINE_KEY_FILE]
        .map(|file| keys::load_secret_key(&fixture.dir.path().join(file)).expect("a key"));
    let id = one.key.node_id();

    let by_itself = removal(&fixture, &one.key, id, now(), now() + HOUR);
    assert_eq!(send(&fixture, &by_itself).await, StatusCode::FORBIDDEN);
    let word = removal(&fixture, &online, id, now(), now() + HOUR);
    assert_eq!(send(&fixture, &word).await, StatusCode::OK);
    assert_eq!(fixture.listed().await, [(1, 2)]);
    let (status, body) = fixture.register(&fixture.record(&one, 5, 1)).await;
    assert_eq!((status, &body["error"]), (StatusCode::FORBIDDEN, &"removed".into()));
    fixture.restart().await;
    assert_eq!(fixture.listed().await, [(1, 2)]);
    assert_eq!(fixture.register(&fixture.record(&one, 6, 1)).await.1["error"], "removed");

    // A later request of another authorized key revokes the removal.
    let back = removal(&fixture, &root, id, now() + Duration::from_secs(1), UnixTime::default());
    assert_eq!(send(&fixture, &back).await, StatusCode::OK);
    assert_eq!(send(&fixture, &word).await, StatusCode::CONFLICT, "the old word doesn't count again");
    assert_eq!(fixture.register(&fixture.record(&one, 7, 1)).await.0, StatusCode::OK);
}
