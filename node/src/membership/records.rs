//! The signed records of other nodes: the only source of addresses to dial.

use std::sync::Arc;

use chappe_common::{
    federation::FederationId,
    keys::NodeId,
    record::{MAX_RECORD_LIFETIME, NodeLeave, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use dashmap::DashMap;

use super::member_table::MAX_KNOWN;

/// The maximum number of remembered leaves. Beyond it, the record of a node that left may come back by gossip and cost
/// a dial.
const MAX_LEAVES: usize = MAX_KNOWN;

/// Records by node. Only the engine changes them. Other tasks may read them.
#[derive(Debug)]
pub struct Records {
    federation: FederationId,
    /// The records of the nodes in the member table, which bounds them.
    known: DashMap<NodeId, Arc<SignedRecord>>,
    /// The leaves, so that an ended record doesn't come back by gossip.
    left: DashMap<NodeId, Signed<NodeLeave>>,
}

impl Records {
    /// Creates an empty set of records of one federation.
    pub fn new(federation: FederationId) -> Self {
        Self { federation, known: DashMap::new(), left: DashMap::new() }
    }

    /// Stores a verified record, unless a newer one is known.
    pub(super) fn insert(&self, record: SignedRecord) {
        let is_old = self.known.get(&record.node).is_some_and(|known| !record.supersedes(&known));
        if !is_old {
            self.known.insert(record.node, Arc::new(record));
        }
    }

    /// Removes the record of a node.
    pub(super) fn remove(&self, node: &NodeId) {
        self.known.remove(node);
    }

    /// Applies a verified leave: removes the record that it ends.
    pub(super) fn apply_leave(&self, leave: Signed<NodeLeave>) {
        let ended = self.known.remove_if(&leave.node, |_, record| leave.ends(record)).is_some();
        if ended && self.left.len() < MAX_LEAVES {
            self.left.insert(leave.node, leave);
        }
    }

    /// Returns whether a known leave ends this record.
    pub(super) fn has_left(&self, record: &NodeRecord) -> bool {
        self.left.get(&record.node).is_some_and(|leave| leave.ends(record))
    }

    /// Returns the record of a node, even if it has expired, since its addresses are most likely still correct.
    pub fn any(&self, node: &NodeId) -> Option<Arc<SignedRecord>> {
        self.known.get(node).map(|record| record.clone())
    }

    /// Returns the record of a node if it is valid.
    pub fn find(&self, node: &NodeId, now: UnixTime) -> Option<Arc<SignedRecord>> {
        self.any(node).filter(|record| record.expires_at > now && record.federation == self.federation)
    }

    /// Removes leaves that are older than the maximum lifetime of a record, since the records that they end have
    /// expired.
    pub(super) fn expire(&self, now: UnixTime) {
        self.left.retain(|_, leave| leave.issued_at + MAX_RECORD_LIFETIME > now);
    }
}
