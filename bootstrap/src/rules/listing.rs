//! What the registry stores about nodes, and the changes to it.

use std::net::IpAddr;

use chappe_common::{
    keys::NodeId,
    list_request::Load,
    record::{NodeLeave, SignedRecord},
    removal::NodeRemoval,
    signed::Signed,
    time::UnixTime,
};

use super::{doors::DoorHistory, probes::ProbeHistory};

/// Milliseconds since 1970, as used in `/servers` and for the directory's `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    /// Truncated to seconds, as signed objects have them.
    pub(crate) const fn secs(self) -> UnixTime {
        UnixTime::from_secs(self.0 / 1000)
    }
}

/// A listed node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The node's record.
    pub(crate) record: SignedRecord,
    /// When it was first listed, without a gap since.
    pub(crate) registered_at: Millis,
    /// When it last proved its key.
    pub(crate) last_seen: Millis,
    /// The address at which it proved its key in order to be listed.
    pub(crate) proved: IpAddr,
    /// The results of later probes.
    pub(crate) probes: ProbeHistory,
    /// The load that it reported with its last list request.
    pub(crate) load: Load,
    /// The `seq` of its last list request; 0 before the first one.
    pub(crate) asked: u64,
    /// The results of trying where clients connect.
    pub(crate) door: DoorHistory,
}

/// A stored leave. It keeps the records that it revoked from being listed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredLeave {
    pub(crate) leave: Signed<NodeLeave>,
    /// When the last record that it revoked will have expired.
    pub(crate) until: UnixTime,
}

/// A stored removal. It is stored as long as it, or one that it replaced, is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRemoval {
    pub(crate) removal: Signed<NodeRemoval>,
    /// When it and all that it replaced have expired.
    pub(crate) until: UnixTime,
}

/// A change of the state. It must be stored before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Lists the node with this record.
    List(Box<Listing>),
    /// Delists the node.
    Delist(NodeId),
    /// Stores the leave.
    StoreLeave(StoredLeave),
    /// Deletes a leave that has expired.
    DeleteLeave(NodeId),
    /// Stores the removal.
    StoreRemoval(StoredRemoval),
    /// Deletes a removal that has expired.
    DeleteRemoval(NodeId),
}
