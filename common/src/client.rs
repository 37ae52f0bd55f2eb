//! The parts of the client protocol that client and node share: message names, error codes, limits and fixed texts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version that `server_info` names.
pub const PROTOCOL: u32 = 1;
/// The largest message in bytes: a session description with its candidates is a tenth of it.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The largest payload of a call message in bytes: the largest padded plaintext, sealed and in base64.
pub const MAX_PAYLOAD: usize = 48 * 1024;
/// The deepest nesting of a message.
pub const MAX_DEPTH: usize = 16;
/// The longest request id in characters.
pub const MAX_ID: usize = 64;
/// The most inboxes of one session: those of 200 contacts for two days around midnight, and of pairings that are not
/// confirmed yet.
pub const MAX_INBOXES: usize = 512;
/// The close code for a client that does not read its messages fast enough: «try again later».
pub const CLOSE_SLOW_CONSUMER: u16 = 1013;

/// Why a request failed: the `code` of an `error` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message does not match its type.
    BadMessage,
    /// The type is unknown.
    UnknownType,
    /// The message or its payload is too large.
    TooLarge,
    /// The client has to send `register` first.
    NotRegistered,
    /// There is no pairing between the two codes.
    NotPaired,
    /// No client is attached at the address.
    PeerOffline,
    /// The node of the address does not respond.
    Unreachable,
    /// A queue on the way is full. Retry later.
    Congested,
    /// A rate limit was exceeded.
    RateLimited,
    /// The lease or its proof is not valid.
    BadLease,
    /// A limit was reached.
    TooMany,
    /// An internal error of the node.
    Internal,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 12] = [
        Self::BadMessage,
        Self::UnknownType,
        Self::TooLarge,
        Self::NotRegistered,
        Self::NotPaired,
        Self::PeerOffline,
        Self::Unreachable,
        Self::Congested,
        Self::RateLimited,
        Self::BadLease,
        Self::TooMany,
        Self::Internal,
    ];

    /// The name on the wire.
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

/// The kinds of messages that a node forwards between two clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayKind {
    /// A session description, only between paired codes.
    Offer,
    /// The answer to it, only between paired codes.
    Answer,
    /// A candidate, only between paired codes.
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
    /// The name on the wire.
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

    /// Parses a kind. Returns `None` if a node does not forward it.
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

    /// Whether it can be sent to an inbox.
    pub const fn is_call(self) -> bool {
        !matches!(self, Self::Offer | Self::Answer | Self::IceCandidate)
    }

    /// Whether it carries candidates. They come in bursts and count a tenth for rate limits.
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
