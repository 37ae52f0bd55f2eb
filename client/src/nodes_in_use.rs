//! The nodes that this client uses, for its inboxes and for pairing codes.
//!
//! A node that sees both could join a code, which a person reads to another, with the inboxes of the client's contacts. So
//! both searches avoid the nodes of the other purpose, and a node that both have found meanwhile is claimed by one. The
//! client's task and each pairing hold claims, so the list is shared.

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

/// A node in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    node: NodeId,
    purpose: Purpose,
    /// The session with it has ended while a code was shown.
    has_ended: bool,
}

/// The nodes in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodesInUse(Arc<Mutex<Vec<Use>>>);

/// A node is in use until this is dropped. That of a session stays in use as long as a code is shown: it knows the inboxes.
#[derive(Debug)]
pub(crate) struct NodeClaim {
    nodes: NodesInUse,
    of: Use,
}

impl NodesInUse {
    /// The nodes that a search for this purpose has to avoid.
    pub(crate) fn to_avoid(&self, purpose: Purpose) -> Vec<NodeId> {
        self.lock().iter().filter(|used| used.purpose == purpose.other()).map(|used| used.node).collect()
    }

    /// Claims a node that a search has found. Returns `None` if the node came into use for the other purpose during the
    /// search: search again. A node of `accepted` is claimed in any case.
    pub(crate) fn claim(&self, node: NodeId, purpose: Purpose, accepted: &[NodeId]) -> Option<NodeClaim> {
        let mut nodes = self.lock();
        let is_taken = nodes.iter().any(|used| used.node == node && used.purpose == purpose.other());
        if is_taken && !accepted.contains(&node) {
            return None;
        }
        let of = Use { node, purpose, has_ended: false };
        nodes.push(of);
        Some(NodeClaim { nodes: self.clone(), of })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeClaim {
    fn drop(&mut self) {
        let mut nodes = self.nodes.lock();
        let Some(index) = nodes.iter().position(|used| *used == self.of) else { return };
        let shows_code = |nodes: &[Use]| nodes.iter().any(|used| used.purpose == Purpose::Pairing);
        // One entry for each node that was left, however often, so that the list does not grow.
        let is_listed = nodes.iter().any(|used| used.has_ended && used.node == self.of.node);
        if self.of.purpose == Purpose::Inboxes && shows_code(&nodes) && !is_listed {
            nodes[index].has_ended = true;
            return;
        }
        nodes.swap_remove(index);
        if !shows_code(&nodes) {
            nodes.retain(|used| !used.has_ended);
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
        drop(replaced);
        assert_eq!(nodes.to_avoid(Purpose::Pairing), [node], "it knows the inboxes");
        drop(pairing);
        assert_eq!((nodes.to_avoid(Purpose::Pairing), nodes.to_avoid(Purpose::Inboxes)), (vec![], vec![]));
        assert!(nodes.claim(node, Purpose::Pairing, &[]).is_some());
        assert_eq!(nodes.to_avoid(Purpose::Inboxes), []);
    }
}
