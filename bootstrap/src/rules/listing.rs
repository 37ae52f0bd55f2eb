//! What the registry keeps of nodes, and what happens to it.

use std::net::IpAddr;

use chappe_common::{
    keys::NodeId,
    list_request::Load,
    record::{NodeLeave, SignedRecord},
    removal::NodeRemoval,
    signed::Signed,
    time::UnixTime,
};

use super::probes::Probes;

/// Milliseconds since 1970: what `/servers` and the directory's `seq` count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    /// The whole seconds, as the signed notes have them.
    pub(crate) const fn secs(self) -> UnixTime {
        UnixTime::from_secs(self.0 / 1000)
    }
}

/// A listed node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// What it says of itself.
    pub(crate) record: SignedRecord,
    /// When it was first listed, without a gap since.
    pub(crate) registered_at: Millis,
    /// When it last proved its key.
    pub(crate) last_seen: Millis,
    /// Where it proved its key to be listed.
    pub(crate) proved: IpAddr,
    /// What probing has found since.
    pub(crate) probes: Probes,
    /// How busy it said that it was when it last asked for the list.
    pub(crate) load: Load,
    /// The `seq` of its last request for the list; 0 before the first.
    pub(crate) asked: u64,
}

/// A leave that is kept so that no record that it ended comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptLeave {
    /// The node's word.
    pub(crate) leave: Signed<NodeLeave>,
    /// When the last record that it ended will have expired.
    pub(crate) until: UnixTime,
}

/// A removal that is kept while it counts, or while one that it replaced would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptRemoval {
    /// The operator's word.
    pub(crate) removal: Signed<NodeRemoval>,
    /// When neither it nor any that it replaced counts.
    pub(crate) until: UnixTime,
}

/// What happens to the state. To be stored first and applied then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The node is listed with this record from now on.
    List(Box<Listing>),
    /// The node is not listed any more.
    Delist(NodeId),
    /// The leave is kept.
    KeepLeave(KeptLeave),
    /// The node's leave has nothing left to prevent.
    ForgetLeave(NodeId),
    /// The removal is kept.
    KeepRemoval(KeptRemoval),
    /// The node's removal has nothing left to prevent.
    ForgetRemoval(NodeId),
}
