//! Ids in frames, and the result of claiming a code. Used everywhere.

use chappe_common::keys::NodeId;
use serde::{Deserialize, Serialize};

/// A session's id. Random, so that it works as a secret address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionId(u64);

impl SessionId {
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// A message of one of this node's sessions, which receives its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The sending session.
    pub(crate) session: SessionId,
    /// Number of the message in its session.
    pub(crate) number: u64,
}

/// The address of a session at any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerAddr {
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
}

/// The session that has a pairing code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeHolder {
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
}

/// The result of claiming a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ClaimResult {
    /// The claiming session has the code now.
    Granted,
    /// Another session has the code.
    Taken,
    /// The table or the node's quota is full.
    Full,
}
