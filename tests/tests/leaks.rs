//! Memory and tasks return to where they were. Alone in its process, since it counts the whole process's memory.

use chappe_testkit::{
    eventually,
    federation::Federation,
    raw::{Raw, inbox, now_ms},
};
use serde_json::json;

/// The memory that this process holds, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident set");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Lets `count` sessions come, register, attach and go, a hundred at a time.
async fn come_and_go(federation: &Federation, count: usize) {
    for round in 0..count / 100 {
        let sessions = (0..100_usize).map(|n| async move {
            let node = &federation.nodes[n % federation.nodes.len()];
            let mut raw = Raw::connect(node.client_url()).await;
            let code = chappe_common::code::PairingCode::from_random(u32::try_from(round * 100 + n).expect("small"));
            raw.send(json!({"type": "register", "pairingCode": code.as_str(), "publicKey": "A".repeat(43) + "="}))
                .await;
            raw.expect("registered").await;
            let (key, _) = inbox(u8::try_from(n).expect("small"));
            raw.attach(&key, now_ms()).await;
        });
        futures_util::future::join_all(sessions).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_tasks_are_back_after_ten_thousand_sessions() {
    let federation = Federation::start(2, |config| {
        config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let gone = || {
        federation.nodes.iter().all(|node| {
            let stats = node.stats();
            (stats.sessions, stats.leases, stats.codes, stats.inboxes) == (0, 0, 0, 0)
        })
    };
    // The first thousand warm up what an allocator and a connection keep for reuse.
    come_and_go(&federation, 1000).await;
    eventually("the first sessions are gone from the federation", gone).await;
    let tasks: Vec<_> = federation.nodes.iter().map(|node| node.stats().tasks).collect();
    let before = resident_kib();
    come_and_go(&federation, 10_000).await;
    eventually("all sessions are gone from the federation", gone).await;
    eventually("all tasks are gone", || {
        federation.nodes.iter().zip(&tasks).all(|(node, tasks)| node.stats().tasks <= *tasks)
    })
    .await;
    let after = resident_kib();
    // One leaked session of a few KiB would be tens of MiB by now; 8 MiB are the allocator's.
    assert!(after <= before + 8 * 1024, "{before} KiB before, {after} KiB after");
    federation.shutdown().await;
}
