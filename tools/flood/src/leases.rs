//! What a hostile node floods homes with: leases, good, forged and refused, words that leases were displaced, and
//! messages to inboxes that nobody has.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::{
    client::RelayKind,
    keys::{NodeId, SecretKey},
};
use chappe_testkit::{
    link::{
        CONTROL, RELAY,
        frames::{Header, Request, frame},
    },
    raw::{lease, now_ms, random_address},
};
use quinn::SendStream;
use rand::RngExt as _;

use super::{
    baseline::inbox_key,
    hostile::{self, Link},
    node::SHARE,
    plan::Plan,
};

/// Requests with leases in a second: 32,000 leases.
const REQUESTS: u32 = 500;
/// Leases of one request: the most that are allowed.
pub const BATCH: u64 = 64;
/// Requests until the same leases come again: signing costs as much as checking.
const REQUESTS_SIGNED: u64 = 100;
/// The same of more than one member's share of what the node keeps.
const REQUESTS_BEYOND: u64 = SHARE / BATCH + 50;
/// Leases that a home may still keep when all attacks are over: until they end by themselves, an hour after they were
/// signed.
pub const KEPT: u64 = REQUESTS_SIGNED * BATCH + 2 * BATCH;
/// Messages to nobody in a second.
const FRAMES: u32 = 20_000;
/// How many of them are written at once.
const BURST: u32 = 20;
/// How long leases last: within what a home takes.
const LASTS: Duration = Duration::from_secs(3_000);
/// The same of those that fill a share: until the attack and what is measured after it are over, and not until the
/// course is.
const LASTS_BEYOND: Duration = Duration::from_secs(40);

/// Which leases are registered, or shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Good ones, the same again and again.
    Good,
    /// Good ones, of more inboxes than one member may fill its home with.
    Beyond,
    /// Such as don't verify.
    Forged,
    /// Good ones of few inboxes, each newer than the last: each has to be verified.
    New,
    /// Such as verify and are not kept: older than one that is, or another node's.
    Refused,
}

impl Kind {
    /// The leases of one request.
    fn batch(self, node: NodeId, number: u64, seq: u64) -> Vec<Bytes> {
        match self {
            Self::Good | Self::Beyond | Self::Forged => {
                (number * BATCH..(number + 1) * BATCH).map(|inbox| signed(inbox, node, seq, self)).collect()
            }
            Self::New => (0..BATCH).map(|inbox| signed(inbox, node, seq + number, self)).collect(),
            Self::Refused => {
                let older = (0..BATCH / 2).map(|inbox| signed(inbox, node, seq - 1, self));
                let another = SecretKey::from_bytes(&rand::rng().random()).node_id();
                older.chain((BATCH / 2..BATCH).map(|inbox| signed(inbox, another, seq, self))).collect()
            }
        }
    }

    /// How many requests are signed before the first comes again.
    const fn signed(self) -> u64 {
        match self {
            Self::Good | Self::Forged => REQUESTS_SIGNED,
            Self::Beyond => REQUESTS_BEYOND,
            Self::New => u64::MAX,
            Self::Refused => 1,
        }
    }
}

/// Registers leases until the time is over.
pub async fn flood(plan: &Plan, kind: Kind) {
    hostile::attack(plan, REQUESTS, async |link, turns| {
        let mut lane = link.lane(CONTROL).await?;
        let (node, seq) = (link.key.node_id(), now_ms());
        if kind == Kind::Refused {
            // What the others are older than.
            let newest = (0..BATCH / 2).map(|inbox| signed(inbox, node, seq, kind)).collect();
            put(plan, link, &mut lane, newest).await?;
        }
        let mut known: Vec<Vec<Bytes>> = Vec::new();
        for number in 0.. {
            turns.next().await?;
            let again = usize::try_from(number % kind.signed()).ok().and_then(|place| known.get(place));
            let leases = again.cloned().unwrap_or_else(|| kind.batch(node, number, seq));
            if kind != Kind::New && number < kind.signed() {
                known.push(leases.clone());
            }
            put(plan, link, &mut lane, leases).await?;
        }
        None
    })
    .await;
}

async fn put(plan: &Plan, link: &Link, lane: &mut SendStream, leases: Vec<Bytes>) -> Option<()> {
    plan.tally.count("sent over a link");
    plan.tally.add("leases sent", leases.len() as u64);
    link.write(plan, lane, &frame(&Header::Request(0, Request::PutLeases(leases)), b""), 1).await
}

/// A lease of inbox number `inbox` of a kind: no kind has another's.
fn signed(inbox: u64, node: NodeId, seq: u64, kind: Kind) -> Bytes {
    let mut seed = [kind as u8; 32];
    seed[..8].copy_from_slice(&inbox.to_le_bytes());
    let lasts = if kind == Kind::Beyond { LASTS_BEYOND } else { LASTS };
    let lease = lease(&SecretKey::from_bytes(&seed), node, seq, lasts).as_bytes().clone();
    if kind == Kind::Forged { forged(&lease) } else { lease }
}

/// The same with another signature.
fn forged(lease: &Bytes) -> Bytes {
    let mut bytes = lease.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

/// Says that leases were displaced by newer ones: by good ones of inboxes that nobody has attached here; or,
/// `of_somebody`, by forged ones of one that somebody has.
pub async fn displaced(plan: &Plan, of_somebody: bool) {
    let elsewhere = SecretKey::from_bytes(&rand::rng().random()).node_id();
    let leases: Vec<_> = if of_somebody {
        let newer = lease(&inbox_key(0), elsewhere, now_ms(), LASTS);
        vec![forged(newer.as_bytes())]
    } else {
        (0..BATCH).map(|inbox| signed(inbox, elsewhere, now_ms(), Kind::New)).collect()
    };
    hostile::attack(plan, FRAMES / BURST, async |link, turns| {
        let mut lane = link.lane(CONTROL).await?;
        let mut next = leases.iter().cycle();
        loop {
            let turn = turns.next().await?;
            let frames = next.by_ref().take(BURST as usize);
            let mut frames: Vec<u8> = frames.flat_map(|lease| frame(&Header::Displaced(lease.clone()), b"")).collect();
            // What stands before a question has been read when it is answered.
            frames.extend(frame(&Header::Request(turn, Request::FindLease(random_address())), b""));
            plan.tally.add("words of displaced leases sent", BURST.into());
            plan.tally.count("sent over a link");
            link.write(plan, &mut lane, &frames, 1).await?;
        }
    })
    .await;
}

/// Forwards messages to inboxes that nobody has.
pub async fn frames_to_nobody(plan: &Plan) {
    let payload = format!("\"{}\"", "x".repeat(1_000));
    hostile::attack(plan, FRAMES / BURST, async |link, turns| {
        let mut lane = link.lane(RELAY).await?;
        loop {
            let turn = turns.next().await?;
            let frames = (0..u64::from(BURST)).flat_map(|number| {
                let header = Header::ToInbox(turn * 100 + number, RelayKind::CallOffer, random_address());
                frame(&header, payload.as_bytes())
            });
            plan.tally.add("sent over a link", BURST.into());
            link.write(plan, &mut lane, &frames.collect::<Vec<_>>(), BURST.into()).await?;
        }
    })
    .await;
}
