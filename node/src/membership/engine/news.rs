//! News that came with a packet or an exchange: records, leaves, accusations.

use std::time::Duration;

use chappe_common::{
    keys::NodeId,
    record::{NodeLeave, NodeRecord, SignedRecord},
    signed::{DecodeError, Signed},
};
use rand::RngExt as _;

use super::{CHECK_JITTER, Engine, Now, Output};
use crate::membership::{
    accusation::Accusation,
    counts::Reason,
    member::MemberId,
    member_table::{LearnedVia, State},
    news::NewsKind,
};

/// How old an accusation may be, and how far from the future: clocks of servers differ by less, and nobody gains by
/// an older one.
const ACCUSATION_AGE: Duration = Duration::from_secs(120);

impl Engine {
    /// Takes one item of what `from` passes on.
    pub(super) fn take_item(&mut self, now: Now, from: NodeId, item: &[u8]) -> Result<(), Reason> {
        if self.reputation.is_muted(now.at, &from) {
            return Err(Reason::Muted);
        }
        // A kind that a later version has is no lie.
        let (kind, note) = NewsKind::split(item).ok_or(Reason::Kind)?;
        match kind {
            NewsKind::Record => self.take_record(now, from, note, LearnedVia::News),
            NewsKind::Leave => self.take_leave(now, note),
            NewsKind::Accusation => self.take_accusation(now, note),
        }
    }

    /// A record of a node that isn't up, or of a new run of one that is: it is dialled. A fresh one of a member is kept.
    pub(super) fn take_record(&mut self, now: Now, from: NodeId, note: &[u8], heard: LearnedVia) -> Result<(), Reason> {
        let (record, _) = postcard::take_from_bytes::<NodeRecord>(note).map_err(|_| Reason::Malformed)?;
        let known = self.table.get(&record.node);
        let is_fresher = match known.map(|known| (known.epoch, known.state)) {
            // At the same address: where it moves, it is reached anew.
            Some((epoch, State::Up)) => {
                let first = self.records.any(&record.node).and_then(|known| known.quic_addrs.first().copied());
                epoch == record.epoch && first == record.quic_addrs.first().copied() && self.is_old(now, &record.node)
            }
            _ => false,
        };
        let is_old = match known.map(|known| (known.epoch, known.state)) {
            Some((epoch, State::Up)) => epoch >= record.epoch && !is_fresher,
            Some((epoch, State::Lost { .. })) => epoch > record.epoch,
            // Whoever dials it first will know.
            Some((_, State::Claimed | State::Dialling(_))) => true,
            None => false,
        };
        // What is known already costs no signature check.
        if record.node == self.own.id || is_old {
            return Ok(());
        }
        if !self.reputation.may_claim(now.at, from) {
            return Err(Reason::Rate);
        }
        let record: SignedRecord = decode(note)?;
        if record.check(self.own.record.federation, now.clock).is_err() || self.records.has_left(&record) {
            // No fault of who passed it on: clocks differ, and news cross.
            return Err(Reason::Clock);
        }
        let admission = &self.settings.admission;
        if !admission.may_be_listed(&record.node) || !admission.may_dial(&self.own.record, &record) {
            return Err(Reason::Admission);
        }
        self.records.keep(record.clone());
        if !is_fresher {
            self.claim(now, &record, Some(from), heard);
        }
        Ok(())
    }

    /// A member's own word that it leaves: instant.
    fn take_leave(&mut self, now: Now, note: &[u8]) -> Result<(), Reason> {
        let (leave, _) = postcard::take_from_bytes::<NodeLeave>(note).map_err(|_| Reason::Malformed)?;
        let Some(record) = self.records.any(&leave.node).filter(|record| leave.ends(record)) else {
            return Ok(());
        };
        let leave: Signed<NodeLeave> = decode(note)?;
        let epoch = record.epoch;
        self.records.leave(leave.clone());
        self.close_check(now, leave.node, false);
        if self.table.remove(&leave.node).is_some() {
            self.counts.left += 1;
            tracing::info!(member = leave.node.short(), "member left");
            self.swim.remove(now.at, MemberId { node: leave.node, epoch });
            self.view_changed = true;
        }
        self.outputs.push_back(Output::Gone { node: leave.node, epoch: leave.epoch.saturating_add(1) });
        self.swim.spread(&NewsKind::Leave.item(leave.as_bytes()));
        Ok(())
    }

    /// A member's word that another doesn't answer: it is checked here, and passed on.
    fn take_accusation(&mut self, now: Now, note: &[u8]) -> Result<(), Reason> {
        let (said, _) = postcard::take_from_bytes::<Accusation>(note).map_err(|_| Reason::Malformed)?;
        // Of this node itself it knows better; of who isn't up here there is nothing to check.
        if said.accuser == self.own.id
            || said.accused == self.own.id
            || self.table.up(&said.accused) != Some(said.epoch)
        {
            return Ok(());
        }
        if said.federation != self.own.record.federation
            || said.at + ACCUSATION_AGE < now.clock
            || now.clock + ACCUSATION_AGE < said.at
        {
            return Err(Reason::Clock);
        }
        if self.reputation.has_accused(&said.accuser, &said.accused, said.at) {
            return Ok(());
        }
        if !self.is_believed(&said.accuser, now.clock)
            || !self.reputation.may_accuse(now.at, &said.accuser, &said.accused, said.at)
        {
            return Err(Reason::Muted);
        }
        if self.reputation.is_acquitted(now.at, &said.accused) && !self.checks.is_open(&said.accused) {
            return Err(Reason::Rate);
        }
        let accusation: Signed<Accusation> = decode(note)?;
        if !self.reputation.accuses(now.at, said.accuser, said.accused, said.at) {
            return Err(Reason::Rate);
        }
        let is_new = !self.checks.is_open(&said.accused);
        let starts = now.at + CHECK_JITTER.mul_f64(self.rng.random_range(0.0..1.0));
        if self.checks.open(said.accused, Some(said.accuser), starts) {
            self.counts.checks += u64::from(is_new);
        } else {
            // One of many: nothing depends on it.
            self.reputation.closed(now.at, said.accuser, &said.accused, false);
        }
        self.swim.spread(&NewsKind::Accusation.item(accusation.as_bytes()));
        Ok(())
    }
}

pub(super) fn decode<T: chappe_common::signed::Signable>(note: &[u8]) -> Result<Signed<T>, Reason> {
    Signed::decode(note.to_vec()).map_err(|error| match error {
        DecodeError::Signature => Reason::Signature,
        DecodeError::Length | DecodeError::Malformed => Reason::Malformed,
    })
}
