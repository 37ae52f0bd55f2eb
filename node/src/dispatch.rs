//! What a node does with the frames of a link.

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_MESSAGE, MAX_PAYLOAD, RelayKind},
    lease::{Address, Inbox},
};
use serde_json::value::RawValue;

use crate::{
    answer,
    bounded::TrySendError,
    core::Core,
    federation::{link::Link, replies::Replies},
    session::{
        Message, ReplyTo, SessionEvent, depth,
        handle::{Batch, Relayed, SessionHandle},
        plain,
        reply::{self, By},
        request::MAX_NAME,
    },
    socket::out::SayError,
    wire::{
        breach::Breach,
        frame::{Header, Note, Outcome, Request},
        ids::{PeerAddr, SessionId},
    },
};

/// Handles one frame. Never waits. What clients are told meanwhile may be held in `batch`, and what the other node is told
/// in `replies`. A question is given back, to be answered by [`answer::answer_node`].
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
        Header::ToInbox { token, kind, to } => {
            // A string of the longest payload, and its quotes.
            if !kind.is_call() || payload.first() != Some(&b'"') || !is_payload(payload, MAX_PAYLOAD + 2) {
                core.metrics.link_protocol_errors.inc();
                replies.add(core, link, token, Outcome::Refused(ErrorCode::BadMessage));
                return Ok(None);
            }
            replies.add(core, link, token, to_inbox(core, batch, kind, &to, payload));
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
            if !is_within_bounds(&note) {
                return Err(Breach::Note);
            }
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
        Header::Displaced { lease } => answer::displaced(core, lease.into_inner())?,
    }
    Ok(None)
}

/// Hands a message to the client that has attached the inbox of `to`.
pub(crate) fn to_inbox(core: &Core, batch: &mut Batch, kind: RelayKind, to: &Address, payload: &[u8]) -> Outcome {
    match core.local.admit(to, kind, &core.config.limits) {
        Ok(session) => to_attached(&session, batch, kind, &to.inbox, payload),
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
        Err(SayError::Full | SayError::NoRoom) => Outcome::Refused(ErrorCode::Congested),
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

/// Whether a client could have said this to its node, which checks it as this one does. What is longer would be told to this
/// one's client.
fn is_within_bounds(note: &Note) -> bool {
    let (name, payload) = match note {
        Note::Ask(ask) => (&ask.name, &ask.payload),
        Note::Answer { accepted: Some(accepted), .. } => (&accepted.device_id, &accepted.payload),
        _ => return true,
    };
    name.as_ref().is_none_or(|name| name.len() <= MAX_NAME)
        && payload.as_ref().is_none_or(|payload| is_payload(payload, MAX_MESSAGE))
}

/// Whether a payload of another node is one JSON text within the bounds of a client's message. The other node is not
/// trusted to have checked what its client wrote: text that ends early would let it write the rest of our message.
fn is_payload(payload: &[u8], longest: usize) -> bool {
    payload.len() <= longest
        && (plain::is_string(payload)
            || (depth::is_within_bounds(payload) && serde_json::from_slice::<&RawValue>(payload).is_ok()))
}
