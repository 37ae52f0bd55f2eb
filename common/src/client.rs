//! What client and node both have to know of the client protocol: message names, error codes, limits and fixed texts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version that `server_info` names.
pub const PROTOCOL: u32 = 1;
/// The largest message in bytes: a session description with its candidates is a tenth of it.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The largest payload of the inbox door in bytes: the largest padded plaintext, sealed and in base64, fits.
pub const MAX_PAYLOAD: usize = 48 * 1024;
/// The deepest nesting of a message.
pub const MAX_DEPTH: usize = 16;
/// The longest request id in characters.
pub const MAX_ID: usize = 64;
/// The most inboxes of one session: those of 200 contacts for two days around midnight, and of pairings that are not
/// confirmed yet.
pub const MAX_INBOXES: usize = 512;
/// The close code for a client that doesn't take its messages: «try again later».
pub const CLOSE_SLOW_CONSUMER: u16 = 1013;

/// What went wrong with a request; the `code` of an `error` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message is not what its type requires.
    BadMessage,
    /// The type is not known.
    UnknownType,
    /// The message or its payload is too large.
    TooLarge,
    /// The code door needs a `register` first.
    NotRegistered,
    /// There is no pairing between the two codes.
    NotPaired,
    /// Nobody is connected at the address.
    PeerOffline,
    /// The node of the address does not answer.
    Unreachable,
    /// A queue on the way is full. Try again.
    Congested,
    /// Too many messages in too short a time.
    RateLimited,
    /// The lease or its proof is not valid.
    BadLease,
    /// A count is at its bound.
    TooMany,
    /// A fault of the node.
    Internal,
}

impl ErrorCode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::UnknownType => "unknown_type",
            Self::TooLarge => "too_large",
            Self::NotRegistered => "not_registered",
            Self::NotPaired => "not_paired",
            Self::PeerOffline => "peer_offline",
            Self::Unreachable => "unreachable",
            Self::Congested => "congested",
            Self::RateLimited => "rate_limited",
            Self::BadLease => "bad_lease",
            Self::TooMany => "too_many",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The messages that a node forwards between two clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayKind {
    /// A session description; code door only.
    Offer,
    /// The answer to it; code door only.
    Answer,
    /// A candidate; code door only.
    IceCandidate,
    /// A call's offer.
    CallOffer,
    /// A call's answer.
    CallAnswer,
    /// A call's candidates.
    CallIce,
    /// The callee declines.
    CallReject,
    /// Either side ends the call.
    CallHangup,
}

impl RelayKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
            Self::IceCandidate => "ice_candidate",
            Self::CallOffer => "call_offer",
            Self::CallAnswer => "call_answer",
            Self::CallIce => "call_ice",
            Self::CallReject => "call_reject",
            Self::CallHangup => "call_hangup",
        }
    }

    /// The kind of that name, if a node forwards it.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "offer" => Self::Offer,
            "answer" => Self::Answer,
            "ice_candidate" => Self::IceCandidate,
            "call_offer" => Self::CallOffer,
            "call_answer" => Self::CallAnswer,
            "call_ice" => Self::CallIce,
            "call_reject" => Self::CallReject,
            "call_hangup" => Self::CallHangup,
            _ => return None,
        })
    }

    /// Whether the inbox door forwards it too.
    pub const fn is_call(self) -> bool {
        !matches!(self, Self::Offer | Self::Answer | Self::IceCandidate)
    }

    /// Whether it carries candidates, which come in bursts and count a tenth.
    pub const fn is_ice(self) -> bool {
        matches!(self, Self::IceCandidate | Self::CallIce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forwarded_kind_is_found_by_its_name() {
        for kind in [
            RelayKind::Offer,
            RelayKind::Answer,
            RelayKind::IceCandidate,
            RelayKind::CallOffer,
            RelayKind::CallAnswer,
            RelayKind::CallIce,
            RelayKind::CallReject,
            RelayKind::CallHangup,
        ] {
            assert_eq!(RelayKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_string(&kind).expect("a kind is a string"), format!("\"{}\"", kind.as_str()));
        }
        assert_eq!(RelayKind::from_name("register"), None);
    }
}
