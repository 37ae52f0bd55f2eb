//! Dials claimed nodes, and decides with which members to exchange.

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord, roots::Roots, time::UnixTime};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{EXPIRE_EVERY, Engine, Now, Output, REFRESH_FRACTION, REFRESHED_PER_TICK, news};
use crate::membership::{
    beacons::Unlearned,
    counts::Reason,
    member_table::{Claimed, LearnedVia},
};

/// The number of members with which the clock is compared after it was set, since one may be wrong or gone.
const CLOCK_WITNESSES: usize = 5;

impl Engine {
    pub(super) fn dial(&mut self, node: &NodeId) {
        if let Some(record) = self.records.any(node) {
            self.outputs.push_back(Output::Dial { record });
        }
    }

    /// Dials new links to a few members, since each handshake shows the other side's clock.
    pub fn compare_clocks(&mut self) {
        let members: Vec<_> = self.table.all_up().map(|(node, _)| node).sample(&mut self.rng, CLOCK_WITNESSES);
        for node in members {
            self.dial(&node);
        }
    }

    /// Handles a failed dial: no node with that key answered.
    pub fn handle_dial_failed(&mut self, now: Now, node: NodeId) {
        // If this node receives nothing, its own network has failed, and the other node may be up.
        let isolated = self.is_isolated(now);
        self.end_dial(now, node, !isolated);
        self.push_outputs(now);
    }

    /// Handles a dial that doesn't show whether the node is up: the other side refused it, or this side could not dial.
    pub fn handle_dial_aborted(&mut self, now: Now, node: NodeId) {
        self.end_dial(now, node, false);
        self.push_outputs(now);
    }

    /// Ends a dial without a new member. With `blame`, it counts against the member that claimed the node.
    pub(super) fn end_dial(&mut self, now: Now, node: NodeId, blame: bool) {
        let network = self.table.get(&node).and_then(|entry| entry.network);
        let (by, was_removed) = self.table.handle_dial_failed(&node);
        if was_removed {
            self.records.remove(&node);
        }
        if let Some(by) = by.filter(|_| blame) {
            self.counts.false_claims += 1;
            self.reputation.add_false_claim(now.at, by, network);
        }
    }

    /// Dials a node that was learned from a registry or the last run. If it is the first member, an exchange follows.
    pub fn seek(&mut self, now: Now, record: SignedRecord) {
        if record.node == self.own.id || self.own.has_left {
            return;
        }
        if !self.settings.admission.may_dial(&self.own.record, &record) {
            self.counts.refuse(Reason::Admission);
            return;
        }
        self.records.insert(record.clone());
        self.claim(now, &record, None, LearnedVia::News);
        self.push_outputs(now);
    }

    /// Sets since when a node was a member, as stored by this node's last run.
    pub fn remember(&mut self, node: NodeId, since: UnixTime) {
        self.ages.set_remembered(&mut self.table, self.own.id, node, since);
    }

    /// Queues the node of a known record to be dialled, unless it is up.
    pub(super) fn claim(&mut self, now: Now, record: &SignedRecord, by: Option<NodeId>, via: LearnedVia) {
        let network = self.settings.admission.network(record);
        let known = self.table.get(&record.node).is_some();
        if !known && !self.table.has_room(&record.node, network) {
            self.counts.refuse(Reason::Admission);
            self.records.remove(&record.node);
            return;
        }
        if !known && let Some(removed) = self.table.make_room() {
            self.records.remove(&removed);
        }
        match self.table.claim(now.at, record.node, record.epoch, network, by) {
            Claimed::Queued => self.table.set_learned_via(&record.node, via),
            Claimed::Known => {}
            Claimed::Full => {
                self.counts.refuse(Reason::Full);
                self.records.remove(&record.node);
            }
        }
    }

    pub(super) fn exchange_with_any(&mut self, now: Now) {
        self.exchanges.schedule_next(now.at, self.rng.random_range(0.75..1.25));
        let up = || self.table.all_up().map(|(node, _)| node);
        // Members that have not reported all ages come first.
        let should_ask = |node: &NodeId| self.ages.should_ask(node);
        let with = up().filter(should_ask).choose(&mut self.rng).or_else(|| up().choose(&mut self.rng));
        if let Some(with) = with {
            self.exchanges.start(now.at);
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Begins an exchange with this member now, or, if another was recent, with a random member soon.
    pub(super) fn exchange_with(&mut self, now: Now, with: NodeId) {
        if self.exchanges.try_start(now.at) {
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Returns whether less than a [`REFRESH_FRACTION`]th of a record's lifetime is left.
    pub(super) fn needs_refresh(&self, now: Now, node: &NodeId) -> bool {
        self.records.any(node).is_some_and(|record| {
            let life = record.expires_at.saturating_since(record.issued_at);
            record.expires_at.saturating_since(now.clock) < life / REFRESH_FRACTION
        })
    }

    /// Requests new records from members whose records expire soon. If links change often, they have shown new ones
    /// already.
    pub(super) fn refresh_records(&mut self, now: Now) {
        let up = self.table.all_up().map(|(node, _)| node);
        let old: Vec<_> = up
            .filter(|node| self.needs_refresh(now, node))
            .take(REFRESHED_PER_TICK * usize::try_from(EXPIRE_EVERY).unwrap_or(usize::MAX))
            .collect();
        for with in old {
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Handles a signed beacon, and accepts it if it is newer.
    pub fn learn_beacon(&mut self, now: Now, note: &Bytes) {
        if let Err(reason) = self.handle_beacon(now, note) {
            self.counts.refuse(reason);
        }
        self.push_outputs(now);
    }

    /// Accepts the newest beacon of the node's last run.
    pub fn restore_beacon(&mut self, now: Now, note: &Bytes) {
        match news::decode(note) {
            Ok(note) => {
                self.beacons.restore(note, now.clock);
                self.view_changed = true;
            }
            Err(reason) => self.counts.refuse(reason),
        }
        self.push_outputs(now);
    }

    /// Replaces the roots after a succession.
    pub fn set_roots(&mut self, roots: Roots) {
        self.beacons.set_roots(roots);
    }

    pub(super) fn handle_beacon(&mut self, now: Now, note: &Bytes) -> Result<(), Reason> {
        let note = news::decode(note)?;
        match self.beacons.learn(note, now.clock) {
            Ok(()) => {
                tracing::info!(number = self.beacons.newest_number(), "accepted a new beacon");
                self.view_changed = true;
                Ok(())
            }
            Err(Unlearned::Known) => Ok(()),
            Err(Unlearned::Refused(_)) => Err(Reason::Clock),
        }
    }
}
