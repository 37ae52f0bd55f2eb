//! Notes of a hostile node to a session whose code it has looked up: all that a member may send to another's session, and
//! as much of it as it likes. The session is one of the honest, who is paired and calls meanwhile.

use chappe_common::{client::RelayKind, code::PairingCode};
use rand::RngExt as _;

use super::{floods::random_code, honest::BY_CODE, hostile, plan::Plan};
use crate::link::{
    CONTROL, RELAY,
    frames::{Header, Note, Outcome, frame},
};

/// Notes in a second.
const NOTES: u32 = 20_000;
/// How many are written at once: of each kind as many.
const BURST: u32 = KINDS * 2;
/// Kinds of what is sent.
const KINDS: u32 = 9;
/// Bytes of the payloads that notes carry.
const PAYLOAD: usize = 1_000;

/// Sends them until the time is over.
///
/// # Panics
/// The code of the honest is none.
pub async fn run(plan: &Plan) {
    let code: PairingCode = BY_CODE[0].parse().expect("a code");
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD));
    hostile::attack(plan, NOTES / BURST, async |link, turns| {
        let (mut relay, mut control) = (link.lane(RELAY).await?, link.lane(CONTROL).await?);
        let Some(session) = link.find(plan, &mut control, code).await else {
            plan.tally.count("codes not found");
            return None;
        };
        loop {
            let turn = turns.next().await?;
            let (mut frames, mut answered) = (Vec::new(), 0);
            for number in 0..BURST {
                let (header, what) = one(number % KINDS, session, code, &payload);
                let follows = if matches!(header, Header::ToSession(..)) { payload.as_bytes() } else { b"" };
                frames.extend(frame(&header, follows));
                plan.tally.count(&format!("{what} sent"));
                answered += u64::from(is_answered(&header));
            }
            // What stands at the end of a lane has been read when this is answered.
            let fence = Header::ToInbox(turn, RelayKind::CallIce, rand::rng().random());
            frames.extend(frame(&fence, payload.as_bytes()));
            plan.tally.count("messages sent");
            plan.tally.add("sent over a link", answered + 1);
            link.write(plan, &mut relay, &frames, answered + 1).await?;
        }
    })
    .await;
}

/// Says that messages were delivered which nobody has sent.
pub async fn deliveries(plan: &Plan) {
    hostile::attack(plan, NOTES / BURST, async |link, turns| {
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

/// One of what a member may send to the session `to`, and what it is called.
fn one(kind: u32, to: u64, code: PairingCode, payload: &str) -> (Header, &'static str) {
    // Each from another session, with another number: nobody has asked, and nobody waits.
    let (from, wild) = (rand::rng().random(), rand::rng().random());
    let note = |note| Header::Note(to, from, note);
    let payload = || Some(payload.to_owned().into());
    match kind {
        0 | 1 => {
            let own = random_code().parse().expect("a code");
            // Every second one for a code that the session doesn't have.
            let target = if kind == 0 { code } else { own };
            (note(Note::Ask((wild, 0, target, own, [7; 32], Some("somebody".to_owned()), payload()))), "asks")
        }
        2 => (note(Note::Answer(wild, Some(([7; 32], None, payload())))), "acceptances"),
        3 => (note(Note::Answer(wild, None)), "words without an answer"),
        4 => (note(Note::AskRefused(wild)), "words without an answer"),
        5 => (note(Note::AskWithdrawn(wild)), "words without an answer"),
        6 => (note(Note::Closed), "words without an answer"),
        7 => (Header::Outcome(wild, Outcome::NotHere), "words without an answer"),
        _ => (Header::ToSession(wild, RelayKind::IceCandidate, to, from), "messages"),
    }
}

/// Whether a node answers it, unless it drops the answer, or shows an ask to its client.
const fn is_answered(header: &Header) -> bool {
    matches!(header, Header::Note(_, _, Note::Ask(_) | Note::Answer(_, Some(_))) | Header::ToSession(..))
}
