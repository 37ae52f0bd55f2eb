//! Watching the members: own doubts and probes, and what follows from them.

use chappe_common::{keys::NodeId, signed::Signed, time::UnixTime};

use super::{DEAF, Engine, MATURE, Now, Output};
use crate::membership::{
    accusation::Accusation, member::MemberId, member_table::State, news::NewsKind, packet::Packet,
};

impl Engine {
    /// This node's own probe of a member has failed.
    pub(super) fn handle_probe_failed(&mut self, now: Now, id: MemberId) {
        if self.table.up(&id.node) != Some(id.epoch) {
            return;
        }
        self.counts.checks += u64::from(!self.checks.is_open(&id.node));
        self.checks.open(id.node, None, now.at);
        let deaf = self.is_deaf(now);
        // What others would refuse isn't said.
        if deaf
            || !self.reputation.may_accuse(now.at, &self.own.id, &id.node, now.clock)
            || !self.reputation.accuses(now.at, self.own.id, id.node, now.clock)
        {
            return;
        }
        let accusation = Accusation {
            federation: self.own.record.federation,
            accuser: self.own.id,
            accused: id.node,
            epoch: id.epoch,
            at: now.clock,
        };
        match Signed::sign(accusation, &self.own.key) {
            Ok(accusation) => {
                self.counts.accused += 1;
                self.swim.spread(&NewsKind::Accusation.item(accusation.as_bytes()));
            }
            Err(error) => tracing::error!(%error, "cannot sign an accusation"),
        }
    }

    /// Whether a member's accusations count.
    pub(super) fn is_believed(&self, node: &NodeId, clock: UnixTime) -> bool {
        let Some(entry) = self.table.get(node).filter(|entry| entry.state == State::Up) else { return false };
        self.ages.mature() < MATURE || self.ages.is_mature(entry.since.get(), clock)
    }

    /// Whether this node has heard nobody for a while.
    pub(super) fn is_deaf(&self, now: Now) -> bool {
        self.last_heard.is_none_or(|last| last + DEAF <= now.at)
    }

    pub(super) fn probe(&mut self, node: NodeId) {
        let packet = Packet::Probe(self.checks.next_probe()).encode();
        self.outputs.push_back(Output::Send { to: node, packet });
    }

    /// A member has said something, of whatever kind: it is there.
    pub(super) fn heard(&mut self, now: Now, node: NodeId) {
        self.last_heard = Some(now.at);
        if self.checks.is_open(&node) {
            self.close_check(now, node, true);
        }
    }

    pub(super) fn close_check(&mut self, now: Now, node: NodeId, there: bool) {
        // What is held against others is held against this node, which then says no more.
        self.reputation.closed(now.at, self.own.id, &node, there);
        for accuser in self.checks.close(&node) {
            self.counts.disproved += u64::from(there);
            if self.reputation.closed(now.at, accuser, &node, there) {
                self.counts.muted += 1;
                tracing::warn!(
                    member = accuser.short(),
                    "a member accused others falsely too often, and is not believed for an hour"
                );
            }
        }
    }

    /// This node's own probes have failed.
    pub(super) fn declare_down(&mut self, now: Now, node: NodeId) {
        self.close_check(now, node, false);
        let Some(epoch) = self.table.declare_down(now.at, &node) else { return };
        for forgotten in self.table.take_forgotten() {
            self.records.forget(&forgotten);
        }
        self.counts.down += 1;
        tracing::info!(member = node.short(), "member down");
        self.swim.remove(now.at, MemberId { node, epoch });
        self.outputs.push_back(Output::Lost { node });
        self.view_changed = true;
    }
}
