//! Renegotiation and candidates: the app's actions, the peers' messages, and the outputs of [`Negotiation`].

use std::time::Instant;

use chappe_common::redacted::Redacted;

use super::{Driver, outbox::OutboxMessage};
use crate::{
    call::CallError,
    command::CallActionError,
    event::Event,
    message::Ice,
    negotiation::{Negotiation, NegotiationError, Output},
    seal::CallId,
};

impl Driver {
    pub(super) fn renegotiate(
        &mut self,
        call: CallId,
        offer: Redacted<String>,
        now: Instant,
    ) -> Result<u32, CallActionError> {
        self.negotiate(call, |negotiation| negotiation.renegotiate(offer, now))
    }

    pub(super) fn answer_renegotiation(
        &mut self,
        call: CallId,
        round: u32,
        answer: Redacted<String>,
    ) -> Result<(), CallActionError> {
        self.negotiate(call, |negotiation| negotiation.answer(round, answer)).map(drop)
    }

    /// Applies an action of the app and queues its messages. Returns the round.
    fn negotiate(
        &mut self,
        call: CallId,
        action: impl FnOnce(&mut Negotiation) -> Result<Vec<Output>, NegotiationError>,
    ) -> Result<u32, CallActionError> {
        if !self.calls.is_answered(call) {
            return Err(CallError::OutOfTurn.into());
        }
        let record = self.calls.active_mut(call).ok_or(CallError::OutOfTurn)?;
        let mut negotiation = record.negotiation.clone();
        let outputs = action(&mut negotiation).map_err(|NegotiationError| CallError::OutOfTurn)?;
        for output in outputs {
            if let Output::Send { round, description } = output {
                let item = OutboxMessage::Description { round, description };
                record.outbox.push(item).map_err(|_| CallActionError::Full)?;
            }
        }
        record.negotiation = negotiation;
        Ok(record.negotiation.round())
    }

    pub(super) fn send_candidates(
        &mut self,
        call: CallId,
        round: u32,
        candidates: Vec<String>,
    ) -> Result<(), CallActionError> {
        let record = self.calls.active_mut(call).ok_or(CallError::OutOfTurn)?;
        if candidates.is_empty() || round < record.negotiation.round() {
            return Ok(());
        }
        record.outbox.push(OutboxMessage::Ice { round, candidates }).map_err(|_| CallActionError::Full)
    }

    pub(super) fn handle_ice(&mut self, call: CallId, text: &[u8], now: Instant) {
        let Ok(Ice { candidates, round, description }) = serde_json::from_slice::<Ice>(text) else { return };
        let is_answered = self.calls.is_answered(call);
        let Some(record) = self.calls.active_mut(call) else { return };
        // A description that overtakes the answer of the call is dropped: the other side repeats it.
        let description = description.filter(|_| is_answered);
        let described = description.map(|description| record.negotiation.handle_description(round, description, now));
        let candidates = record.negotiation.handle_candidates(round, candidates);
        self.perform_negotiation(call, described.into_iter().flatten().chain(candidates).collect());
    }

    pub(super) fn handle_negotiation_time(&mut self, now: Instant) {
        let active = self.calls.iter_mut().filter(|record| !record.is_over());
        let due: Vec<_> =
            active.filter_map(|record| Some((record.call, record.negotiation.handle_timeout(now)?))).collect();
        for (call, output) in due {
            self.perform_negotiation(call, vec![output]);
        }
    }

    fn perform_negotiation(&mut self, call: CallId, outputs: Vec<Output>) {
        for output in outputs {
            let event = match output {
                Output::Send { round, description } => {
                    self.queue(call, OutboxMessage::Description { round, description });
                    continue;
                }
                Output::Offer { round, sdp, roll_back } => Event::Renegotiation { call, round, offer: sdp, roll_back },
                Output::Answer { round, sdp } => Event::RenegotiationAnswered { call, round, answer: sdp },
                Output::Candidates { round, candidates } => {
                    Event::Candidates { call, round, candidates: Redacted::new(candidates) }
                }
                Output::Refused { round } => {
                    tracing::debug!(%call, round, "dropped an offer: too many, or its round is too far ahead");
                    Event::RenegotiationRefused { call, round }
                }
                Output::Unanswered { round } => Event::RenegotiationUnanswered { call, round },
            };
            self.events.send(event);
        }
    }
}
