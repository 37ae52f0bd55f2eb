//! How long each node has been a member, as far as this one can tell, and which members are past probation.

use std::{collections::HashMap, time::Duration};

use chappe_common::{keys::NodeId, time::UnixTime};

use super::{
    member_age::{AGE_WITNESSES, MemberAge},
    member_table::{MAX_KNOWN, MemberTable},
};

/// The ages of this node and of nodes that aren't up yet. Those of members stand in the member table.
#[derive(Debug)]
pub(super) struct Ages {
    own: MemberAge,
    /// The members that have reported all ages to this node.
    witnesses: Vec<NodeId>,
    /// Reported ages of nodes that weren't up then.
    pending: HashMap<NodeId, MemberAge>,
    probation: Duration,
    /// Members past probation at the last count, this node among them.
    mature: usize,
}

impl Ages {
    /// The ages as known by a node that becomes a member now.
    pub(super) fn new(probation: Duration, clock: UnixTime) -> Self {
        let mut own = MemberAge::default();
        own.seen(clock);
        Self { own, witnesses: Vec::new(), pending: HashMap::new(), probation, mature: 0 }
    }

    /// Since when this node has been a member.
    pub(super) fn own(&self) -> Option<UnixTime> {
        self.own.get()
    }

    /// Whether too few members have reported ages.
    pub(super) fn lacks_witnesses(&self) -> bool {
        self.witnesses.len() < AGE_WITNESSES
    }

    /// Whether this member should be asked for the ages that it knows.
    pub(super) fn should_ask(&self, node: &NodeId) -> bool {
        self.lacks_witnesses() && !self.witnesses.contains(node)
    }

    /// A member reports all ages that it knows.
    pub(super) fn add_witness(&mut self, node: NodeId) {
        if self.should_ask(&node) {
            self.witnesses.push(node);
        }
    }

    /// A member reports since when it has known a node as a member. A node is no witness of its own age.
    pub(super) fn record_report(
        &mut self,
        table: &mut MemberTable,
        own: NodeId,
        by: NodeId,
        (node, since): (NodeId, UnixTime),
    ) {
        if node == by {
            return;
        }
        if node == own {
            self.own.record_report(by, since);
        } else if let Some(age) = table.age_mut(&node) {
            age.record_report(by, since);
        } else if self.pending.len() < MAX_KNOWN {
            self.pending.entry(node).or_default().record_report(by, since);
        }
    }

    /// Since when a node was a member, as this one has stored in its last run.
    pub(super) fn remember(&mut self, table: &mut MemberTable, own: NodeId, node: NodeId, since: UnixTime) {
        if node == own {
            self.own.remembered(since);
        } else if let Some(age) = table.age_mut(&node) {
            age.remembered(since);
        } else if self.pending.len() < MAX_KNOWN {
            self.pending.entry(node).or_default().remembered(since);
        }
    }

    /// A node has come up: what was reported of it before counts for its entry.
    pub(super) fn adopt(&mut self, table: &mut MemberTable, node: &NodeId) {
        if let Some(pending) = self.pending.remove(node)
            && let Some(age) = table.age_mut(node)
        {
            age.take_over(pending);
        }
    }

    /// Forgets what was reported of nodes that did not come up, once there are enough witnesses.
    pub(super) fn expire(&mut self) {
        if !self.lacks_witnesses() {
            self.pending.clear();
        }
    }

    /// Whether a member of this age is past probation.
    pub(super) fn is_mature(&self, since: Option<UnixTime>, clock: UnixTime) -> bool {
        since.is_some_and(|since| since + self.probation <= clock)
    }

    /// Members past probation at the last count, this node among them.
    pub(super) const fn mature(&self) -> usize {
        self.mature
    }

    /// Counts a member that has come up, if it is past probation. All are counted anew every half minute: a thousand who
    /// come at once would otherwise cost a million looks.
    pub(super) fn count_new(&mut self, since: Option<UnixTime>, clock: UnixTime) {
        self.mature += usize::from(self.is_mature(since, clock));
    }

    /// Counts all members that are past probation. Returns whether their number has changed.
    pub(super) fn count_mature(&mut self, table: &MemberTable, clock: UnixTime) -> bool {
        let ages = table.all_up().map(|(_, entry)| entry.since.get()).chain([self.own.get()]);
        let mature = ages.filter(|since| self.is_mature(*since, clock)).count();
        std::mem::replace(&mut self.mature, mature) != mature
    }
}
