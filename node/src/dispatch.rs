//! What a node does with the frames of a link.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_MESSAGE, MAX_PAYLOAD, RelayKind},
    keys::NodeId,
    lease::{Inbox, Lease, SignedLease},
    signed::Signed,
};
use serde_json::value::RawValue;

use crate::{
    bounded::TrySendError,
    core::Core,
    federation::{
        frame::{FrameError, Header, LeasePut, MAX_BATCH, Note, Outcome, Request, Response},
        link::Link,
        outcomes::NotOpen,
        replies::Replies,
    },
    homes::CodeHolder,
    leases::table::{Put, Registrant},
    publish,
    session::{
        Message, PeerAddr, ReplyTo, SessionEvent, SessionId, depth,
        handle::{Batch, Relayed, SessionHandle},
        plain,
        reply::{self, By},
    },
    socket::out::SayError,
};

/// Leases that are put at once: their signatures take less than half a millisecond.
const AT_ONCE: usize = 8;

/// How a node breaks the protocol of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// It sends what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It registers a lease that does not verify, which it has checked before.
    #[error("a lease that does not verify")]
    Lease,
    /// It says that messages were delivered which nobody has sent.
    #[error(transparent)]
    Delivered(#[from] NotOpen),
}

/// Handles one frame. Never waits. What clients are told meanwhile may be held in `batch`, and what the other node is told
/// in `replies`. A question is given back, to be answered by [`answer_node`].
///
/// # Errors
/// The link has to be closed.
pub(crate) fn handle(
    core: &Arc<Core>,
    link: &Arc<Link>,
    batch: &mut Batch,
    replies: &mut Replies,
    header: Header,
    payload: &[u8],
) -> Result<Option<(u64, Request)>, Breach> {
    match header {
        Header::ToInbox { token, kind, inbox } => {
            // A string of the longest payload, and its quotes.
            if !kind.is_call() || payload.first() != Some(&b'"') || !is_payload(payload, MAX_PAYLOAD + 2) {
                core.metrics.link_protocol_errors.inc();
                replies.add(core, link, token, Outcome::Refused(ErrorCode::BadMessage));
                return Ok(None);
            }
            replies.add(core, link, token, to_inbox(core, batch, kind, &inbox, payload));
        }
        Header::ToSession { token, kind, to, from } => {
            if !is_payload(payload, MAX_MESSAGE) {
                core.metrics.link_protocol_errors.inc();
                replies.add(core, link, token, Outcome::Refused(ErrorCode::BadMessage));
                return Ok(None);
            }
            let from = PeerAddr { node: link.peer(), session: from };
            if let Some(outcome) = to_session(core, batch, kind, to, from, payload) {
                replies.add(core, link, token, outcome);
            } else {
                let reply = ReplyTo::Link { link: link.clone(), token, dropped: core.metrics.replies_dropped.clone() };
                // Copied: as a part of what was read, a small payload that waits would keep all of that in memory, and
                // queues bound what payloads weigh.
                to_judge(core, to, Message { kind, from, payload: Bytes::copy_from_slice(payload), reply });
            }
        }
        Header::Outcome { token, outcome } => {
            if link.handle_outcome(token, outcome).is_err() {
                core.metrics.answers_late.inc();
            }
        }
        Header::Delivered { first, count } => {
            link.handle_delivered(core, batch, first, count)?;
        }
        Header::Note { to, from, note } => {
            let from = PeerAddr { node: link.peer(), session: from };
            // If the answer is lost, the asker's request ends by its time, and its next message finds nobody.
            if note_to_session(core, to, from, note.clone()) {
                return Ok(None);
            }
            if matches!(note, Note::Ask(_)) {
                core.metrics.asks_refused.inc();
            }
            let told = answer_of_nobody(&note).is_some_and(|answer| link.try_note(from.session, to, answer).is_ok());
            if !told {
                core.metrics.notes_dropped.inc();
            }
        }
        Header::Request { id, request } => return Ok(Some((id, request))),
        Header::Response { id, response } => {
            if !link.handle_response(id, response) {
                core.metrics.answers_late.inc();
            }
        }
        Header::Displaced { lease } => displaced(core, lease),
    }
    Ok(None)
}

