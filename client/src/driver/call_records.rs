//! The calls: their states, their records, and the ids of those that are over. The bounds on records are kept here.

use std::{collections::HashMap, time::Instant};

use super::{
    call_record::{CallRecord, Side},
    finished_calls::FinishedCalls,
    outbox::OutboxMessage,
};
use crate::{
    call::{CallError, Calls, Input, Output, State},
    contact::ContactId,
    seal::CallId,
};

/// The most records: the active call, and others whose end is still being sent.
const MAX_RECORDS: usize = 16;
/// The most records with one contact, so that no contact can fill the table with calls that are rejected.
const MAX_RECORDS_OF_A_CONTACT: usize = 4;

#[derive(Default)]
pub(super) struct CallRecords {
    states: Calls,
    records: HashMap<CallId, CallRecord>,
    finished: FinishedCalls,
}

impl CallRecords {
    pub(super) fn handle(&mut self, call: CallId, input: Input, now: Instant) -> Result<Vec<Output>, CallError> {
        self.states.handle(call, input, now)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Output> {
        self.states.handle_timeout(now)
    }

    pub(super) fn shutdown(&mut self, now: Instant) -> Vec<Output> {
        self.states.shutdown(now)
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= MAX_RECORDS
    }

    pub(super) fn is_full_for(&self, contact: ContactId) -> bool {
        let with_contact = self.records.values().filter(|record| record.contact.id() == contact);
        with_contact.count() >= MAX_RECORDS_OF_A_CONTACT
    }

    pub(super) fn insert(&mut self, record: CallRecord) {
        self.records.insert(record.call, record);
    }

    pub(super) fn get(&self, call: CallId) -> Option<&CallRecord> {
        self.records.get(&call)
    }

    pub(super) fn get_mut(&mut self, call: CallId) -> Option<&mut CallRecord> {
        self.records.get_mut(&call)
    }

    /// The record of a call that is not over.
    pub(super) fn active_mut(&mut self, call: CallId) -> Option<&mut CallRecord> {
        self.records.get_mut(&call).filter(|record| !record.is_over())
    }

    /// Whether this call is active and was answered.
    pub(super) fn is_answered(&self, call: CallId) -> bool {
        self.states.active().is_some_and(|(active, _)| active == call)
            && matches!(self.states.state(), State::Connecting | State::Connected | State::Reconnecting)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut CallRecord> {
        self.records.values_mut()
    }

    /// Whether an offer of this contact is of a call that is over, or the contact has had too many calls lately.
    pub(super) fn is_finished(&self, call: CallId, contact: ContactId, now: Instant) -> bool {
        self.finished.contains(call, contact) || self.finished.is_full_for(contact, now)
    }

    /// Remembers that a received call is over without having had a record.
    pub(super) fn finish_unrecorded(&mut self, call: CallId, contact: ContactId, now: Instant) {
        self.finished.insert(call, contact, now);
    }

    /// Removes a call's record. If the call was received, remembers that it is over: its offer may be replayed.
    fn finish(&mut self, call: CallId, now: Instant) {
        if let Some(record) = self.records.remove(&call).filter(|record| !record.is_caller()) {
            self.finished.insert(call, record.contact.id(), now);
        }
    }

    /// Finishes a call that is over and has nothing left to send.
    pub(super) fn finish_if_done(&mut self, call: CallId, now: Instant) {
        if self.records.get(&call).is_some_and(|record| record.is_over() && record.outbox.is_empty()) {
            self.finish(call, now);
        }
    }

    /// Finishes the calls whose time is over. Returns those whose callee has to be looked up again.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<CallId> {
        let is_expired = |record: &&CallRecord| record.forget_at.is_some_and(|at| at <= now);
        let expired: Vec<_> = self.records.values().filter(is_expired).map(|record| record.call).collect();
        for call in expired {
            self.finish(call, now);
        }
        let is_due =
            |record: &&CallRecord| matches!(record.side, Side::Caller { recheck_at: Some(at), .. } if at <= now);
        self.records.values().filter(is_due).map(|record| record.call).collect()
    }

    /// A message that can be sent now.
    pub(super) fn next_due(&self, now: Instant) -> Option<(CallId, OutboxMessage)> {
        self.records.values().find_map(|record| Some((record.call, record.outbox.due(now)?.clone())))
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.records.values().any(|record| !record.outbox.is_empty())
    }

    /// `ready`: there is a session on which messages can be retried.
    pub(super) fn next_deadline(&self, ready: bool) -> Option<Instant> {
        let records = self.records.values().filter_map(|record| record.next_deadline(ready));
        records.chain(self.states.poll_timeout()).min()
    }
}
