//! The open links by peer. Decides which of two links to the same peer stays.

use std::{sync::Arc, time::Duration};

use chappe_common::keys::NodeId;
use dashmap::DashMap;

use super::link::{CloseReason, Link};

/// The open links. At the bound, a new link replaces the one that was idle for longest.
#[derive(Debug)]
pub(super) struct LinkTable {
    by_peer: DashMap<NodeId, Arc<Link>>,
    capacity: usize,
}

impl LinkTable {
    pub(super) fn new(capacity: usize) -> Self {
        Self { by_peer: DashMap::new(), capacity }
    }

    /// Returns the open link to a node.
    pub(super) fn find(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.by_peer.get(node).filter(|link| link.is_open()).map(|link| link.clone())
    }

    /// Returns whether this node dialled the link to `peer` within the last `period`, in this epoch of the peer or a
    /// later one.
    pub(super) fn has_dialled_within(&self, period: Duration, peer: &NodeId, epoch: u64) -> bool {
        let is_recent = |link: &Link| link.is_open() && link.dialled() && link.age() < period && link.epoch() >= epoch;
        self.by_peer.get(peer).is_some_and(|link| is_recent(&link))
    }

    pub(super) fn insert(&self, link: &Arc<Link>) {
        // The hello of a former run may arrive after the new run's.
        if self.by_peer.get(&link.peer()).is_some_and(|known| known.epoch() > link.epoch() && known.is_open()) {
            link.close(CloseReason::Replaced);
            return;
        }
        if self.by_peer.len() >= self.capacity && !self.by_peer.contains_key(&link.peer()) {
            let idlest = self.by_peer.iter().min_by_key(|entry| entry.last_used()).map(|entry| entry.clone());
            if let Some(idlest) = idlest {
                self.by_peer.remove(&idlest.peer());
                idlest.close(CloseReason::Evicted);
            }
        }
        if let Some(old) = self.by_peer.insert(link.peer(), link.clone()) {
            old.close(CloseReason::Replaced);
        }
    }

    /// Removes a link that has ended, unless another has replaced it.
    pub(super) fn remove(&self, link: &Arc<Link>) {
        self.by_peer.remove_if(&link.peer(), |_, current| Arc::ptr_eq(current, link));
    }

    /// Closes the link to a node that does not answer.
    pub(super) fn close(&self, node: &NodeId) {
        if let Some((_, link)) = self.by_peer.remove(node) {
            link.close(CloseReason::Lost);
        }
    }

    /// Closes all links, because the node leaves.
    pub(super) fn close_all(&self) {
        self.by_peer.retain(|_, link| {
            link.close(CloseReason::Shutdown);
            false
        });
    }

    pub(super) fn close_former(&self, node: &NodeId, epoch: u64) {
        if let Some((_, link)) = self.by_peer.remove_if(node, |_, link| link.epoch() < epoch) {
            link.close(CloseReason::Replaced);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_peer.len()
    }
}
