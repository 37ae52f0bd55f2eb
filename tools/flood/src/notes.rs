//! Notes of a hostile node to a session whose code it has looked up: all kinds that a member may send to a session of
//! another node, at any rate. The session is a baseline client's, which is paired and calls meanwhile.

use std::cell::Cell;

use chappe_common::{client::RelayKind, code::PairingCode};
use chappe_testkit::{
    link::{
        CONTROL, RELAY,
        frames::{Header, Note, Outcome, frame},
    },
    raw::random_address,
};
use rand::RngExt as _;

use super::{baseline::BY_CODE, floods::random_code, hostile, plan::Plan};

/// Notes in a second.
const NOTES: u32 = 20_000;
/// Notes of each kind in one write.
const OF_EACH: usize = 4;
/// Notes with a long name in a second, and the bytes of the name: the most that fit in a frame.
const LONG_NAMES: u32 = 500;
const LONG_NAME: usize = 60 * 1024;
/// Bytes of the payloads that notes carry.
const PAYLOAD: usize = 1_000;

/// A kind of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request to pair with the session's own code.
    PairRequest,
    /// A request to pair with a code that the session doesn't have.
    PairRequestToOtherCode,
    /// An acceptance of a request that was never made.
    Acceptance,
    /// A message of a pair that doesn't exist.
    Message,
    /// A decline of a request that was never made.
    Decline,
    /// A refusal of a request that was never made.
    Refusal,
    /// A withdrawal of a request that was never made.
    Withdrawal,
    /// The end of a session that is paired with nobody.
    Closed,
    /// The outcome of a message that was never sent.
    Outcome,
}

/// Kinds that a node answers or shows to its client. Each note can be accounted for.
pub const ANSWERED: &[Kind] = &[Kind::PairRequest, Kind::PairRequestToOtherCode, Kind::Acceptance, Kind::Message];
/// Kinds that a node doesn't answer. With a full queue they are counted like lost answers, so they are sent in a
/// separate attack.
pub const UNANSWERED: &[Kind] = &[Kind::Decline, Kind::Refusal, Kind::Withdrawal, Kind::Closed, Kind::Outcome];

/// Sends notes of these kinds until the time is over.
///
/// # Panics
/// Never: the baseline's code is valid.
pub async fn run(plan: &Plan, kinds: &[Kind]) {
    let code: PairingCode = BY_CODE[0].parse().expect("a code");
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD));
    let burst = kinds.repeat(OF_EACH);
    hostile::attack(plan, NOTES / burst.len() as u32, async |link, turns| {
        let (mut relay, mut control) = (link.lane(RELAY).await?, link.lane(CONTROL).await?);
        let session = link.find(plan, &mut control, code).await?;
        loop {
            let turn = turns.next().await?;
            let (mut frames, mut answered, mut pair_requests) = (Vec::new(), 0, 0);
            for kind in &burst {
                let header = kind.header(session, code, &payload);
                let follows = if *kind == Kind::Message { payload.as_bytes() } else { b"" };
                frames.extend(frame(&header, follows));
                plan.tally.count(&format!("{} sent", kind.name()));
                answered += u64::from(ANSWERED.contains(kind));
                pair_requests += u64::from(kind.name() == "pair requests");
            }
            // Once this is answered, everything before it on the lane has been read.
            let fence = Header::ToInbox(turn, RelayKind::CallIce, random_address());
            frames.extend(frame(&fence, payload.as_bytes()));
            plan.tally.count("messages sent");
            plan.tally.add("sent over a link", answered + 1);
            if link.write(plan, &mut relay, &frames, answered + 1).await.is_none() {
                plan.tally.add("pair requests that may not be written", pair_requests);
                return None;
            }
        }
    })
    .await;
}

impl Kind {
    /// The name that it is counted by.
    const fn name(self) -> &'static str {
        match self {
            Self::PairRequest | Self::PairRequestToOtherCode => "pair requests",
            Self::Acceptance => "acceptances",
            Self::Message => "messages",
            Self::Outcome => "outcomes of nothing",
            Self::Decline | Self::Refusal | Self::Withdrawal | Self::Closed => "words without an answer",
        }
    }

    /// The header of a note to the session `to`, which has the code. Each has another sender and number, which match no
    /// request.
    fn header(self, to: u64, code: PairingCode, payload: &str) -> Header {
        let (from, wild) = (rand::rng().random(), rand::rng().random());
        let note = |note| Header::Note(to, from, note);
        let payload = || Some(payload.to_owned().into());
        match self {
            Self::PairRequest | Self::PairRequestToOtherCode => {
                let own = random_code().parse().expect("a code");
                let target = if self == Self::PairRequest { code } else { own };
                note(Note::PairRequest((wild, 0, target, own, [7; 32], Some("somebody".to_owned()), payload())))
            }
            Self::Acceptance => note(Note::Answer(wild, Some(([7; 32], None, payload())))),
            Self::Message => Header::ToSession(wild, RelayKind::IceCandidate, to, from),
            Self::Decline => note(Note::Answer(wild, None)),
            Self::Refusal => note(Note::PairRequestRefused(wild)),
            Self::Withdrawal => note(Note::PairRequestWithdrawn(wild)),
            Self::Closed => note(Note::Closed),
            Self::Outcome => Header::Outcome(wild, Outcome::NotHere),
        }
    }
}

/// Sends requests to pair and acceptances with the longest name that fits in a frame, and that takes six times as much
/// in JSON. They alternate, with a link for each, since the node closes the link.
///
/// # Panics
/// Never: the baseline's code is valid.
pub async fn long_names(plan: &Plan) {
    let code: PairingCode = BY_CODE[0].parse().expect("a code");
    let name = || Some("\u{1}".repeat(LONG_NAME));
    let is_ask = Cell::new(false);
    hostile::attack(plan, LONG_NAMES, async |link, turns| {
        let (mut relay, mut control) = (link.lane(RELAY).await?, link.lane(CONTROL).await?);
        let to = link.find(plan, &mut control, code).await?;
        is_ask.set(!is_ask.get());
        loop {
            let turn = turns.next().await?;
            let own = random_code().parse().expect("a code");
            let (note, what) = if is_ask.get() {
                (Note::PairRequest((turn, 0, code, own, [7; 32], name(), None)), "pair requests with a long name sent")
            } else {
                (Note::Answer(turn, Some(([7; 32], name(), None))), "acceptances with a long name sent")
            };
            plan.tally.count(what);
            plan.tally.count("sent over a link");
            link.write(plan, &mut relay, &frame(&Header::Note(to, turn, note), b""), 1).await?;
        }
    })
    .await;
}

/// Frames about deliveries in a second.
const DELIVERIES: u32 = 1_000;

/// Reports deliveries of messages that were never sent.
pub async fn deliveries(plan: &Plan) {
    hostile::attack(plan, DELIVERIES, async |link, turns| {
        let mut relay = link.lane(RELAY).await?;
        loop {
            turns.next().await?;
            plan.tally.count("sent over a link");
            let header = Header::Delivered(rand::rng().random(), u32::MAX);
            link.write(plan, &mut relay, &frame(&header, b""), 1).await?;
        }
    })
    .await;
}
