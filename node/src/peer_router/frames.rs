//! Routing of a link's frames.

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::client::{ErrorCode, MAX_MESSAGE, MAX_PAYLOAD};
use serde_json::value::RawValue;

use super::replies::Replies;
use crate::{
    client_protocol::{depth, plain, request::MAX_NAME},
    core::Core,
    links::link::Link,
    sessions::{
        event::{Message, ReplyTo},
        handle::Batch,
    },
    wire::{
        breach::Breach,
        frame::{Header, Note, Outcome, Request},
        ids::PeerAddr,
    },
};

/// Handles one frame. Never waits. Output to clients may be buffered in `batch`, and output to the peer in `replies`. A
/// request is returned, and the caller passes it to [`super::requests::answer`].
///
/// # Errors
/// Returns an error if the link has to be closed.
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
            // The maximum payload and its quotes.
            if !kind.is_call() || payload.first() != Some(&b'"') || !is_payload(payload, MAX_PAYLOAD + 2) {
                core.context.metrics.link_protocol_errors.inc();
                replies.add(core, link, token, Outcome::Refused(ErrorCode::BadMessage));
                return Ok(None);
            }
            let outcome = core.sessions.deliver_to_inbox(batch, kind, &to, payload);
            tracing::debug!(token, kind = kind.as_str(), ?outcome, "received a message for an inbox");
            replies.add(core, link, token, outcome);
        }
        Header::ToSession { token, kind, to, from } => {
            if !is_payload(payload, MAX_MESSAGE) {
                core.context.metrics.link_protocol_errors.inc();
                replies.add(core, link, token, Outcome::Refused(ErrorCode::BadMessage));
                return Ok(None);
            }
            let from = PeerAddr { node: link.peer(), session: from };
            tracing::debug!(token, kind = kind.as_str(), "received a message for a session");
            if let Some(outcome) = core.sessions.deliver_to_session(batch, kind, to, from, payload) {
                replies.add(core, link, token, outcome);
            } else {
                let reply = ReplyTo::Link { link: link.clone(), token };
                // Copied: a small payload would otherwise keep the whole read buffer alive, and queues count only
                // payload bytes.
                core.sessions.submit(to, Message { kind, from, payload: Bytes::copy_from_slice(payload), reply });
            }
        }
        Header::Outcome { token, outcome } => {
            tracing::debug!(token, ?outcome, "received an outcome");
            match link.handle_outcome(token) {
                Ok(ticket) => core.sessions.handle_outcome(ticket, outcome),
                Err(_) => drop(core.context.metrics.responses_unexpected.inc()),
            }
        }
        Header::Delivered { first, count } => {
            tracing::debug!(first, count, "messages were delivered");
            let mut tickets = Vec::new();
            let handled = link.handle_delivered(first, count, &mut tickets);
            for ticket in tickets {
                core.sessions.handle_delivered(batch, ticket);
            }
            handled?;
        }
        Header::Note { to, from, note } => {
            if !is_within_bounds(&note) {
                return Err(Breach::Note);
            }
            let from = PeerAddr { node: link.peer(), session: from };
            // If the answer is lost, the sender's request times out, and its next message gets `unreachable`.
            if core.sessions.send_note(to, from, note.clone()) {
                return Ok(None);
            }
            if matches!(note, Note::PairRequest(_)) {
                core.context.metrics.pair_requests_refused.inc();
            }
            let was_answered =
                note.answer_of_nobody().is_some_and(|answer| link.try_note(from.session, to, answer).is_ok());
            if !was_answered {
                core.context.metrics.session_messages_dropped.inc();
            }
        }
        Header::Request { id, request } => return Ok(Some((id, request))),
        Header::Response { id, response } => {
            if !link.handle_response(id, response) {
                core.context.metrics.responses_unexpected.inc();
            }
        }
        Header::Displaced { lease } => core.homes.handle_displaced(lease.into_inner())?,
    }
    Ok(None)
}

/// Returns whether a client's node could have accepted this note. The peer has the same checks, and oversized fields
/// would reach this node's client.
fn is_within_bounds(note: &Note) -> bool {
    let (name, payload) = match note {
        Note::PairRequest(request) => (&request.name, &request.payload),
        Note::Answer { accepted: Some(accepted), .. } => (&accepted.device_id, &accepted.payload),
        _ => return true,
    };
    name.as_ref().is_none_or(|name| name.len() <= MAX_NAME)
        && payload.as_ref().is_none_or(|payload| is_payload(payload, MAX_MESSAGE))
}

/// Returns whether a peer's payload is one JSON text within a client message's bounds. The peer is not trusted to have
/// checked it: a text that ends early could inject fields into this node's message.
fn is_payload(payload: &[u8], longest: usize) -> bool {
    payload.len() <= longest
        && (plain::is_string(payload)
            || (depth::is_within_bounds(payload) && serde_json::from_slice::<&RawValue>(payload).is_ok()))
}
