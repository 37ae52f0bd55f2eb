//! What a hostile node floods homes with: leases, good and forged, and messages to inboxes that nobody has.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::{
    client::RelayKind,
    keys::{NodeId, SecretKey},
};
use rand::RngExt as _;

use super::{hostile, plan::Plan};
use crate::{
    link::{
        CONTROL, RELAY,
        frames::{Header, Request, frame},
    },
    raw::{lease, now_ms},
};

/// Requests with leases in a second: 32,000 leases.
const REQUESTS: u32 = 500;
/// Leases of one request: the most that are allowed.
pub const BATCH: u64 = 64;
/// Requests until the same leases come again: signing costs as much as checking.
const REQUESTS_SIGNED: u64 = 100;
/// Messages to nobody in a second.
const FRAMES: u32 = 20_000;
/// How many of them are written at once.
const BURST: u32 = 20;

/// Registers leases: good ones, the same again and again, or such as don't verify.
pub async fn flood(plan: &Plan, forged: bool) {
    hostile::attack(plan, REQUESTS, async |link, turns| {
        let mut lane = link.lane(CONTROL).await?;
        let node = link.key.node_id();
        let mut signed = Vec::new();
        loop {
            let turn = turns.next().await?;
            let place = (turn % REQUESTS_SIGNED) as usize;
            if signed.len() <= place {
                let first = signed.len() as u64 * BATCH;
                signed.push((first..first + BATCH).map(|number| one_lease(node, number, forged)).collect::<Vec<_>>());
            }
            let leases = signed[place.min(signed.len() - 1)].clone();
            plan.tally.count("sent over a link");
            plan.tally.add("leases sent", BATCH);
            link.write(plan, &mut lane, &frame(&Header::Request(turn, Request::PutLeases(leases)), b""), 1).await?;
        }
    })
    .await;
}

fn one_lease(node: NodeId, number: u64, forged: bool) -> Bytes {
    let mut seed = [0x1E; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let lease = lease(&SecretKey::from_bytes(&seed), node, now_ms(), Duration::from_secs(3_000));
    let mut bytes = lease.as_bytes().to_vec();
    if forged && let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

/// Forwards messages to inboxes that nobody has.
pub async fn frames_to_nobody(plan: &Plan) {
    let payload = format!("\"{}\"", "x".repeat(1_000));
    hostile::attack(plan, FRAMES / BURST, async |link, turns| {
        let mut lane = link.lane(RELAY).await?;
        loop {
            let turn = turns.next().await?;
            let frames = (0..u64::from(BURST)).flat_map(|number| {
                let header = Header::ToInbox(turn * 100 + number, RelayKind::CallOffer, rand::rng().random());
                frame(&header, payload.as_bytes())
            });
            plan.tally.add("sent over a link", BURST.into());
            link.write(plan, &mut lane, &frames.collect::<Vec<_>>(), BURST.into()).await?;
        }
    })
    .await;
}
