//! Calls: the app's actions, the peers' messages, and the outputs of the state machine.

use std::time::Instant;

use chappe_common::{client::RelayKind, lease::Inbox, redacted::Redacted};

use super::{
    Driver,
    call_record::{CallRecord, Side, open_offer},
    outbox::OutboxMessage,
    unix_now,
};
use crate::{
    call::{CallError, EndReason, Input, Output},
    command::{CallAction, CallActionError, CallStatus, MAX_SDP, PlacedCall},
    contact::{Contact, ContactId, Pairing},
    event::{Event, StepKind},
    handle::Call,
    message::{Answer, Offer, Reject},
    protocol::Incoming,
    seal::{CallId, Envelope},
    sealing_key::SealingKey,
};

impl Driver {
    pub(super) fn place_call(
        &mut self,
        contact: ContactId,
        offer: String,
        rejoins: Option<CallId>,
        now: Instant,
    ) -> Result<PlacedCall, CallActionError> {
        if offer.len() > MAX_SDP {
            return Err(CallActionError::TooLong);
        }
        let contact = self.profile.contact(contact).ok_or(CallActionError::NoContact)?.clone();
        if self.calls.is_full() {
            return Err(CallActionError::Full);
        }
        let call = CallId::generate(&mut rand::rng());
        let input = match rejoins {
            None => Input::Place(contact.id()),
            Some(old) => Input::Rejoin { contact: contact.id(), old },
        };
        let outputs = self.calls.handle(call, input, now)?;
        let side =
            Side::Caller { offer: Redacted::new(offer), rejoins, lease: None, offered_to: None, recheck_at: None };
        // The callee's answer arrives at the inbox of this contact.
        for session in self.sessions.iter_mut() {
            session.leases.attach_now(contact.id(), now);
        }
        let pairing = contact.pairing().clone();
        let record = CallRecord::new(call, contact, pairing, side, None, now);
        let placed = PlacedCall { id: call, status: record.status.subscribe() };
        self.calls.insert(record);
        self.perform(outputs, now);
        Ok(placed)
    }

    pub(super) fn handle_call_action(
        &mut self,
        call: CallId,
        action: CallAction,
        now: Instant,
    ) -> Result<(), CallActionError> {
        let input = match action {
            CallAction::Accept(sdp) => {
                let record = self.calls.active_mut(call);
                let Some(Side::Callee { answer, .. }) = record.map(|record| &mut record.side) else {
                    return Err(CallError::OutOfTurn.into());
                };
                // The first `accept` wins: its answer may already be sent.
                answer.get_or_insert(sdp);
                Input::Accept
            }
            CallAction::Decline => Input::Decline,
            CallAction::HangUp => Input::Hangup,
            CallAction::Media { up: true } => Input::MediaUp,
            CallAction::Media { up: false } => Input::MediaDown,
            CallAction::Candidates(round, candidates) => {
                return self.send_candidates(call, round, candidates.into_inner());
            }
            CallAction::AnswerRenegotiation(round, answer) => return self.answer_renegotiation(call, round, answer),
        };
        let outputs = self.calls.handle(call, input, now)?;
        self.perform(outputs, now);
        Ok(())
    }

    /// Applies an input that may be invalid in the call's state. If it is, it is ignored.
    pub(super) fn try_input(&mut self, call: CallId, input: Input, now: Instant) {
        if let Ok(outputs) = self.calls.handle(call, input, now) {
            self.perform(outputs, now);
        }
    }

