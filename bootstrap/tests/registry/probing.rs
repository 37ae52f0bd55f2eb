//! What happens to listed nodes that stop answering.

use std::time::Duration;

use chappe_bootstrap::BootstrapConfig;
use chappe_common::{keys::SecretKey, signed::Signed};
use reqwest::StatusCode;

use crate::fixture::{Fixture, TestNode, eventually};

fn often(config: &mut BootstrapConfig) {
    config.probing.interval = Duration::from_secs(1);
    config.probing.failure_threshold = 2;
    config.times.dial = Duration::from_millis(300);
}

#[tokio::test]
async fn a_node_that_falls_silent_leaves_the_list_and_comes_back_when_it_answers() {
    let fixture = Fixture::start_with(often).await;
    let [one, two, three] = [1, 2, 3].map(TestNode::start);
    for (node, seq) in [(&one, 1), (&two, 2), (&three, 3)] {
        assert_eq!(fixture.register(&fixture.record(node, 1, seq)).await.0, StatusCode::OK);
    }
    let (key, addr) = (two.key.clone(), two.addr);
    drop(two);
    let listed = async || {
        let mut seqs: Vec<_> = fixture.listed().await.into_iter().map(|(_, seq)| seq).collect();
        seqs.sort_unstable();
        seqs
    };
    eventually("the silent node is not shown", async || listed().await == [1, 3]).await;
    let _back = TestNode::start_at(key, addr);
    eventually("it is shown again, without a word of its own", async || listed().await == [1, 2, 3]).await;
}

#[tokio::test]
async fn a_node_that_left_its_listed_address_is_silent_despite_answers_elsewhere() {
    let fixture = Fixture::start_with(|config| {
        often(config);
        config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let stays = TestNode::start(1);
    assert_eq!(fixture.register(&fixture.record(&stays, 1, 1)).await.0, StatusCode::OK);
    let hired = TestNode::start_at(SecretKey::from_bytes(&[2; 32]), ([127, 0, 0, 2], 0).into());
    let home = TestNode::start_at(hired.key.clone(), ([127, 0, 0, 3], 0).into());
    let mut record = fixture.record(&hired, 1, 2).into_value();
    record.quic_addrs.push(home.addr);
    let record = Signed::sign(record, &hired.key).expect("a record within its bounds");
    assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
    drop(hired);
    eventually("it is not shown", async || fixture.listed().await == [(1, 1)]).await;
}
