//! The bench's generator against the floors and a node: every message arrives once, unaltered, in order and at the
//! right client, and errors of a relay are detected. Speed isn't judged.
#![cfg(target_os = "linux")]

use std::{net::Ipv4Addr, sync::Arc};

use chappe_bench::{
    driver::Generator,
    floors::Floor,
    generator::{Depth, Faults, Load, Pace, Plan, Server, Speaks},
    server::Servers,
};
use chappe_common::keys::SecretKey;
use chappe_node::{Node, NodeConfig};
use chappe_testkit::{
    eventually,
    members::{self, Members},
    tls::Files,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

const SESSIONS: u32 = 50;

/// Runs a short load of each pace.
async fn messages_arrive(plan: &Plan) {
    let mut generator = Generator::start(plan);
    generator.connect(SESSIONS, Depth::Paired).await;
    let open = Load { pace: Pace::Open { rate: 500.0 }, size: 1024, seconds: 0.5 };
    let closed = Load { pace: Pace::Closed { pairs: 5, window: 8 }, size: 8192, seconds: 0.2 };
    for load in [open, closed] {
        let loaded = generator.load(load).await;
        assert_eq!(loaded.faults, Faults::default(), "{plan:?}, {load:?}");
        assert!(loaded.messages > 100 && loaded.received == loaded.sent, "{plan:?}, {load:?}: {loaded:?}");
        // In this process, threads of other tests end meanwhile, and their time is no longer counted.
        assert!(plan.pids.contains(&std::process::id()) || loaded.cpu_us() > 0.0, "the kernel counts no time");
    }
    generator.disconnect().await;
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    Files::make(dir.path());
    dir
}

async fn node(dir: &TempDir, change: impl FnOnce(&mut NodeConfig)) -> (Node, Plan) {
    let mut config = NodeConfig::default();
    config.node.data_dir = dir.path().join("node");
    config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    change(&mut config);
    let tls = config.client.tls_cert.is_some().then(|| dir.path().to_owned());
    let node = Node::spawn(config).await.expect("a node");
    let servers = vec![Server { addr: node.addrs().client, speaks: Speaks::Chappe }];
    (node, Plan { servers, pids: vec![std::process::id()], tls })
}

#[tokio::test]
async fn every_message_over_a_floor_arrives_once_unaltered_and_in_order() {
    let dir = folder();
    for floor in [Floor::Bare, Floor::WebSocket, Floor::Tls(dir.path().to_owned())] {
        messages_arrive(&Servers::floor(floor).await.plan()).await;
    }
    messages_arrive(&Servers::linked_floors(dir.path()).await.plan()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_message_over_a_node_arrives_once_unaltered_and_in_order() {
    let dir = folder();
    let (node, plan) = node(&dir, |_| {}).await;
    messages_arrive(&plan).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_message_over_tls_arrives_once_unaltered_and_in_order() {
    let dir = folder();
    let files = Files::in_folder(dir.path());
    let (node, plan) = node(&dir, |config| {
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    messages_arrive(&plan).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_refuses_messages_is_found_out() {
    let dir = folder();
    let (node, plan) = node(&dir, |config| {
        config.limits.exempt.clear();
        config.limits.source_connections_per_minute = 1000;
    })
    .await;
    let mut generator = Generator::start(&plan);
    generator.connect(2, Depth::Inbox).await;
    let load = Load { pace: Pace::Open { rate: 4000.0 }, size: 1024, seconds: 0.5 };
    let faults = generator.load(load).await.faults;
    // The sender of a refused message gets an error, until its session is closed.
    assert!(faults.lost > 0 && (1..=faults.lost).contains(&faults.unexpected), "{faults:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn simulated_members_are_admitted_by_a_node_and_accept_its_registrations() {
    let dir = folder();
    let root = SecretKey::from_bytes(&[7; 32]).public();
    let (node, plan) = node(&dir, |config| {
        config.federation.roots = vec![root];
        config.federation.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let members = Members { root, count: 9, liars: 0, node: node.id(), quic: node.addrs().quic };
    let (misled, (whole, is_whole)) = (Arc::default(), oneshot::channel());
    let served = async {
        is_whole.await.expect("members that know the node");
        eventually("the node has a link to each member", || {
            let stats = node.stats();
            (stats.members, stats.links) == (10, 9)
        })
        .await;
        messages_arrive(&plan).await;
    };
    tokio::select! {
        () = members::live(&members, whole, &misled) => unreachable!("they live for ever"),
        () = served => {}
    }
    assert_eq!((node.stats().members, node.stats().links), (10, 9));
    node.shutdown().await;
}
