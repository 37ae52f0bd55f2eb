//! Finding nodes that are said to be there, and asking members for what they know.

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord, time::UnixTime};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{EXPIRE_EVERY, Engine, Now, Output, RECORD_OLD, REFRESHED_PER_TICK, news};
use crate::membership::{
    beacons::Unlearned,
    counts::Reason,
    member_table::{Claimed, LearnedVia},
};

/// How many members are asked for the time when this clock was set: one may be wrong or gone.
const CLOCKS: usize = 5;

impl Engine {
    pub(super) fn dial(&mut self, node: &NodeId) {
        if let Some(record) = self.records.any(node) {
            self.outputs.push_back(Output::Dial { record });
        }
    }

    /// Makes new links to a few members, since each shows the other's clock as it is made.
    pub fn compare_clocks(&mut self) {
        let members: Vec<_> = self.table.all_up().map(|(node, _)| node).sample(&mut self.rng, CLOCKS);
        for node in members {
            self.dial(&node);
        }
    }

    /// A dial has failed: nobody answered with the node's key.
    pub fn unreachable(&mut self, now: Now, node: NodeId) {
        // Who hears nobody has lost its own network, and the node may be there all the same.
        let deaf = self.is_deaf(now);
        self.dial_failed(now, node, !deaf);
        self.settle(now);
    }

    /// A dial has come to nothing, and it says nothing of whether the node is there: the other side refused, or this one
    /// could not dial.
    pub fn undialled(&mut self, now: Now, node: NodeId) {
        self.dial_failed(now, node, false);
        self.settle(now);
    }

    pub(super) fn dial_failed(&mut self, now: Now, node: NodeId, blame: bool) {
        let network = self.table.get(&node).and_then(|entry| entry.network);
        let (by, forgotten) = self.table.failed(&node);
        if forgotten {
            self.records.forget(&node);
        }
        if let Some(by) = by.filter(|_| blame) {
            self.counts.false_claims += 1;
            self.reputation.claim_failed(now.at, by, network);
        }
    }

    /// Takes in a node that was heard of outside of gossip, from a registry or the last run: it is dialled, and asked
    /// for all that it knows.
    pub fn seek(&mut self, now: Now, record: SignedRecord) {
        if record.node == self.own.id || self.own.has_left {
            return;
        }
        if !self.settings.admission.may_dial(&self.own.record, &record) {
            self.counts.refuse(Reason::Admission);
            return;
        }
        self.records.keep(record.clone());
        self.claim(now, &record, None, LearnedVia::News);
        self.settle(now);
    }

    /// Since when a node was a member, by what this one wrote down in its last run.
    pub fn remember(&mut self, node: NodeId, since: UnixTime) {
        self.ages.remember(&mut self.table, self.own.id, node, since);
    }

    /// Has the node of a known record dialled, unless it is up.
    pub(super) fn claim(&mut self, now: Now, record: &SignedRecord, by: Option<NodeId>, heard: LearnedVia) {
        let network = self.settings.admission.network(record);
        let known = self.table.get(&record.node).is_some();
        if !known && !self.table.has_room(&record.node, network) {
            self.counts.refuse(Reason::Admission);
            self.records.forget(&record.node);
            return;
        }
        if !known && let Some(forgotten) = self.table.make_room() {
            self.records.forget(&forgotten);
        }
        match self.table.claim(now.at, record.node, record.epoch, network, by) {
            Claimed::Queued => self.table.note_heard(&record.node, heard),
            Claimed::Known => {}
            Claimed::Full => {
                self.counts.refuse(Reason::Full);
                self.records.forget(&record.node);
            }
        }
    }

    pub(super) fn exchange_with_any(&mut self, now: Now) {
        self.exchanges.schedule_next(now.at, self.rng.random_range(0.75..1.25));
        let up = || self.table.all_up().map(|(node, _)| node);
        // Three different ones are asked for all that they know.
        let is_new = |node: &NodeId| self.ages.should_ask(node);
        let with = up().filter(is_new).choose(&mut self.rng).or_else(|| up().choose(&mut self.rng));
        if let Some(with) = with {
            self.exchanges.start(now.at);
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Compares views with this member now, or, shortly after another exchange, with some member soon.
    pub(super) fn exchange_with(&mut self, now: Now, with: NodeId) {
        if self.exchanges.try_start(now.at) {
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Whether the record of a member has little of its life left.
    pub(super) fn is_old(&self, now: Now, node: &NodeId) -> bool {
        self.records.any(node).is_some_and(|record| {
            let life = record.expires_at.saturating_since(record.issued_at);
            record.expires_at.saturating_since(now.clock) < life / RECORD_OLD
        })
    }

    /// Asks members for their records that will expire soon. Where links come and go, each has shown a fresh one.
    pub(super) fn refresh_records(&mut self, now: Now) {
        let up = self.table.all_up().map(|(node, _)| node);
        let old: Vec<_> = up
            .filter(|node| self.is_old(now, node))
            .take(REFRESHED_PER_TICK * usize::try_from(EXPIRE_EVERY).unwrap_or(usize::MAX))
            .collect();
        for with in old {
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Takes in a beacon's signed note, if it is newer.
    pub fn learn_beacon(&mut self, now: Now, note: &Bytes) {
        if let Err(reason) = self.take_beacon(now, note) {
            self.counts.refuse(reason);
        }
        self.settle(now);
    }

    pub(super) fn take_beacon(&mut self, now: Now, note: &Bytes) -> Result<(), Reason> {
        let note = news::decode(note)?;
        match self.beacons.learn(note, now.clock) {
            Ok(()) => {
                tracing::info!(number = self.beacons.newest_number(), "a new beacon");
                self.view_changed = true;
                Ok(())
            }
            Err(Unlearned::Known) => Ok(()),
            Err(Unlearned::Refused(_)) => Err(Reason::Clock),
        }
    }
}
