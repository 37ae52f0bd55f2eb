//! Homes that lie about pairing codes, as members of a federation with one real node. The liars name a session of the
//! attacker's own node, which is one of them, as the holder of every code.
#![cfg(target_os = "linux")]

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use chappe_common::{code::PairingCode, keys::SecretKey};
use chappe_node::{Node, NodeConfig};
use chappe_testkit::{
    eventually,
    federation::no_limits,
    members::{self, Members},
    raw::Raw,
};
use serde_json::json;
use tokio::sync::oneshot;

/// What became of pairing requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcomes {
    /// The one who shows the code got the request.
    found: usize,
    /// The requester was told that nobody has the code.
    denied: usize,
    /// The attacker got the request.
    redirected: usize,
}

fn code(number: usize) -> String {
    PairingCode::from_random(u32::try_from(number).expect("few codes")).as_str().to_owned()
}

async fn pair(url: &str, misled: &AtomicUsize, number: usize, outcomes: &mut Outcomes) {
    let (shown, own) = (code(2 * number), code(2 * number + 1));
    let (mut shower, mut requester) = tokio::join!(Raw::register(url, &shown), Raw::register(url, &own));
    let before = misled.load(Ordering::Relaxed);
    requester.send(json!({"type": "pair_request", "targetCode": shown})).await;
    let outcome = tokio::select! {
        message = shower.next() => {
            assert_eq!((&message["type"], &message["fromCode"]), (&json!("pair_incoming"), &json!(own)));
            &mut outcomes.found
        }
        message = requester.next() => {
            assert_eq!(message["type"], "pair_error", "{message}");
            &mut outcomes.denied
        }
        () = eventually("the attacker has the request", || misled.load(Ordering::Relaxed) > before) => {
            &mut outcomes.redirected
        }
    };
    *outcome += 1;
}

async fn outcomes(count: usize, liars: usize, pairings: usize) -> Outcomes {
    let root = SecretKey::from_bytes(&[7; 32]).public();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = NodeConfig::default();
    config.node.data_dir = folder.path().join("node");
    config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.federation.roots = vec![root];
    config.federation.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    no_limits(&mut config);
    let node = Node::spawn(config).await.expect("a node");
    let members = Members { root, count: count - 1, liars, node: node.id(), quic: node.addrs().quic };
    let (misled, (whole, is_whole)) = (Arc::new(AtomicUsize::new(0)), oneshot::channel());
    let played = async {
        is_whole.await.expect("members that know the node");
        eventually("the node has a link to each member", || node.stats().links == count - 1).await;
        let mut outcomes = Outcomes::default();
        for number in 0..pairings {
            pair(node.client_url(), &misled, number, &mut outcomes).await;
        }
        outcomes
    };
    let outcomes = tokio::select! {
        () = members::live(&members, whole, &misled) => unreachable!("they live for ever"),
        outcomes = played => outcomes,
    };
    println!("{count} members, {liars} of them lie, {pairings} pairings: {outcomes:?}");
    node.shutdown().await;
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lying_home_redirects_and_denies_no_pairing_and_two_only_where_both_are_homes() {
    // The large size is 500.
    let pairings = std::env::var("CHAPPE_TEST_PAIRINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    for count in [5, 12] {
        let one = outcomes(count, 1, pairings).await;
        assert_eq!(one, Outcomes { found: pairings, ..Outcomes::default() });
        let two = outcomes(count, 2, pairings).await;
        assert_eq!((two.found + two.redirected, two.denied), (pairings, 0), "{two:?}");
        // Both are among the three homes of 3 in 10 codes of five members, and of 1 in 22 of twelve.
        assert!(two.redirected * 100 <= pairings * if count == 5 { 60 } else { 20 }, "{two:?}");
    }
}
