//! The nodes that this client uses, for its inboxes and for pairing codes.
//!
//! A node that sees both could join them. So each search avoids the nodes of the other purpose: those in use, and those of
//! the last day, which the node cache remembers across processes. A node that both searches have found meanwhile is claimed
//! by one. The client's task and each pairing hold claims, so the list is shared.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chappe_common::keys::NodeId;
use chappe_discovery::{Discovery, cache::Purpose};

/// The nodes in use. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct NodesInUse {
    claimed: Arc<Mutex<Vec<(NodeId, Purpose)>>>,
    /// Remembers the uses.
    discovery: Discovery,
}

/// A node is in use until this is dropped.
#[derive(Debug)]
pub(crate) struct NodeClaim {
    nodes: NodesInUse,
    node: NodeId,
    purpose: Purpose,
}

impl NodesInUse {
    pub(crate) fn new(discovery: Discovery) -> Self {
        Self { claimed: Arc::default(), discovery }
    }

    /// The nodes that a search for this purpose has to avoid.
    pub(crate) fn to_avoid(&self, purpose: Purpose) -> Vec<NodeId> {
        self.of_other_purpose(&self.lock(), purpose)
    }

    fn of_other_purpose(&self, claimed: &[(NodeId, Purpose)], purpose: Purpose) -> Vec<NodeId> {
        let other = match purpose {
            Purpose::Inboxes => Purpose::Pairing,
            Purpose::Pairing => Purpose::Inboxes,
        };
        let mut nodes = self.discovery.recently_used(other);
        // The cache remembers a day, and a session may be older.
        nodes.extend(claimed.iter().filter(|(_, purpose)| *purpose == other).map(|(node, _)| *node));
        nodes
    }

    /// Claims a node that a search has found. Returns `None` if the node came into use for the other purpose during the
    /// search: search again. A node of `accepted` is claimed in any case.
    pub(crate) fn claim(&self, node: NodeId, purpose: Purpose, accepted: &[NodeId]) -> Option<NodeClaim> {
        let mut claimed = self.lock();
        if !accepted.contains(&node) && self.of_other_purpose(&claimed, purpose).contains(&node) {
            return None;
        }
        claimed.push((node, purpose));
        self.discovery.record_use(node, purpose);
        Some(NodeClaim { nodes: self.clone(), node, purpose })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(NodeId, Purpose)>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeClaim {
    fn drop(&mut self) {
        // Until now, it could see what it was used for.
        self.nodes.discovery.record_use(self.node, self.purpose);
        let mut claimed = self.nodes.lock();
        if let Some(index) = claimed.iter().position(|claim| *claim == (self.node, self.purpose)) {
            claimed.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn a_node_that_both_searches_found_is_claimed_by_one_and_avoided_for_a_day() {
        let discovery = Discovery::builder().build().expect("a search without sources");
        let nodes = NodesInUse::new(discovery.clone());
        let [node, later] = [1, 2].map(|seed| SecretKey::from_bytes(&[seed; 32]).node_id());
        let inboxes = nodes.claim(node, Purpose::Inboxes, &[]).expect("nobody uses it");
        assert!(nodes.claim(node, Purpose::Pairing, &[]).is_none());
        assert!(nodes.to_avoid(Purpose::Pairing).contains(&node) && nodes.to_avoid(Purpose::Inboxes).is_empty());
        drop(inboxes);
        assert!(nodes.claim(node, Purpose::Pairing, &[]).is_none(), "it knows the inboxes");
        assert!(NodesInUse::new(discovery).claim(node, Purpose::Pairing, &[]).is_none(), "also for the next client");
        // Nothing else was found.
        drop(nodes.claim(node, Purpose::Pairing, &[node]).expect("it was avoided"));
        drop(nodes.claim(later, Purpose::Pairing, &[]).expect("nobody used it"));
        assert!(nodes.claim(later, Purpose::Inboxes, &[]).is_none(), "it knows the code");
    }
}
