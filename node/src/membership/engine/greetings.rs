//! What the other side of a new link shows, and what it comes to.

use bytes::Bytes;
use chappe_common::record::{RecordError, SignedRecord};

use super::{Engine, Now, Output};
use crate::membership::{
    admission::Refusal,
    member::MemberId,
    member_table::{LearnedVia, State},
    news::NewsKind,
};

/// What a node shows when a link is made.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Its record, verified to be of the link's key.
    pub record: SignedRecord,
    /// Its ticket, where it has one.
    pub ticket: Option<Bytes>,
}

/// What a greeting comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The link is taken, and the node a member.
    Welcome,
    /// The node is to be dialled first, at the first address of its record and with no word said; then the greeting is to be
    /// judged once more, or the link refused as [`Refusal::Unreachable`].
    DialBack,
    /// The link is refused.
    Refused(Refusal),
}

impl Engine {
    /// Judges what the other side of a link has shown. `reached`: this node has just dialled it at the first address of
    /// that record, and it proved its key. The others are worth a dial and nothing else: whoever isn't where its first
    /// one says could take another's place in a network, or in placement.
    pub fn greet(&mut self, now: Now, greeting: &Greeting, reached: bool) -> Verdict {
        let verdict = self.judge(now, greeting, reached);
        match &verdict {
            Verdict::Welcome => self.welcome(now, &greeting.record),
            Verdict::DialBack => {}
            // It is there: who spoke of it was right.
            Verdict::Refused(_) => self.dial_failed(now, greeting.record.node, false),
        }
        self.settle(now);
        verdict
    }

    fn judge(&self, now: Now, greeting: &Greeting, reached: bool) -> Verdict {
        let record = &greeting.record;
        if let Err(error) = record.check(self.own.record.federation, now.clock) {
            return Verdict::Refused(match error {
                RecordError::Federation => Refusal::Federation,
                RecordError::Future | RecordError::Expired => Refusal::Clock,
                RecordError::Lifetime => Refusal::Record,
            });
        }
        if !self.settings.admission.may_dial(&self.own.record, record) {
            return Verdict::Refused(Refusal::Address);
        }
        let known = self.table.get(&record.node);
        if known.is_some_and(|known| known.epoch > record.epoch) || self.records.has_left(record) || self.own.has_left {
            return Verdict::Refused(Refusal::Stale);
        }
        if let Err(refusal) = self.settings.admission.judge(record, greeting.ticket.as_ref(), now.clock) {
            return Verdict::Refused(refusal);
        }
        if !self.table.has_room(&record.node, self.settings.admission.network(record)) {
            return Verdict::Refused(Refusal::Network);
        }
        if known.is_none() && self.table.is_full() {
            return Verdict::Refused(Refusal::Full);
        }
        if reached { Verdict::Welcome } else { Verdict::DialBack }
    }

    fn welcome(&mut self, now: Now, record: &SignedRecord) {
        let node = record.node;
        let known = self.table.get(&node);
        let (epoch_before, heard) = (known.map(|entry| entry.epoch), known.map(|entry| entry.heard));
        self.records.keep(record.clone());
        let network = self.settings.admission.network(record);
        if known.is_none()
            && let Some(forgotten) = self.table.make_room()
        {
            self.records.forget(&forgotten);
        }
        let before = self.table.bring_up(node, record.epoch, network, now.clock);
        self.ages.adopt(&mut self.table, &node);
        if epoch_before.is_some_and(|before| before < record.epoch) {
            // Who says that its former run doesn't answer is right.
            self.close_check(now, node, false);
        }
        self.heard(now, node);
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
        // Passed on now that it is known to be true. A joiner that told a thousand records of old members, which it has
        // from one, would gossip for minutes.
        let is_news = heard != Some(LearnedVia::Compared);
        self.swim.add(now.at, MemberId { node, epoch: record.epoch }, is_news);
        if is_news {
            self.swim.spread(&NewsKind::Record.item(record.as_bytes()));
        }
        self.table.note_heard(&node, LearnedVia::News);
        self.view_changed = true;
        // Who was lost lost others, too; and the first member that is met knows the rest.
        if matches!(before, Some(State::Lost { .. })) || self.table.len_up() == 1 {
            self.exchange_with(now, node);
        }
        if !was_up {
            let since = self.table.get(&node).and_then(|entry| entry.since.get());
            self.ages.count_new(since, now.clock);
        }
    }
}
