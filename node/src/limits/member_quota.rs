//! Quotas of members in a table: a multiple of an even share.

use std::collections::HashMap;

use chappe_common::keys::NodeId;

/// A member's quota as a multiple of an even share: clients are not spread evenly.
const SHARES: usize = 8;
/// Divisor of the capacity that gives the maximum quota: a hostile member of two or three leaves space for the others.
const MAX_PART: usize = 2;
/// Minimum quota: in a small federation, a small table is enough.
const MIN_QUOTA: usize = 64;

/// The entries of each member in a table, and the quota.
#[derive(Debug)]
pub(crate) struct MemberQuota {
    of_node: HashMap<NodeId, usize>,
    quota: usize,
    capacity: usize,
    /// This node, which has no quota: the number of its clients bounds their entries.
    own: Option<NodeId>,
}

impl MemberQuota {
    /// Creates the quota for a table of `capacity` entries. Until [`MemberQuota::divide`] is called, one member may
    /// fill it.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { of_node: HashMap::new(), quota: capacity, capacity, own: None }
    }

    /// Sets the number of members and the node that owns the table.
    pub(crate) fn divide(&mut self, members: usize, own: NodeId) {
        self.own = Some(own);
        let max = if members > 1 { self.capacity.div_ceil(MAX_PART) } else { self.capacity };
        self.quota = (self.capacity * SHARES / members.max(1)).max(MIN_QUOTA).min(max);
    }

    /// Returns whether a member may add an entry. If the quota is the whole capacity, only the table's bound applies.
    pub(crate) fn has_room(&self, node: &NodeId) -> bool {
        self.quota >= self.capacity
            || self.own == Some(*node)
            || self.of_node.get(node).is_none_or(|count| *count < self.quota)
    }

    /// Counts an entry of a member.
    pub(crate) fn count_in(&mut self, node: NodeId) {
        *self.of_node.entry(node).or_default() += 1;
    }

    /// Counts the removal of an entry.
    pub(crate) fn count_out(&mut self, node: NodeId) {
        if let Some(count) = self.of_node.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.of_node.remove(&node);
            }
        }
    }
}
