//! Floods of a home by a hostile node: valid, forged and refused leases, notices of displaced leases, and messages to
//! inboxes that nobody has.

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

/// Requests in a second: 32,000 leases.
const REQUESTS: u32 = 500;
/// Leases of one request: the most that it may contain.
pub const BATCH: u64 = 64;
/// Requests until leases repeat: signing a lease costs as much as verifying it.
const REQUESTS_SIGNED: u64 = 100;
/// Requests with more leases than one member's share.
const REQUESTS_BEYOND: u64 = SHARE / BATCH + 50;
/// Leases that a home may still have after all attacks: they expire an hour after signing.
pub const KEPT: u64 = REQUESTS_SIGNED * BATCH + 2 * BATCH;
/// Messages to unknown inboxes in a second.
const FRAMES: u32 = 20_000;
/// Messages in one write.
const BURST: u32 = 20;
/// The lifetime of leases, within the home's limit.
const LASTS: Duration = Duration::from_secs(3_000);
/// The lifetime of leases that fill a share: until the attack and its measurements are over, but not until the end of
/// the course.
const LASTS_BEYOND: Duration = Duration::from_secs(40);

/// A kind of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Valid ones, repeated.
    Good,
    /// Valid ones, of more inboxes than one member's share.
    Beyond,
    /// With an invalid signature.
    Forged,
    /// Valid ones of few inboxes, each newer than the last, so that each has to be verified.
    New,
    /// Valid ones that a home refuses: older than a registered one, or of another node.
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

    /// Requests until the first repeats.
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
            // The newer lease that makes the others stale.
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

/// A lease of inbox number `inbox` of a kind. Kinds have different inboxes.
fn signed(inbox: u64, node: NodeId, seq: u64, kind: Kind) -> Bytes {
    let mut seed = [kind as u8; 32];
    seed[..8].copy_from_slice(&inbox.to_le_bytes());
    let lasts = if kind == Kind::Beyond { LASTS_BEYOND } else { LASTS };
    let lease = lease(&SecretKey::from_bytes(&seed), node, seq, lasts).as_bytes().clone();
    if kind == Kind::Forged { forged(&lease) } else { lease }
}

/// The lease with an invalid signature.
fn forged(lease: &Bytes) -> Bytes {
    let mut bytes = lease.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

/// Sends notices of displaced leases: with valid leases of inboxes that nobody has attached here, or, with
/// `of_somebody`, with forged leases of a baseline client's inbox.
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
            // Once this request is answered, everything before it has been read.
            frames.extend(frame(&Header::Request(turn, Request::FindLease(random_address())), b""));
            plan.tally.add("words of displaced leases sent", BURST.into());
            plan.tally.count("sent over a link");
            link.write(plan, &mut lane, &frames, 1).await?;
        }
    })
    .await;
}

/// Sends messages to inboxes that nobody has.
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
