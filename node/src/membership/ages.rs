//! Tracks how long each node has been a member, and which members are past probation.

use std::{collections::HashMap, time::Duration};

use chappe_common::{keys::NodeId, time::UnixTime};

use super::{
    member_age::{AGE_WITNESSES, MemberAge},
    member_table::{MAX_KNOWN, MemberTable},
};

/// The ages of this node and of nodes that aren't up yet. The member table has the ages of members.
#[derive(Debug)]
pub(super) struct Ages {
    own: MemberAge,
    /// The members that have reported all ages to this node.
    witnesses: Vec<NodeId>,
    /// Reported ages of nodes that weren't up at the time of the report.
    pending: HashMap<NodeId, MemberAge>,
    probation: Duration,
    /// The number of members past probation at the last count, including this node.
    mature: usize,
}

impl Ages {
    /// Creates the ages of a node that becomes a member now.
    pub(super) fn new(probation: Duration, clock: UnixTime) -> Self {
        let mut own = MemberAge::default();
        own.set_seen(clock);
        Self { own, witnesses: Vec::new(), pending: HashMap::new(), probation, mature: 0 }
    }

    /// Returns since when this node has been a member.
    pub(super) fn own(&self) -> Option<UnixTime> {
        self.own.since()
    }

    /// Returns whether fewer than [`AGE_WITNESSES`] members have reported all ages.
    pub(super) fn lacks_witnesses(&self) -> bool {
        self.witnesses.len() < AGE_WITNESSES
    }

    /// Returns whether this node should request all ages from `node`.
    pub(super) fn should_ask(&self, node: &NodeId) -> bool {
        self.lacks_witnesses() && !self.witnesses.contains(node)
    }

    /// Adds a member that has reported all ages that it knows.
    pub(super) fn add_witness(&mut self, node: NodeId) {
        if self.should_ask(&node) {
            self.witnesses.push(node);
        }
    }

    /// Records a report by `by` since when `node` has been a member. Reports of a node about itself don't count.
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

    /// Sets since when a node was a member, as stored by this node's last run.
    pub(super) fn set_remembered(&mut self, table: &mut MemberTable, own: NodeId, node: NodeId, since: UnixTime) {
        if node == own {
            self.own.set_remembered(since);
        } else if let Some(age) = table.age_mut(&node) {
            age.set_remembered(since);
        } else if self.pending.len() < MAX_KNOWN {
            self.pending.entry(node).or_default().set_remembered(since);
        }
    }

    /// Moves the pending reports about a node that has come up to its entry in the table.
    pub(super) fn adopt(&mut self, table: &mut MemberTable, node: &NodeId) {
        if let Some(pending) = self.pending.remove(node)
            && let Some(age) = table.age_mut(node)
        {
            age.merge(pending);
        }
    }

    /// Drops the pending reports after enough witnesses have reported.
    pub(super) fn expire(&mut self) {
        if !self.lacks_witnesses() {
            self.pending.clear();
        }
    }

    /// Returns whether a member since `since` is past probation.
    pub(super) fn is_mature(&self, since: Option<UnixTime>, clock: UnixTime) -> bool {
        since.is_some_and(|since| since + self.probation <= clock)
    }

    /// Returns the number of members past probation at the last count, including this node.
    pub(super) const fn mature(&self) -> usize {
        self.mature
    }

    /// Counts a new member if it is past probation. [`Ages::count_mature`] counts all members again every 30 seconds.
    /// To do so for each new member would take a million checks when a thousand members join at once.
    pub(super) fn count_new(&mut self, since: Option<UnixTime>, clock: UnixTime) {
        self.mature += usize::from(self.is_mature(since, clock));
    }

    /// Counts all members past probation. Returns whether the number has changed.
    pub(super) fn count_mature(&mut self, table: &MemberTable, clock: UnixTime) -> bool {
        let ages = table.all_up().map(|(_, entry)| entry.age.since()).chain([self.own.since()]);
        let mature = ages.filter(|since| self.is_mature(*since, clock)).count();
        std::mem::replace(&mut self.mature, mature) != mature
    }
}
