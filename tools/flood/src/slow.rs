//! Clients that don't read: each attaches an inbox and reads nothing while others send to it. Some never read, and some
//! begin to read all at the same time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::keys::{NodeId, SecretKey};
use chappe_testkit::raw::{address_of, attachment, lease, now_ms};
use serde_json::{Value, json};
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    client::code_of,
    hostile_source,
    plan::Plan,
    wire::{Said, Takes, Wire},
};

/// Clients that never read.
pub const DEAF: u32 = 500;
/// The memory that they may take, in MiB: `limits.max_queued` each, and a quarter more for the two sessions and for
/// what growing queues leave behind.
pub const HELD: u32 = DEAF * 5 / 16;
/// The most messages of the largest payload to each: far more than its queue and the system's buffers hold.
const MESSAGES: u64 = 30;
/// Clients that connect in a second.
const COME: u32 = 250;
/// Messages to all clients in a second. Clients take turns, so that all queues are full at the same time. Half of the
/// clients have to read their close frame within the second that a node waits.
const RATE: u32 = 250;

/// Clients that begin to read at the same time, and how many of the largest messages are queued for each: within the
/// bounds for a session and for all of them together.
#[derive(Clone, Copy, Debug)]
pub struct Readers {
    /// The number of clients.
    pub count: u32,
    /// Queued messages of each.
    pub messages: u32,
    /// The memory that they may take, in MiB: the queued messages, and a quarter more.
    pub held: u32,
}

/// As many as [`DEAF`], with full queues.
pub const SOME: Readers = Readers { count: DEAF, messages: 5, held: HELD };
/// Four times as many, up to the bound for all together.
pub const MANY: Readers = Readers { count: 2_000, messages: 2, held: 2_000 * 2 * 48 / 1024 * 5 / 4 };
/// Messages to all clients in a second.
const READERS_RATE: u32 = 1_000;

/// Fills the queues, and lets all read at the same time.
pub async fn read_at_once(plan: &Plan, Readers { count, messages, .. }: Readers) {
    let count = plan.some(count);
    let mut coming = JoinSet::new();
    for number in 0..count {
        sleep(Duration::from_secs(1) / COME).await;
        let plan = plan.clone();
        coming.spawn(async move { (number, timeout_at(plan.until, gather(&plan, number)).await.ok().flatten()) });
    }
    let all: Vec<_> = coming.join_all().await.into_iter().filter_map(|(number, all)| Some((number, all?))).collect();
    let (filled, since) = (Arc::new(Barrier::new(all.len())), Instant::now());
    let mut filling = JoinSet::new();
    for (number, (mut deaf, mut pusher, to)) in all {
        let (plan, filled) = (plan.clone(), filled.clone());
        filling.spawn(async move {
            let message =
                json!({"type": "call_ice", "to": to, "payload": "x".repeat(48 * 1024), "id": "i"}).to_string();
            for turn in 0..messages {
                plan.turn(since, u64::from(turn) * u64::from(count) + u64::from(number), READERS_RATE).await;
                if pusher.say(&message).await.is_err() {
                    break;
                }
                plan.tally.count("sent to it");
                let Ok(Said::Text(text)) = pusher.next().await else { break };
                plan.tally.count(&format!("answered {}", code_of(&text)));
            }
            filled.wait().await;
            deaf.take_all();
            let mut read = 0;
            while read < messages {
                match timeout_at(plan.until, deaf.next()).await {
                    Ok(Ok(Said::Text(_))) => read += 1,
                    Ok(Ok(Said::Pong | Said::Other)) => {}
                    Ok(Ok(Said::Close(code))) => return plan.tally.count(&format!("closed with {code}")),
                    Ok(Ok(Said::End) | Err(_)) => return plan.tally.count("ended without a word"),
                    Err(_) => return plan.tally.count("out of time"),
                }
            }
            plan.tally.count("read all");
        });
    }
    filling.join_all().await;
}

