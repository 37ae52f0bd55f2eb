//! The events that other tasks send to a session.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use chappe_common::client::RelayKind;

use crate::{
    limits::byte_channel::Weigh,
    links::link::Link,
    wire::{
        frame::{Note, Outcome},
        ids::{PeerAddr, Ticket},
    },
};

/// Why a node ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The client doesn't read its messages, or doesn't complete one, and there is no memory left for them.
    SlowConsumer,
    GoingAway,
}

/// A message of a pairing that the session's task has to check, since the pairing may not be published yet.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) kind: RelayKind,
    /// The other session of the pairing.
    pub(crate) from: PeerAddr,
    /// JSON as the sender wrote it.
    pub(crate) payload: Bytes,
    pub(crate) reply: ReplyTo,
}

impl fmt::Debug for Message {
    /// Omits the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("kind", &self.kind).field("from", &self.from).finish_non_exhaustive()
    }
}

/// An event for a session.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A message of a pairing for the client.
    Message(Box<Message>),
    /// The outcome of a message that the client sent.
    Outcome { ticket: u64, outcome: Outcome },
    /// A note, and the session that sent it.
    Note(Box<(PeerAddr, Note)>),
    /// The node is shutting down.
    GoingAway,
}

impl SessionEvent {
    /// Returns whether later messages of a pairing must not overtake this event.
    pub(crate) const fn is_in_order(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Note(_))
    }

    /// Returns the session that sent this event on behalf of another client.
    pub(crate) const fn sender(&self) -> Option<PeerAddr> {
        match self {
            Self::Note(boxed) => Some(boxed.0),
            Self::Message(message) => Some(message.from),
            _ => None,
        }
    }
}

impl Weigh for SessionEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Message(message) => message.payload.len(),
            Self::Note(boxed) => match &boxed.1 {
                Note::PairRequest(request) => {
                    request.payload.as_ref().map_or(0, Bytes::len) + request.name.as_ref().map_or(0, String::len)
                }
                Note::Answer { accepted: Some(accepted), .. } => {
                    accepted.payload.as_ref().map_or(0, Bytes::len) + accepted.device_id.as_ref().map_or(0, String::len)
                }
                _ => 0,
            },
            Self::Outcome { .. } | Self::GoingAway => 0,
        }
    }
}

/// The recipient of a message's outcome.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    /// A session of this node.
    Session(Ticket),
    /// The node that forwarded the message.
    Link {
        /// The link over which the message was received.
        link: Arc<Link>,
        /// The message's token on that link.
        token: u64,
    },
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::{NodeId, PublicKey};

    use super::*;
    use crate::wire::{
        frame::{Accepted, PairRequest, PairRequestKind},
        ids::SessionId,
    };

    #[test]
    fn debug_output_contains_no_client_data() {
        let from = PeerAddr { node: NodeId::new(PublicKey::from_bytes([1; 32])), session: SessionId::from_raw(1) };
        let code = "ABC234".parse().expect("a code");
        let request = PairRequest {
            id: 1,
            kind: PairRequestKind::Pair,
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
            reply: ReplyTo::Session(Ticket { session: SessionId::from_raw(1), number: 1 }),
        };
        let printed = format!(
            "{:?}",
            [
                SessionEvent::Note(Box::new((from, Note::PairRequest(request)))),
                SessionEvent::Note(Box::new((from, Note::Answer { id: 1, accepted: Some(accepted) }))),
                SessionEvent::Message(Box::new(message)),
            ]
        );
        assert!(!["secret", "231", "ABC234"].iter().any(|word| printed.contains(word)), "{printed}");
    }
}