    /// Handles a sealed message. Drops it if the inbox or the sender is unknown, or if it is a duplicate.
    pub(super) fn handle_incoming(&mut self, serial: u64, kind: RelayKind, message: &Incoming, now: Instant) {
        let Some(session) = self.sessions.get(serial) else { return };
        let Ok(inbox) = Inbox::from_base64url(&message.to) else { return };
        let Some((contact, pairing)) = session.leases.owner(inbox) else { return };
        // A node may not have detached the inbox of a blocked contact yet.
        let Some(contact) = self.profile.contact(contact).filter(|contact| !contact.is_blocked()).cloned() else {
            return;
        };
        let Some(pairing) = contact.pairings().iter().find(|known| known.id() == pairing).cloned() else { return };
        let Ok(envelope) = Envelope::parse(&message.payload) else {
            tracing::debug!(kind = kind.as_str(), "dropped a payload: not an envelope");
            return;
        };
        let node = session.node();
        let call = envelope.call();
        let known = self.calls.get_mut(call);
        if known.is_none() && kind == RelayKind::CallOffer {
            return self.handle_new_offer(serial, inbox, contact, pairing, &envelope, now);
        }
        let is_its =
            |record: &&mut CallRecord| record.contact.id() == contact.id() && record.pairing.id() == pairing.id();
        let Some(record) = known.filter(is_its) else { return };
        let keys = self.sessions.iter().flat_map(|session| session.leases.keys(inbox));
        let Some(text) = record.open(&envelope, kind, keys) else {
            tracing::debug!(%call, kind = kind.as_str(), "dropped a message: it cannot be opened or is a duplicate");
            return;
        };
        let caller = record.is_caller();
        self.record_confirmation(contact.id(), pairing.id());
        self.report_step(Some(call), node, StepKind::Received(kind));
        match kind {
            RelayKind::CallOffer if !caller => self.handle_offer_again(call, contact.id(), &text, now),
            RelayKind::CallAnswer if caller => self.handle_answer(call, &text, now),
            RelayKind::CallIce => self.handle_ice(call, &text, now),
            RelayKind::CallReject if caller => {
                let busy = serde_json::from_slice::<Reject>(&text).is_ok_and(|reject| reject.busy);
                self.try_input(call, Input::Rejected { busy }, now);
            }
            RelayKind::CallHangup => self.try_input(call, Input::PeerHangup, now),
            _ => {}
        }
    }

    fn handle_new_offer(
        &mut self,
        serial: u64,
        inbox: Inbox,
        contact: Contact,
        pairing: Pairing,
        envelope: &Envelope,
        now: Instant,
    ) {
        let call = envelope.call();
        let Some(session) = self.sessions.get(serial) else { return };
        let open = |key| Some((open_offer(envelope, &contact, &pairing, key)?, SealingKey::clone(key)));
        let opened = session.leases.keys(inbox).find_map(open);
        let Some((offer, key)) = opened else {
            tracing::debug!(%call, "dropped an offer: it cannot be opened");
            return;
        };
        let node = session.node();
        self.record_confirmation(contact.id(), pairing.id());
        // Checked after opening: a stranger must not learn from the response, nor fill a table.
        if !offer.is_fresh(unix_now()) || self.calls.is_finished(call, contact.id(), now) || self.calls.is_full() {
            tracing::debug!(%call, "dropped an offer: it is old, its call is over, or there are too many calls");
            return;
        }
        if self.calls.is_full_for(contact.id()) {
            tracing::debug!(%call, "dropped an offer: too many calls of this contact");
            return;
        }
        self.report_step(Some(call), node, StepKind::Received(RelayKind::CallOffer));
        let input = match offer.rejoins {
            None => Input::Offered(contact.id()),
            Some(old) => Input::OfferedToRejoin { contact: contact.id(), old: CallId::from_bytes(old.0) },
        };
        let Ok(outputs) = self.calls.handle(call, input, now) else { return };
        let wanted = outputs.iter().any(|output| {
            matches!(output, Output::Ring(_) | Output::Rejoin { .. } | Output::SendBusy(_) | Output::SendGone(_))
        });
        if outputs.contains(&Output::Ring(call)) {
            // Only for an offer that rings, because a referral is written to the disk.
            self.record_referral(contact.id(), &offer.nodes);
        }
        if wanted {
            let side = Side::Callee { offer: Redacted::new(offer.sdp), opened_with: key, answer: None };
            let mut record = CallRecord::new(call, contact, pairing, side, Some(offer.reply_key.0), now);
            record.mark_seen(envelope.counter());
            self.calls.insert(record);
        } else {
            // It lost to this side's own call. A replay of it must not ring later.
            self.calls.finish_unrecorded(call, contact.id(), now);
        }
        self.perform(outputs, now);
    }

    fn handle_offer_again(&mut self, call: CallId, contact: ContactId, text: &[u8], now: Instant) {
        let fresh = serde_json::from_slice::<Offer>(text).is_ok_and(|offer| offer.is_fresh(unix_now()));
        match self.calls.get_mut(call) {
            Some(record) if record.is_over() => {
                // The caller has missed the end of the call. An end always fits the queue.
                let _ = record.outbox.push(OutboxMessage::Hangup);
            }
            Some(record) if fresh => {
                // The caller may be at another node now, so an answer in flight may go to the old one.
                record.forget_location();
                record.outbox.retry_now();
                self.try_input(call, Input::Offered(contact), now);
            }
            _ => {}
        }
    }

