//! Handles greetings: the records that the other sides of new links show.

use bytes::Bytes;
use chappe_common::record::{RecordError, SignedRecord};

use super::{Engine, Now, Output};
use crate::membership::{
    admission::AdmissionRefusal,
    member::MemberId,
    member_table::{LearnedVia, State},
    news::NewsKind,
};

/// What the other side of a new link has shown.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The record of the other side. Its key is the link's key.
    pub record: SignedRecord,
    /// The ticket of the other side, if it has one.
    pub ticket: Option<Bytes>,
}

/// The result of a greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The link is accepted, and the node is a member.
    Welcome,
    /// The driver has to dial the node back first, at the first address of its record, without a hello. If the node
    /// proves its key there, the driver passes the greeting again. Otherwise it refuses the link as
    /// [`AdmissionRefusal::Unreachable`].
    DialBack,
    /// The link is refused.
    Refused(AdmissionRefusal),
}

impl Engine {
    /// Handles the greeting of the other side of a link. `reached` means that this node has just dialled it at the
    /// first address of that record, and it proved its key.
    ///
    /// Only the first address counts. Otherwise a node could name an address that is not its own there, and take
    /// another node's place in a network or in placement.
    pub fn handle_greeting(&mut self, now: Now, greeting: &Greeting, reached: bool) -> Verdict {
        let verdict = self.check_greeting(now, greeting, reached);
        match &verdict {
            Verdict::Welcome => self.bring_up(now, &greeting.record),
            Verdict::DialBack => {}
            // The node is up, so its claim was true.
            Verdict::Refused(_) => self.end_dial(now, greeting.record.node, false),
        }
        self.push_outputs(now);
        verdict
    }

    fn check_greeting(&self, now: Now, greeting: &Greeting, reached: bool) -> Verdict {
        let record = &greeting.record;
        if let Err(error) = record.check(self.own.record.federation, now.clock) {
            return Verdict::Refused(match error {
                RecordError::Federation => AdmissionRefusal::Federation,
                RecordError::Future | RecordError::Expired => AdmissionRefusal::Clock,
                RecordError::Lifetime => AdmissionRefusal::Record,
            });
        }
        if !self.settings.admission.may_dial(&self.own.record, record) {
            return Verdict::Refused(AdmissionRefusal::Address);
        }
        let known = self.table.get(&record.node);
        if known.is_some_and(|known| known.epoch > record.epoch) || self.records.has_left(record) || self.own.has_left {
            return Verdict::Refused(AdmissionRefusal::Stale);
        }
        if let Err(refusal) =
            self.settings.admission.check_policy(record, greeting.ticket.as_ref(), self.beacons.roots(), now.clock)
        {
            return Verdict::Refused(refusal);
        }
        if !self.table.has_room(&record.node, self.settings.admission.network(record)) {
            return Verdict::Refused(AdmissionRefusal::Network);
        }
        if known.is_none() && self.table.is_full() {
            return Verdict::Refused(AdmissionRefusal::Full);
        }
        if reached { Verdict::Welcome } else { Verdict::DialBack }
    }

    fn bring_up(&mut self, now: Now, record: &SignedRecord) {
        let node = record.node;
        let known = self.table.get(&node);
        let (epoch_before, via) = (known.map(|entry| entry.epoch), known.map(|entry| entry.learned_via));
        self.records.insert(record.clone());
        let network = self.settings.admission.network(record);
        if known.is_none()
            && let Some(removed) = self.table.make_room()
        {
            self.records.remove(&removed);
        }
        let before = self.table.bring_up(node, record.epoch, network, now.clock);
        self.ages.adopt(&mut self.table, &node);
        if epoch_before.is_some_and(|before| before < record.epoch) {
            // The former run is over, so the accusations were true.
            self.close_check(now, node, false);
        }
        self.mark_alive(now, node);
        let was_up = before == Some(State::Up);
        let is_new_run = epoch_before.is_none_or(|epoch| epoch < record.epoch) || !was_up;
        if !is_new_run {
            return;
        }
        self.counts.up += 1;
        tracing::info!(member = node.short(), "member up");
        if let Some(before) = epoch_before.filter(|before| *before < record.epoch) {
            if was_up {
                self.swim.remove(now.at, MemberId { node, epoch: before });
            }
            self.outputs.push_back(Output::Gone { node, epoch: record.epoch });
        }
        // The record is spread after this node has verified it. Records from exchanges are not spread: a joining node
        // would gossip a thousand records of old members for minutes.
        let is_news = via != Some(LearnedVia::Compared);
        self.swim.add(now.at, MemberId { node, epoch: record.epoch }, is_news);
        if is_news {
            self.swim.spread(&NewsKind::Record.item(record.as_bytes()));
        }
        self.table.set_learned_via(&node, LearnedVia::News);
        self.view_changed = true;
        // A member that was lost has missed news too, and the first member knows all others.
        if matches!(before, Some(State::Lost { .. })) || self.table.len_up() == 1 {
            self.exchange_with(now, node);
        }
        if !was_up {
            let since = self.table.get(&node).and_then(|entry| entry.age.since());
            self.ages.count_new(since, now.clock);
        }
    }
}