/// Answers a question of another node.
///
/// # Errors
/// The link has to be closed.
pub(crate) async fn answer_node(core: &Arc<Core>, link: &Link, id: u64, request: Request) -> Result<(), Breach> {
    // The link's first words may be older than what the peer has signed since.
    let signed = core.records.find(&link.peer(), core.clock.now()).map_or(0, |record| record.epoch);
    let from = Registrant { node: link.peer(), epoch: link.epoch().max(signed) };
    let response = answer(core, from, request).await.ok_or(Breach::Lease)?;
    // A full lane costs the asker its answer; it asks other homes too.
    if link.try_control(&Header::Response { id, response }).is_err() {
        core.metrics.replies_dropped.inc();
    }
    Ok(())
}

/// Hands a message to the client that has attached `inbox`.
pub(crate) fn to_inbox(core: &Core, batch: &mut Batch, kind: RelayKind, inbox: &Inbox, payload: &[u8]) -> Outcome {
    match core.local.admit(inbox, kind, &core.config.limits) {
        Ok(session) => to_attached(&session, batch, kind, inbox, payload),
        Err(outcome) => outcome,
    }
}

/// The same, where its session is known; not for offers, whose rate it doesn't count.
pub(crate) fn to_attached(
    session: &SessionHandle,
    batch: &mut Batch,
    kind: RelayKind,
    inbox: &Inbox,
    payload: &[u8],
) -> Outcome {
    let by = inbox.base64url_bytes();
    match session.say(batch, &reply::forwarded(kind, By::Inbox(&by), payload)) {
        Ok(()) => Outcome::Delivered,
        Err(SayError::Full) => Outcome::Refused(ErrorCode::Congested),
        Err(SayError::Closed) => Outcome::NotHere,
    }
}

/// Hands a message of a pairing to a client. `None`: its session has to judge it first ([`to_judge`]).
pub(crate) fn to_session(
    core: &Core,
    batch: &mut Batch,
    kind: RelayKind,
    to: SessionId,
    from: PeerAddr,
    payload: &[u8],
) -> Option<Outcome> {
    let Some(session) = core.local.session(to) else { return Some(Outcome::NotHere) };
    match session.relay(batch, from, kind, payload) {
        Relayed::Said => Some(Outcome::Delivered),
        Relayed::Unjudged => None,
        Relayed::Full => Some(Outcome::Refused(ErrorCode::Congested)),
        Relayed::Closed => Some(Outcome::NotHere),
    }
}

/// Hands a message of a pairing to a session, which tells its outcome.
pub(crate) fn to_judge(core: &Core, to: SessionId, message: Message) {
    let reply = message.reply.clone();
    let Some(session) = core.local.session(to) else {
        reply.tell(Outcome::NotHere);
        return;
    };
    match session.try_send(SessionEvent::Message(Box::new(message))) {
        Ok(()) => {}
        Err(TrySendError::Full) => reply.tell(Outcome::Refused(ErrorCode::Congested)),
        Err(TrySendError::Closed) => reply.tell(Outcome::NotHere),
    }
}

/// Hands a note to a session; says whether the session is here.
pub(crate) fn note_to_session(core: &Core, to: SessionId, from: PeerAddr, note: Note) -> bool {
    core.local.session(to).is_some_and(|session| session.try_send(SessionEvent::Note(Box::new((from, note)))).is_ok())
}

/// What a session that asked, or thinks it is paired, is told by a node where nobody is.
pub(crate) fn answer_of_nobody(note: &Note) -> Option<Note> {
    match note {
        Note::Ask(ask) => Some(Note::AskRefused { ask: ask.ask }),
        Note::Answer { accepted: Some(_), .. } => Some(Note::Closed),
        _ => None,
    }
}