    fn handle_answer(&mut self, call: CallId, text: &[u8], now: Instant) {
        let Ok(answer) = serde_json::from_slice::<Answer>(text) else { return };
        let Some(record) = self.calls.active_mut(call) else { return };
        if record.peer_key.is_some() {
            // A duplicate: the first answer stands.
            return;
        }
        record.peer_key = Some(answer.reply_key.0);
        let contact = record.contact.id();
        if let Side::Caller { recheck_at, .. } = &mut record.side {
            *recheck_at = None;
        }
        record.status.send_replace(CallStatus::Answered(Redacted::new(answer.sdp)));
        self.record_referral(contact, &answer.nodes);
        self.try_input(call, Input::Answered, now);
    }

    pub(super) fn perform(&mut self, outputs: Vec<Output>, now: Instant) {
        for output in outputs {
            match output {
                Output::SendOffer(call) => self.queue(call, OutboxMessage::Offer),
                Output::SendAnswer(call) => {
                    self.queue(call, OutboxMessage::Answer);
                    self.report_own_answer(call);
                }
                Output::SendReject(call) => self.queue(call, OutboxMessage::Reject { busy: false }),
                Output::SendHangup(call) => {
                    if self.calls.get(call).is_some_and(CallRecord::may_be_known) {
                        self.queue(call, OutboxMessage::Hangup);
                    }
                }
                Output::SendBusy(call) => {
                    self.queue(call, OutboxMessage::Reject { busy: true });
                    if let Some(record) = self.calls.get_mut(call) {
                        record.end(CallStatus::Ended(EndReason::Busy), now);
                    }
                }
                Output::SendGone(call) => {
                    self.queue(call, OutboxMessage::Hangup);
                    if let Some(record) = self.calls.get_mut(call) {
                        record.end(CallStatus::Ended(EndReason::HungUp), now);
                    }
                }
                Output::Ring(call) => self.ring(call),
                Output::Rejoin { call, old } => self.report_rejoin(call, old),
                Output::ReportAnswer(call) => self.report_answer(call),
                Output::StopGathering(call) => self.events.send(Event::StopGathering { call }),
                Output::End(call, reason) => self.end(call, reason, now),
            }
        }
    }

    pub(super) fn queue(&mut self, call: CallId, item: OutboxMessage) {
        if let Some(record) = self.calls.get_mut(call)
            && record.outbox.push(item).is_err()
        {
            tracing::debug!(%call, "dropped a message: the outbox is full");
        }
    }

    fn ring(&self, call: CallId) {
        let Some((record, call, offer)) = self.offered(call) else { return };
        let (contact, name) = (record.contact.id(), Redacted::new(record.contact.name().to_owned()));
        self.events.send(Event::IncomingCall { call, contact, name, offer });
    }

    fn report_rejoin(&self, call: CallId, old: CallId) {
        let Some((record, call, offer)) = self.offered(call) else { return };
        self.events.send(Event::CallRejoined { call, old, contact: record.contact.id(), offer });
    }

    /// The record of an offered call, its handle, and the offer.
    fn offered(&self, call: CallId) -> Option<(&CallRecord, Call, Redacted<String>)> {
        let record = self.calls.get(call)?;
        let Side::Callee { offer, .. } = &record.side else { return None };
        // If the app has dropped its handles, nobody can accept the call.
        let commands = self.commands.sender.upgrade()?;
        let (contact, status) = (record.contact.id(), record.status.subscribe());
        Some((record, Call { id: call, contact, commands, status }, offer.clone()))
    }

    fn report_answer(&self, call: CallId) {
        let status = self.calls.get(call).map(|record| record.status.borrow().clone());
        if let Some(CallStatus::Answered(answer)) = status {
            self.events.send(Event::CallAnswered { call, answer });
        }
    }

    /// For the callee, the call is answered once the app accepts.
    fn report_own_answer(&self, call: CallId) {
        if let Some(CallRecord { side: Side::Callee { answer: Some(answer), .. }, status, .. }) = self.calls.get(call) {
            status.send_replace(CallStatus::Answered(answer.clone()));
        }
    }

    fn end(&mut self, call: CallId, reason: EndReason, now: Instant) {
        let Some(record) = self.calls.get_mut(call) else { return };
        record.outbox.keep_only_end();
        record.end(CallStatus::Ended(reason), now);
        self.events.send(Event::CallEnded { call, reason });
        self.calls.finish_if_done(call, now);
    }

    pub(super) async fn handle_record_time(&mut self, now: Instant) {
        for call in self.calls.expire(now) {
            self.recheck(call, now).await;
        }
    }
}
