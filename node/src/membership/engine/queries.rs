//! Queries of the engine's state.

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord, time::UnixTime};

use super::{Engine, Now};
use crate::membership::{counts::Counts, view::View};

/// The numbers of operations that an engine has in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Checks of members that others accuse.
    pub checks: usize,
    /// Claims that wait for a dial.
    pub claims: usize,
    /// Dials.
    pub dials: usize,
}

impl Engine {
    /// Returns the newest signed beacon.
    pub fn beacon(&self) -> Option<Bytes> {
        self.beacons.newest_bytes()
    }

    /// Returns the live members, including this node, and the placement of leases among them.
    pub fn view(&self, now: Now) -> View {
        let up = self.table.all_up();
        let records: Vec<_> = up
            .filter_map(|(node, entry)| {
                Some((self.records.any(&node)?, self.ages.is_mature(entry.age.since(), now.clock)))
            })
            .collect();
        let own = (&*self.own.record, self.ages.is_mature(self.ages.own(), now.clock));
        let all = records.iter().map(|(record, mature)| (&***record, *mature)).chain([own]);
        View::new(&self.beacons.placement(now.clock), all)
    }

    /// Returns since when this node has been a member.
    pub fn since(&self) -> UnixTime {
        self.ages.own().unwrap_or_default()
    }

    /// Returns the records of members and lost members, and since when they have been members, for storing.
    pub fn known(&self) -> Vec<(Arc<SignedRecord>, UnixTime)> {
        let known = self.table.members_and_lost();
        known.filter_map(|(node, entry)| Some((self.records.any(&node)?, entry.age.since()?))).collect()
    }

    /// Returns the other members that are up, with their epochs.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.table.all_up().map(|(node, entry)| (node, entry.epoch))
    }

    /// Returns the number of other members that are up.
    pub const fn len(&self) -> usize {
        self.table.len_up()
    }

    /// Returns whether this node has left the federation.
    pub const fn has_left(&self) -> bool {
        self.own.has_left
    }

    /// Returns whether no other member is up.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether this member is up.
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.table.epoch_if_up(node).is_some()
    }

    /// Continues the counters of a former engine of this process.
    pub const fn continue_counts(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// Returns the counters.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the numbers of operations in progress. All are bounded.
    pub fn open_counts(&self) -> OpenCounts {
        let (claims, dials) = self.table.claimed_and_dialling();
        OpenCounts { checks: self.checks.len(), claims, dials }
    }
}