/// Answers a question as a home. `from` is the node whose key the link proves, or this node itself. Sessions come in
/// between: a few dozen leases whose signatures are to be verified take milliseconds. `None`: it shows what no node shows
/// that keeps to the protocol.
pub(crate) async fn answer(core: &Arc<Core>, from: Registrant, request: Request) -> Option<Response> {
    let now = Instant::now();
    Some(match request {
        Request::PutLeases(leases) if leases.len() <= MAX_BATCH => {
            let mut puts = Vec::new();
            for (number, lease) in leases.into_iter().enumerate() {
                if number % AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                puts.push(put_lease(core, Instant::now(), from, lease)?);
            }
            Response::Leases(puts)
        }
        Request::DropLeases(leases) if leases.len() <= MAX_BATCH => {
            let mut homes = core.homes();
            for (inbox, seq) in leases {
                homes.leases.withdraw(from.node, &inbox, seq);
            }
            Response::Done
        }
        Request::FindLease(inbox) => {
            Response::Lease(core.homes().leases.find(now, &inbox).map(|lease| lease.as_bytes().clone()))
        }
        Request::ClaimCodes(codes) if codes.len() <= MAX_BATCH => {
            let mut homes = core.homes();
            Response::Codes(
                codes
                    .into_iter()
                    .map(|(code, session)| {
                        homes.claim_code(now, code, CodeHolder { node: from.node, session }, from.epoch)
                    })
                    .collect(),
            )
        }
        Request::DropCodes(codes) if codes.len() <= MAX_BATCH => {
            let mut homes = core.homes();
            for (code, session) in codes {
                homes.drop_code(&code, CodeHolder { node: from.node, session });
            }
            Response::Done
        }
        Request::FindCode(code) => Response::Code(core.homes().code(now, &code)),
        _ => {
            core.metrics.link_protocol_errors.inc();
            Response::Refused
        }
    })
}

/// Keeps a lease; `None` where it doesn't verify, which its node has checked before.
fn put_lease(core: &Arc<Core>, now: Instant, from: Registrant, bytes: Bytes) -> Option<LeasePut> {
    // A lease is put again and again while its client is there. Its signature is verified once.
    let known = |lease: &Lease| {
        let kept = core.homes().leases.known(&lease.inbox).cloned();
        kept.or_else(|| core.local.lease(&lease.inbox).map(|own| SignedLease::clone(&own)))
    };
    let lease = Signed::<Lease>::decode_unless_known(bytes, known).ok()?;
    let put = core.homes().leases.put(now, core.clock.now(), from, lease.clone());
    Some(match put {
        Put::Kept(former) => {
            if let Some(former) = former {
                tell_displaced(core, former, &lease);
            }
            LeasePut::Kept
        }
        Put::Stale(newer) => LeasePut::Stale(newer.as_bytes().clone()),
        Put::Refused | Put::Full => {
            core.metrics.leases_refused.inc();
            LeasePut::Refused
        }
    })
}

/// Tells the edge of an older lease that a newer one is kept.
fn tell_displaced(core: &Arc<Core>, former: NodeId, lease: &SignedLease) {
    let bytes = lease.as_bytes().clone();
    if former == core.me {
        displaced(core, bytes);
    } else if let Some(link) = core.links.find(&former) {
        // If it is lost, the former edge learns it when it registers its lease again.
        if link.try_control(&Header::Displaced { lease: bytes }).is_err() {
            core.metrics.notes_dropped.inc();
        }
    }
}

/// Takes a newer lease's word that an inbox is elsewhere now. Nobody but the inbox's key can have signed it.
fn displaced(core: &Core, bytes: Bytes) {
    let Ok(lease) = Signed::<Lease>::decode(bytes) else {
        core.metrics.link_protocol_errors.inc();
        return;
    };
    if lease.node != core.me {
        core.found.insert(lease.inbox, lease.clone());
    }
    core.local.displace(&lease);
    // A full queue costs that the older lease is registered once more, and refused by the homes.
    if core.publisher.try_send(publish::Command::Forget(lease.inbox, lease.seq)).is_err() {
        core.metrics.replies_dropped.inc();
    }
}

/// Whether a payload of another node is one JSON text within the bounds of a client's message. The other node is not
/// trusted to have checked what its client wrote: text that ends early would let it write the rest of our message.
fn is_payload(payload: &[u8], longest: usize) -> bool {
    payload.len() <= longest
        && (plain::is_string(payload)
            || (depth::is_within_bounds(payload) && serde_json::from_slice::<&RawValue>(payload).is_ok()))
}
