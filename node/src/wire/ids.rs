//! Who a frame is from and for, and what a home says of a code: what stands in frames and is known everywhere.

use chappe_common::keys::NodeId;
use serde::{Deserialize, Serialize};

/// A session's id: random, so that nobody who has not been told it can send to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionId(u64);

impl SessionId {
    /// An id from a random number.
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// A message of a session of this node: what its outcome comes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The session that sent it.
    pub(crate) session: SessionId,
    /// Which of its messages.
    pub(crate) number: u64,
}

/// A session of any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerAddr {
    /// The node.
    pub(crate) node: NodeId,
    /// The session there.
    pub(crate) session: SessionId,
}

/// Where a pairing code is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeHolder {
    /// The node of the client.
    pub(crate) node: NodeId,
    /// The client's session there.
    pub(crate) session: SessionId,
}

/// What became of a code that was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ClaimResult {
    /// It is the claimer's.
    Granted,
    /// Another session has it.
    Taken,
    /// The table is at its bound, or the node has its share of it.
    Full,
}
