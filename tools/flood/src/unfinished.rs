//! Messages that lack their end, from more clients than the node has memory to buffer.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt as _, time::timeout_at};

use super::{
    MANY, hostile_source,
    plan::Plan,
    wire::{Said, Takes, Wire, frame},
};

/// Clients that begin a message: more than fit into `limits.memory_budget`.
const COUNT: u32 = 9_000;
/// The memory that they may take, in MiB: `limits.memory_budget`, the part of each that is exempt from it, and the
/// sessions.
pub const HELD: u32 = 256 + COUNT * 18 / 1024;
/// Clients in a second.
const RATE: u32 = 1_800;

/// Sends the messages. The node closes clients that it has no memory for.
pub async fn run(plan: &Plan) {
    let mut message = frame(0x81, "x".repeat(60_000).as_bytes());
    message.pop();
    let message: Arc<[u8]> = message.into();
    plan.all(plan.some(COUNT), RATE, |number| {
        let (plan, message) = (plan.clone(), message.clone());
        async move {
            let Ok((mut wire, _)) = Wire::open(hostile_source(number % MANY), plan.node, Takes::All).await else {
                return plan.tally.count("not opened");
            };
            plan.tally.count("opened");
            // The node may close the connection before all is written.
            if wire.stream.write_all(&message).await.is_ok() {
                plan.tally.count("messages begun");
            }
            match timeout_at(plan.until, wire.next()).await {
                Ok(Ok(Said::Close(code))) => plan.tally.count(&format!("closed with {code}")),
                Ok(Ok(Said::End)) => plan.tally.count("ended without a word"),
                Ok(Ok(_)) => plan.tally.count("answered what was not said"),
                Ok(Err(_)) => plan.tally.count("reset"),
                Err(_) => plan.leave(number, COUNT).await,
            }
        }
    })
    .await;
}
