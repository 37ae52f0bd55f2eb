//! What the engine shows: the view, and what is worth knowing of its state.

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord, time::UnixTime};

use super::{Engine, Now};
use crate::membership::{counts::Counts, view::View};

impl Engine {
    /// The newest beacon's signed note.
    pub fn beacon(&self) -> Option<Bytes> {
        self.beacons.newest_bytes()
    }

    /// The live members and how the leases are placed among them, this node among them.
    pub fn view(&self, now: Now) -> View {
        let up = self.table.all_up();
        let records: Vec<_> = up
            .filter_map(|(node, entry)| {
                Some((self.records.any(&node)?, self.ages.is_mature(entry.since.get(), now.clock)))
            })
            .collect();
        let own = (&*self.own.record, self.ages.is_mature(self.ages.own(), now.clock));
        let all = records.iter().map(|(record, mature)| (&***record, *mature)).chain([own]);
        View::new(&self.beacons.placement(now.clock), all)
    }

    /// Since when this node has been a member.
    pub fn since(&self) -> UnixTime {
        self.ages.own().unwrap_or_default()
    }

    /// The records of members, lost ones too, and since when they have been members: what is worth writing down.
    pub fn known(&self) -> Vec<(Arc<SignedRecord>, UnixTime)> {
        let known = self.table.members_and_lost();
        known.filter_map(|(node, entry)| Some((self.records.any(&node)?, entry.since.get()?))).collect()
    }

    /// The members that are up and their epochs, this node not among them.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.table.all_up().map(|(node, entry)| (node, entry.epoch))
    }

    /// How many members are up, this node not counted.
    pub const fn len(&self) -> usize {
        self.table.len_up()
    }

    /// Whether this node knows no other member.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this member is up here.
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.table.up(node).is_some()
    }

    /// Goes on counting from what a former engine of this process has counted.
    pub const fn continue_counts(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// What was counted since the start.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Open checks, claims that wait, and dials under way: all bounded.
    pub fn open(&self) -> (usize, usize, usize) {
        let (claimed, dialling) = self.table.waiting();
        (self.checks.len(), claimed, dialling)
    }
}