/// Fills the queues until each client is closed, and counts the close codes.
pub async fn run(plan: &Plan) {
    let count = plan.some(DEAF);
    plan.tally.add("clients that don't read", count.into());
    let mut coming = JoinSet::new();
    for number in 0..count {
        sleep(Duration::from_secs(1) / COME).await;
        let plan = plan.clone();
        coming.spawn(async move { (number, timeout_at(plan.until, gather(&plan, number)).await.ok().flatten()) });
    }
    // All are connected before the first queue is filled.
    let (all, mut filling, since) = (coming.join_all().await, JoinSet::new(), Instant::now());
    for (number, gathered) in all {
        let Some(gathered) = gathered else { continue };
        let plan = plan.clone();
        filling.spawn(async move {
            if timeout_at(plan.until, fill(&plan, gathered, since, number, count)).await.is_err() {
                plan.tally.count("out of time");
            }
        });
    }
    filling.join_all().await;
}

/// A client that doesn't read, the client that sends to it, and its inbox.
type Gathered = (Wire, Wire, String);

async fn gather(plan: &Plan, number: u32) -> Option<Gathered> {
    // Each sender has its own address, so that rate limits don't apply.
    let (deaf, pusher) = (hostile_source(number), hostile_source(2_000 + number));
    let mut seed = [0xDE; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let key = SecretKey::from_bytes(&seed);
    let deaf = attached(deaf, plan, &key).await?;
    let (pusher, _) = Wire::open(pusher, plan.node, Takes::All).await.ok()?;
    plan.tally.count("opened");
    Some((deaf, pusher, address_of(&key).to_base64url()))
}

async fn fill(plan: &Plan, (mut deaf, mut pusher, to): Gathered, since: Instant, number: u32, count: u32) {
    let message = json!({"type": "call_ice", "to": to, "payload": "x".repeat(48 * 1024), "id": "i"}).to_string();
    for turn in 0..MESSAGES {
        plan.turn(since, turn * u64::from(count) + u64::from(number), RATE).await;
        if pusher.say(&message).await.is_err() {
            return plan.tally.count("pusher closed");
        }
        plan.tally.count("sent to it");
        let Ok(Said::Text(text)) = pusher.next().await else { return plan.tally.count("pusher closed") };
        let outcome = code_of(&text);
        plan.tally.count(&format!("answered {outcome}"));
        if matches!(outcome.as_str(), "congested" | "peer_offline") {
            break;
        }
    }
    // The session is over. Read everything sent before, and the close frame.
    deaf.take_all();
    loop {
        match deaf.next().await {
            Ok(Said::Close(code)) => return plan.tally.count(&format!("closed with {code}")),
            Ok(Said::Text(_) | Said::Pong | Said::Other) => {}
            Ok(Said::End) | Err(_) => return plan.tally.count("ended without a word"),
        }
    }
}

/// Opens a session and attaches the inbox of `key`.
async fn attached(source: IpAddr, plan: &Plan, key: &SecretKey) -> Option<Wire> {
    // A node under attack may be slow to accept it.
    for _ in 0..10 {
        if let Some(wire) = try_attach(source, plan, key).await {
            return Some(wire);
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}

async fn try_attach(source: IpAddr, plan: &Plan, key: &SecretKey) -> Option<Wire> {
    let (mut wire, info) = Wire::open(source, plan.node, Takes::Little).await.ok()?;
    plan.tally.count("opened");
    let info: Value = serde_json::from_str(&info).ok()?;
    let node = NodeId::from_server_id(info["serverId"].as_str()?).ok()?;
    let nonce = STANDARD.decode(info["nonce"].as_str()?).ok()?.try_into().ok()?;
    let lease = lease(key, node, now_ms(), Duration::from_secs(600));
    let item = attachment(key, &nonce, &lease);
    wire.say(&json!({"type": "attach", "id": "a", "inboxes": [item]}).to_string()).await.ok()?;
    let Said::Text(answer) = wire.next().await.ok()? else { return None };
    answer.contains("\"attached\"").then_some(wire)
}
