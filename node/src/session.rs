//! A client's session: its id, and what others can tell it.

pub(crate) mod ask_book;
pub(crate) mod attach;
pub(crate) mod code_door;
pub(crate) mod depth;
pub(crate) mod forward;
pub(crate) mod handle;
pub(crate) mod inbox_door;
pub(crate) mod kept_payload;
pub(crate) mod plain;
pub(crate) mod rates;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod run;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use chappe_common::{client::RelayKind, lease::Inbox};
use prometheus_client::metrics::counter::Counter;

use self::handle::{Batch, SessionHandle};
use crate::{
    bounded::Weigh,
    core::Core,
    federation::link::Link,
    wire::{
        frame::{Header, Note, Outcome},
        ids::PeerAddr,
    },
};

/// Why a node ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The client doesn't take its messages, or doesn't end one, and there is no room for them.
    SlowConsumer,
    /// The node stops.
    GoingAway,
}

/// A message of a pairing that the session itself has to judge: it may not know of the pairing yet.
#[derive(Clone)]
pub(crate) struct Message {
    /// Which.
    pub(crate) kind: RelayKind,
    /// From the other session of the pairing.
    pub(crate) from: PeerAddr,
    /// JSON, as the sender wrote it.
    pub(crate) payload: Bytes,
    /// Where its outcome goes.
    pub(crate) reply: ReplyTo,
}

impl fmt::Debug for Message {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("kind", &self.kind).field("from", &self.from).finish_non_exhaustive()
    }
}

/// What others tell a session.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A message for the client.
    Message(Box<Message>),
    /// What became of a message of the client.
    Outcome {
        /// Which message.
        ticket: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// A note of another session.
    Note(Box<(PeerAddr, Note)>),
    /// The inbox is attached elsewhere now, or its lease has ended.
    Displaced(Box<Inbox>),
    /// The node is about to stop.
    GoingAway,
}

impl SessionEvent {
    /// Whether later messages of a pairing may not overtake it.
    pub(crate) const fn is_in_order(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Note(_))
    }

    /// The session that is behind it, where that is another client's.
    pub(crate) const fn from(&self) -> Option<PeerAddr> {
        match self {
            Self::Note(noted) => Some(noted.0),
            Self::Message(message) => Some(message.from),
            _ => None,
        }
    }
}

impl Weigh for SessionEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Message(message) => message.payload.len(),
            Self::Note(noted) => match &noted.1 {
                Note::Ask(ask) => ask.payload.as_ref().map_or(0, Bytes::len) + ask.name.as_ref().map_or(0, String::len),
                Note::Answer { accepted: Some(accepted), .. } => {
                    accepted.payload.as_ref().map_or(0, Bytes::len) + accepted.device_id.as_ref().map_or(0, String::len)
                }
                _ => 0,
            },
            Self::Outcome { .. } | Self::Displaced(_) | Self::GoingAway => 0,
        }
    }
}

/// What waited for a session that has ended: whoever sent a message learns at once that nobody took it, and not by
/// waiting. Gives back the notes.
pub(crate) fn answer_left(events: impl IntoIterator<Item = SessionEvent>) -> Vec<(PeerAddr, Note)> {
    let mut notes = Vec::new();
    for event in events {
        match event {
            SessionEvent::Message(message) => message.reply.tell(Outcome::NotHere),
            SessionEvent::Note(noted) => notes.push(*noted),
            _ => {}
        }
    }
    notes
}

/// The sender of a message: what its outcome is told to.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The session.
    pub(crate) session: SessionHandle,
    /// Which of its messages.
    pub(crate) ticket: u64,
}

impl Origin {
    /// Tells that the message was delivered, without waking the session where nothing else depends on it.
    pub(crate) fn tell_delivered(&self, core: &Core, batch: &mut Batch) {
        if self.session.delivered(batch, self.ticket) {
            core.metrics.delivered.inc();
        } else {
            self.tell(Outcome::Delivered);
        }
    }

    /// Tells the outcome.
    pub(crate) fn tell(&self, outcome: Outcome) {
        // A session whose queue is full ends, and with it all that it waits for.
        let _ = self.session.try_send(SessionEvent::Outcome { ticket: self.ticket, outcome });
    }
}

/// Where the outcome of a message goes.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// To a session of this node.
    Session(Origin),
    /// To the node that forwarded the message.
    Link {
        /// The link that it came over.
        link: Arc<Link>,
        /// The message's token there.
        token: u64,
        /// Counts the outcomes that the link did not take.
        dropped: Counter,
    },
}

impl ReplyTo {
    /// Tells the outcome.
    pub(crate) fn tell(&self, outcome: Outcome) {
        match self {
            Self::Session(origin) => origin.tell(outcome),
            // If it is lost, the sender is told «unreachable» when its time is over.
            Self::Link { link, token, dropped } => {
                if link.try_relay(&Header::Outcome { token: *token, outcome }).is_err() {
                    dropped.inc();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::{NodeId, PublicKey};

    use super::*;
    use crate::{
        bounded::TrySendError,
        wire::{
            frame::{Accepted, Ask, AskKind},
            ids::SessionId,
        },
    };

    #[test]
    fn messages_that_wait_for_a_session_that_ends_are_answered() {
        let sender = SessionHandle::new(SessionId::from_raw(1), 1024, None);
        let ending = SessionHandle::new(SessionId::from_raw(2), 1024, None);
        let from = PeerAddr { node: NodeId::new(PublicKey::from_bytes([1; 32])), session: sender.id() };
        let message = |ticket| {
            SessionEvent::Message(Box::new(Message {
                kind: RelayKind::Offer,
                from,
                payload: Bytes::from_static(b"1"),
                reply: ReplyTo::Session(Origin { session: sender.clone(), ticket }),
            }))
        };
        assert_eq!(ending.try_send(message(7)), Ok(()));
        assert_eq!(ending.try_send(SessionEvent::Note(Box::new((from, Note::Closed)))), Ok(()));
        assert_eq!(answer_left(ending.close()), vec![(from, Note::Closed)]);
        let told = sender.take_event();
        assert!(matches!(told, Some(SessionEvent::Outcome { ticket: 7, outcome: Outcome::NotHere })), "{told:?}");
        assert_eq!(ending.try_send(message(8)), Err(TrySendError::Closed));
    }

    #[test]
    fn what_clients_write_is_not_printed() {
        let sender = SessionHandle::new(SessionId::from_raw(1), 1024, None);
        let from = PeerAddr { node: NodeId::new(PublicKey::from_bytes([1; 32])), session: sender.id() };
        let code = "ABC234".parse().expect("a code");
        let ask = Ask {
            ask: 1,
            kind: AskKind::Pair,
            target: code,
            code,
            public_key: [231; 32],
            name: Some("secret".into()),
            payload: Some(Bytes::from_static(b"secret")),
        };
        let accepted = Accepted {
            public_key: [231; 32],
            device_id: Some("secret".into()),
            payload: Some(Bytes::from_static(b"secret")),
        };
        let message = Message {
            kind: RelayKind::Offer,
            from,
            payload: Bytes::from_static(b"secret"),
            reply: ReplyTo::Session(Origin { session: sender, ticket: 1 }),
        };
        let printed = format!(
            "{:?}",
            [
                SessionEvent::Note(Box::new((from, Note::Ask(ask)))),
                SessionEvent::Note(Box::new((from, Note::Answer { ask: 1, accepted: Some(accepted) }))),
                SessionEvent::Message(Box::new(message)),
            ]
        );
        assert!(!["secret", "231", "ABC234"].iter().any(|word| printed.contains(word)), "{printed}");
    }
}
