//! The signed records that this node knows: the only source of addresses to dial.

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

/// The most leaves that are remembered. Beyond, a record that ended may come back by gossip, and costs a dial.
const MAX_LEAVES: usize = MAX_KNOWN;

/// Records by node. Membership alone changes them; anybody reads them.
#[derive(Debug)]
pub struct Records {
    federation: FederationId,
    /// Of the nodes in the roster, so bounded as it is.
    known: DashMap<NodeId, Arc<SignedRecord>>,
    /// The leaves, so that an older record doesn't come back by gossip.
    left: DashMap<NodeId, Signed<NodeLeave>>,
}

impl Records {
    /// No records, of this federation.
    pub fn new(federation: FederationId) -> Self {
        Self { federation, known: DashMap::new(), left: DashMap::new() }
    }

    /// Keeps a verified record, if it is newer than what is known.
    pub(super) fn keep(&self, record: SignedRecord) {
        let is_old = self.known.get(&record.node).is_some_and(|known| !record.supersedes(&known));
        if !is_old {
            self.known.insert(record.node, Arc::new(record));
        }
    }

    /// Forgets the record of a node.
    pub(super) fn forget(&self, node: &NodeId) {
        self.known.remove(node);
    }

    /// Takes a verified leave in: ends the record it speaks of.
    pub(super) fn leave(&self, leave: Signed<NodeLeave>) {
        let ended = self.known.remove_if(&leave.node, |_, record| leave.ends(record)).is_some();
        if ended && self.left.len() < MAX_LEAVES {
            self.left.insert(leave.node, leave);
        }
    }

    /// Whether this record's node has ended it by leaving.
    pub(super) fn has_left(&self, record: &NodeRecord) -> bool {
        self.left.get(&record.node).is_some_and(|leave| leave.ends(record))
    }

    /// The record of a node, expired or not: where a node stood is where it most likely still stands.
    pub fn any(&self, node: &NodeId) -> Option<Arc<SignedRecord>> {
        self.known.get(node).map(|record| record.clone())
    }

    /// The record of a node, if it still counts.
    pub fn find(&self, node: &NodeId, now: UnixTime) -> Option<Arc<SignedRecord>> {
        self.any(node).filter(|record| record.expires_at > now && record.federation == self.federation)
    }

    /// Forgets the leaves that have nothing left to prevent: no record outlives its longest lifetime.
    pub(super) fn expire(&self, now: UnixTime) {
        self.left.retain(|_, leave| leave.issued_at + MAX_RECORD_LIFETIME > now);
    }
}
