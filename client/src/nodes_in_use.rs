//! The nodes that this client uses now, for its inboxes and for pairing codes.
//!
//! A node that sees both could join a code, which a person reads to another, with the inboxes of the client's contacts. So
//! both searches avoid the nodes of the other purpose, and a node that both have found meanwhile is claimed by one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chappe_common::keys::NodeId;

/// What a node is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Inboxes,
    Pairing,
}

impl Purpose {
    const fn other(self) -> Self {
        match self {
            Self::Inboxes => Self::Pairing,
            Self::Pairing => Self::Inboxes,
        }
    }
}

/// The nodes in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodesInUse(Arc<Mutex<Vec<(NodeId, Purpose)>>>);

/// A node is in use until this is dropped.
#[derive(Debug)]
pub(crate) struct NodeClaim {
    nodes: NodesInUse,
    entry: (NodeId, Purpose),
}

impl NodesInUse {
    /// The nodes that a search for this purpose has to avoid.
    pub(crate) fn to_avoid(&self, purpose: Purpose) -> Vec<NodeId> {
        self.lock().iter().filter(|(_, used_for)| *used_for == purpose.other()).map(|(node, _)| *node).collect()
    }

    /// Claims a node that a search has found. Returns `None` if the node came into use for the other purpose during the
    /// search: search again. A node of `avoided` is claimed in any case, since the search found no other.
    pub(crate) fn claim(&self, node: NodeId, purpose: Purpose, avoided: &[NodeId]) -> Option<NodeClaim> {
        let mut nodes = self.lock();
        if nodes.contains(&(node, purpose.other())) && !avoided.contains(&node) {
            return None;
        }
        nodes.push((node, purpose));
        Some(NodeClaim { nodes: self.clone(), entry: (node, purpose) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(NodeId, Purpose)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeClaim {
    fn drop(&mut self) {
        let mut nodes = self.nodes.lock();
        if let Some(index) = nodes.iter().position(|entry| *entry == self.entry) {
            nodes.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn a_node_that_both_searches_found_is_claimed_by_one() {
        let nodes = NodesInUse::default();
        let node = SecretKey::from_bytes(&[1; 32]).node_id();
        let inboxes = nodes.claim(node, Purpose::Inboxes, &[]).expect("nobody uses it");
        assert!(nodes.claim(node, Purpose::Pairing, &[]).is_none());
        assert_eq!((nodes.to_avoid(Purpose::Pairing), nodes.to_avoid(Purpose::Inboxes)), (vec![node], vec![]));
        // Nothing else was found.
        let pairing = nodes.claim(node, Purpose::Pairing, &[node]).expect("it was avoided");
        let replaced = nodes.claim(node, Purpose::Inboxes, &[node]).expect("it was avoided");
        drop(inboxes);
        assert_eq!(nodes.to_avoid(Purpose::Pairing), [node]);
        drop(replaced);
        drop(pairing);
        assert!(nodes.claim(node, Purpose::Pairing, &[]).is_some());
        assert_eq!(nodes.to_avoid(Purpose::Inboxes), []);
    }
}
