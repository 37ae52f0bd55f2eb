//! Clients that don't read: each attaches an inbox and takes nothing of what comes for it, while others fill it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::keys::{NodeId, SecretKey};
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout_at},
};

use super::{
    hostile_source,
    plan::Plan,
    talk::code_of,
    wire::{Said, Wire},
};
use crate::raw::{attachment, lease, now_ms};

/// How many don't read.
const DEAF: u32 = 500;
/// How many messages of the largest payload each is sent: more than its queue and the system's buffers hold.
const MESSAGES: u32 = 120;
/// How many are filled at once.
const AT_ONCE: usize = 50;

/// Fills them until each is closed, and counts with which code.
pub async fn run(plan: &Plan) {
    let (mut clients, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for number in 0..plan.some(DEAF) {
        let (plan, room) = (plan.clone(), room.clone());
        clients.spawn(async move {
            let _place = room.acquire_owned().await;
            if timeout_at(plan.until, fill(&plan, number)).await.is_err() {
                plan.tally.count("out of time");
            }
        });
    }
    clients.join_all().await;
}

async fn fill(plan: &Plan, number: u32) {
    // Each pusher comes from an address of its own: its rate is not what is tried here.
    let (deaf, pusher) = (hostile_source(number), hostile_source(2_000 + number));
    let mut seed = [0xDE; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let key = SecretKey::from_bytes(&seed);
    // As little as the system allows: what it takes is none of the node's queue.
    let Some(mut deaf) = attached(deaf, plan, &key, Some(2048)).await else { return plan.tally.count("not attached") };
    let Ok((mut pusher, _)) = Wire::open(pusher, plan.node, None).await else { return plan.tally.count("no pusher") };
    plan.tally.count("opened");
    let to = key.public().to_base64url();
    let message = json!({"type": "call_ice", "to": to, "payload": "x".repeat(48 * 1024), "id": "i"}).to_string();
    for _ in 0..MESSAGES {
        if pusher.say(&message).await.is_err() {
            return plan.tally.count("pusher closed");
        }
        plan.tally.count("sent to it");
        let Ok(Said::Text(text)) = pusher.next().await else { return plan.tally.count("pusher closed") };
        let outcome = code_of(&text);
        plan.tally.count(&format!("answered {outcome}"));
        if outcome == "peer_offline" {
            break;
        }
    }
    // All that was said before, and the last word.
    loop {
        match deaf.next().await {
            Ok(Said::Close(code)) => return plan.tally.count(&format!("closed with {code}")),
            Ok(Said::Text(_) | Said::Pong | Said::Other) => {}
            Ok(Said::End) | Err(_) => return plan.tally.count("ended without a word"),
        }
    }
}

/// A session that has attached the inbox of `key`.
pub async fn attached(source: IpAddr, plan: &Plan, key: &SecretKey, receive_buffer: Option<u32>) -> Option<Wire> {
    // A node under attack may be slow to let it in.
    for _ in 0..10 {
        if let Some(wire) = try_attach(source, plan, key, receive_buffer).await {
            return Some(wire);
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}

async fn try_attach(source: IpAddr, plan: &Plan, key: &SecretKey, receive_buffer: Option<u32>) -> Option<Wire> {
    let (mut wire, info) = Wire::open(source, plan.node, receive_buffer).await.ok()?;
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
