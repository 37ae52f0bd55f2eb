//! Detects failed members by probes and checks.

use chappe_common::{keys::NodeId, signed::Signed, time::UnixTime};

use super::{Engine, ISOLATED_AFTER, MATURE, Now, Output};
use crate::membership::{
    accusation::Accusation, member::MemberId, member_table::State, news::NewsKind, packet::Packet,
};

impl Engine {
    /// Handles a failed probe of this node: starts a check, and accuses the member.
    pub(super) fn handle_probe_failed(&mut self, now: Now, id: MemberId) {
        if self.table.epoch_if_up(&id.node) != Some(id.epoch) {
            return;
        }
        self.counts.checks += u64::from(!self.checks.is_open(&id.node));
        self.checks.open(id.node, None, now.at);
        let isolated = self.is_isolated(now);
        // An accusation that others would refuse is not sent.
        if isolated
            || !self.reputation.may_accuse(now.at, &self.own.id, &id.node, now.clock)
            || !self.reputation.open_accusation(now.at, self.own.id, id.node, now.clock)
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

    /// Returns whether a member's accusations count.
    pub(super) fn is_believed(&self, node: &NodeId, clock: UnixTime) -> bool {
        let Some(entry) = self.table.get(node).filter(|entry| entry.state == State::Up) else { return false };
        self.ages.mature() < MATURE || self.ages.is_mature(entry.age.since(), clock)
    }

    /// Returns whether this node has received nothing for [`ISOLATED_AFTER`].
    pub(super) fn is_isolated(&self, now: Now) -> bool {
        self.last_received.is_none_or(|last| last + ISOLATED_AFTER <= now.at)
    }

    pub(super) fn probe(&mut self, node: NodeId) {
        let packet = Packet::Probe(self.checks.next_probe()).encode();
        self.outputs.push_back(Output::Send { to: node, packet });
    }

    /// Notes that a packet or message of a member was received, which ends its check.
    pub(super) fn mark_alive(&mut self, now: Now, node: NodeId) {
        self.last_received = Some(now.at);
        if self.checks.is_open(&node) {
            self.close_check(now, node, true);
        }
    }

    pub(super) fn close_check(&mut self, now: Now, node: NodeId, is_alive: bool) {
        // This node's own accusations count against it too, and it stops accusing when it would be muted.
        self.reputation.close_accusation(now.at, self.own.id, &node, is_alive);
        for accuser in self.checks.close(&node) {
            self.counts.disproved += u64::from(is_alive);
            if self.reputation.close_accusation(now.at, accuser, &node, is_alive) {
                self.counts.muted += 1;
                tracing::warn!(
                    member = accuser.short(),
                    "a member accused others falsely too often; ignoring its accusations for an hour"
                );
            }
        }
    }

    /// Declares a member down after a failed check.
    pub(super) fn declare_down(&mut self, now: Now, node: NodeId) {
        self.close_check(now, node, false);
        let Some(epoch) = self.table.declare_down(now.at, &node) else { return };
        for removed in self.table.take_removed() {
            self.records.remove(&removed);
        }
        self.counts.down += 1;
        tracing::info!(member = node.short(), "member down");
        self.swim.remove(now.at, MemberId { node, epoch });
        self.outputs.push_back(Output::Lost { node });
        self.view_changed = true;
    }
}
