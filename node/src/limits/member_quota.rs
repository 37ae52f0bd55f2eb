//! How much of a table one member may fill: several times what falls to it where all have as much.

use std::collections::HashMap;

use chappe_common::keys::NodeId;

/// How many times its even share of a table one member may have: clients don't spread evenly.
const SHARES: usize = 8;
/// One member may have one in so many at the most: a hostile one of two or three leaves the others room.
const MOST_OF: usize = 2;
/// What any member may have at least: a small table serves a small federation.
const FEWEST: usize = 64;

/// What each member has in a table, and may have.
#[derive(Debug)]
pub(crate) struct MemberQuota {
    of_node: HashMap<NodeId, usize>,
    each: usize,
    capacity: usize,
    /// This node, whose own clients' entries are bounded by how many it takes.
    own: Option<NodeId>,
}

impl MemberQuota {
    /// Of a table of `capacity` entries, all of which one member may have until [`MemberQuota::divide`] says how many there are.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { of_node: HashMap::new(), each: capacity, capacity, own: None }
    }

    /// Says among how many members the table is shared, and which of them has it.
    pub(crate) fn divide(&mut self, members: usize, own: NodeId) {
        self.own = Some(own);
        let most = if members > 1 { self.capacity.div_ceil(MOST_OF) } else { self.capacity };
        self.each = (self.capacity * SHARES / members.max(1)).max(FEWEST).min(most);
    }

    /// Whether a member may have one more. Where one may have all, the table's own bound is the only one.
    pub(crate) fn has_room(&self, node: &NodeId) -> bool {
        self.each >= self.capacity
            || self.own == Some(*node)
            || self.of_node.get(node).is_none_or(|count| *count < self.each)
    }

    /// A member has one more.
    pub(crate) fn count_in(&mut self, node: NodeId) {
        *self.of_node.entry(node).or_default() += 1;
    }

    /// A member has one less.
    pub(crate) fn count_out(&mut self, node: NodeId) {
        if let Some(count) = self.of_node.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.of_node.remove(&node);
            }
        }
    }
}
