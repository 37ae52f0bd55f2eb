//! Handles news from packets and exchanges: records, leaves and accusations.

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

/// The maximum age of an accusation, and how far in the future it may be. Clocks of servers differ by less, and older
/// accusations are useless.
const ACCUSATION_AGE: Duration = Duration::from_secs(120);

impl Engine {
    /// Handles one item of news that `from` has forwarded.
    pub(super) fn handle_item(&mut self, now: Now, from: NodeId, item: &[u8]) -> Result<(), Reason> {
        if self.reputation.is_muted(now.at, &from) {
            return Err(Reason::Muted);
        }
        // A later version may have more kinds, so an unknown kind is not penalized.
        let (kind, note) = NewsKind::split(item).ok_or(Reason::Kind)?;
        match kind {
            NewsKind::Record => self.handle_record(now, from, note, LearnedVia::News),
            NewsKind::Leave => self.handle_leave(now, note),
            NewsKind::Accusation => self.handle_accusation(now, note),
        }
    }

    /// Handles a record. A node that isn't up, or a new run of a member, is dialled. A fresher record of a member is
    /// stored.
    pub(super) fn handle_record(&mut self, now: Now, from: NodeId, note: &[u8], via: LearnedVia) -> Result<(), Reason> {
        let (record, _) = postcard::take_from_bytes::<NodeRecord>(note).map_err(|_| Reason::Malformed)?;
        let known = self.table.get(&record.node);
        let is_fresher = match known.map(|known| (known.epoch, known.state)) {
            // Only at the same first address. At another address it has to be reached again.
            Some((epoch, State::Up)) => {
                let first = self.records.any(&record.node).and_then(|known| known.quic_addrs.first().copied());
                epoch == record.epoch
                    && first == record.quic_addrs.first().copied()
                    && self.needs_refresh(now, &record.node)
            }
            _ => false,
        };
        let is_old = match known.map(|known| (known.epoch, known.state)) {
            Some((epoch, State::Up)) => epoch >= record.epoch && !is_fresher,
            Some((epoch, State::Lost { .. })) => epoch > record.epoch,
            // The dial that is queued or open will show the newest record.
            Some((_, State::Claimed | State::Dialling(_))) => true,
            None => false,
        };
        // Skip the signature check for what is known already.
        if record.node == self.own.id || is_old {
            return Ok(());
        }
        if !self.reputation.may_claim(now.at, from) {
            return Err(Reason::Rate);
        }
        let record: SignedRecord = decode(note)?;
        if record.check(self.own.record.federation, now.clock).is_err() || self.records.has_left(&record) {
            // The peer is not penalized: clocks differ, and a leave may have crossed the record.
            return Err(Reason::Clock);
        }
        let admission = &self.settings.admission;
        if !admission.may_be_listed(&record.node) || !admission.may_dial(&self.own.record, &record) {
            return Err(Reason::Admission);
        }
        self.records.insert(record.clone());
        if !is_fresher {
            self.claim(now, &record, Some(from), via);
        }
        Ok(())
    }

    /// Handles a member's own leave, which takes effect immediately.
    fn handle_leave(&mut self, now: Now, note: &[u8]) -> Result<(), Reason> {
        let (leave, _) = postcard::take_from_bytes::<NodeLeave>(note).map_err(|_| Reason::Malformed)?;
        let Some(record) = self.records.any(&leave.node).filter(|record| leave.ends(record)) else {
            return Ok(());
        };
        let leave: Signed<NodeLeave> = decode(note)?;
        let epoch = record.epoch;
        self.records.apply_leave(leave.clone());
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

    /// Handles an accusation: starts a check of the accused, and forwards the accusation.
    fn handle_accusation(&mut self, now: Now, note: &[u8]) -> Result<(), Reason> {
        let (accusation, _) = postcard::take_from_bytes::<Accusation>(note).map_err(|_| Reason::Malformed)?;
        // This node needn't check itself, nor a node that isn't up.
        if accusation.accuser == self.own.id
            || accusation.accused == self.own.id
            || self.table.epoch_if_up(&accusation.accused) != Some(accusation.epoch)
        {
            return Ok(());
        }
        if accusation.federation != self.own.record.federation
            || accusation.at + ACCUSATION_AGE < now.clock
            || now.clock + ACCUSATION_AGE < accusation.at
        {
            return Err(Reason::Clock);
        }
        if self.reputation.has_accused(&accusation.accuser, &accusation.accused, accusation.at) {
            return Ok(());
        }
        if !self.is_believed(&accusation.accuser, now.clock)
            || !self.reputation.may_accuse(now.at, &accusation.accuser, &accusation.accused, accusation.at)
        {
            return Err(Reason::Muted);
        }
        if self.reputation.is_acquitted(now.at, &accusation.accused) && !self.checks.is_open(&accusation.accused) {
            return Err(Reason::Rate);
        }
        let signed: Signed<Accusation> = decode(note)?;
        if !self.reputation.open_accusation(now.at, accusation.accuser, accusation.accused, accusation.at) {
            return Err(Reason::Rate);
        }
        let is_new = !self.checks.is_open(&accusation.accused);
        let starts = now.at + CHECK_JITTER.mul_f64(self.rng.random_range(0.0..1.0));
        if self.checks.open(accusation.accused, Some(accusation.accuser), starts) {
            self.counts.checks += u64::from(is_new);
        } else {
            // The check has enough accusers already, so this one has no effect.
            self.reputation.close_accusation(now.at, accusation.accuser, &accusation.accused, false);
        }
        self.swim.spread(&NewsKind::Accusation.item(signed.as_bytes()));
        Ok(())
    }
}

pub(super) fn decode<T: chappe_common::signed::Signable>(note: &[u8]) -> Result<Signed<T>, Reason> {
    Signed::decode(note.to_vec()).map_err(|error| match error {
        DecodeError::Signature => Reason::Signature,
        DecodeError::Length | DecodeError::Malformed => Reason::Malformed,
    })
}
