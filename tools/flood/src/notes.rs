//! Notes of a hostile node to a session whose code it has looked up: all that a member may send to another's session,
//! and as much of it as it likes. The session is one of the honest, who is paired and calls meanwhile.

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
/// How often each kind is written at once.
const OF_EACH: usize = 4;
/// Notes with a long name in a second, and its bytes: a frame takes no more.
const LONG_NAMES: u32 = 500;
const LONG_NAME: usize = 60 * 1024;
/// Bytes of the payloads that notes carry.
const PAYLOAD: usize = 1_000;

/// A kind of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request to pair with who has the code.
    Ask,
    /// One with who has another code, which the session doesn't.
    AskForAnother,
    /// «Yes» to a request that was never made.
    Acceptance,
    /// A message of a pairing that doesn't exist.
    Message,
    /// «No» to a request that was never made.
    Decline,
    /// That such a request can't be processed.
    Refusal,
    /// That a request is taken back which was never made.
    Withdrawal,
    /// That a session has ended which is paired with nobody.
    Closed,
    /// What became of a message that was never sent.
    Outcome,
}

/// What a node answers, unless it shows it to its client: all of it can be accounted for.
pub const ANSWERED: &[Kind] = &[Kind::Ask, Kind::AskForAnother, Kind::Acceptance, Kind::Message];
/// What no node answers. Where it meets a full queue it is counted as words are whose answers are lost: so it comes
/// apart from what is answered.
pub const UNANSWERED: &[Kind] = &[Kind::Decline, Kind::Refusal, Kind::Withdrawal, Kind::Closed, Kind::Outcome];

/// Sends them until the time is over.
///
/// # Panics
/// The code of the honest is none.
pub async fn run(plan: &Plan, kinds: &[Kind]) {
    let code: PairingCode = BY_CODE[0].parse().expect("a code");
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD));
    let burst = kinds.repeat(OF_EACH);
    hostile::attack(plan, NOTES / burst.len() as u32, async |link, turns| {
        let (mut relay, mut control) = (link.lane(RELAY).await?, link.lane(CONTROL).await?);
        let session = link.find(plan, &mut control, code).await?;
        loop {
            let turn = turns.next().await?;
            let (mut frames, mut answered, mut asks) = (Vec::new(), 0, 0);
            for kind in &burst {
                let header = kind.header(session, code, &payload);
                let follows = if *kind == Kind::Message { payload.as_bytes() } else { b"" };
                frames.extend(frame(&header, follows));
                plan.tally.count(&format!("{} sent", kind.name()));
                answered += u64::from(ANSWERED.contains(kind));
                asks += u64::from(kind.name() == "asks");
            }
            // What stands at the end of a lane has been read when this is answered.
            let fence = Header::ToInbox(turn, RelayKind::CallIce, random_address());
            frames.extend(frame(&fence, payload.as_bytes()));
            plan.tally.count("messages sent");
            plan.tally.add("sent over a link", answered + 1);
            if link.write(plan, &mut relay, &frames, answered + 1).await.is_none() {
                plan.tally.add("asks that may not be written", asks);
                return None;
            }
        }
    })
    .await;
}

impl Kind {
    /// What it is called.
    const fn name(self) -> &'static str {
        match self {
            Self::Ask | Self::AskForAnother => "asks",
            Self::Acceptance => "acceptances",
            Self::Message => "messages",
            Self::Outcome => "outcomes of nothing",
            Self::Decline | Self::Refusal | Self::Withdrawal | Self::Closed => "words without an answer",
        }
    }

    /// One of it, to the session `to`, which has the code. Each is from another session, with another number: nobody
    /// has asked, and nobody waits.
    fn header(self, to: u64, code: PairingCode, payload: &str) -> Header {
        let (from, wild) = (rand::rng().random(), rand::rng().random());
        let note = |note| Header::Note(to, from, note);
        let payload = || Some(payload.to_owned().into());
        match self {
            Self::Ask | Self::AskForAnother => {
                let own = random_code().parse().expect("a code");
                let target = if self == Self::Ask { code } else { own };
                note(Note::Ask((wild, 0, target, own, [7; 32], Some("somebody".to_owned()), payload())))
            }
            Self::Acceptance => note(Note::Answer(wild, Some(([7; 32], None, payload())))),
            Self::Message => Header::ToSession(wild, RelayKind::IceCandidate, to, from),
            Self::Decline => note(Note::Answer(wild, None)),
            Self::Refusal => note(Note::AskRefused(wild)),
            Self::Withdrawal => note(Note::AskWithdrawn(wild)),
            Self::Closed => note(Note::Closed),
            Self::Outcome => Header::Outcome(wild, Outcome::NotHere),
        }
    }
}

/// Asks the session with a name that is as long as fits, and takes six times as much in JSON; or accepts what it never
/// asked, with such a name: by turns, a link for each, as the node ends the link.
///
/// # Panics
/// The code of the honest is none.
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
                (Note::Ask((turn, 0, code, own, [7; 32], name(), None)), "asks with a long name sent")
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

/// Words about deliveries in a second.
const DELIVERIES: u32 = 1_000;

/// Says that messages were delivered which nobody has sent.
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
