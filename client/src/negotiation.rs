//! Renegotiation: the rounds of descriptions that follow the first offer and answer of a call, as for an ICE restart.
//!
//! Pure. Each round has one offer and one answer with the number of the round; those of the call itself are round 0.
//! Messages may be late, repeated or out of order: the higher round wins. If both sides offer in the same round, the
//! callee takes its own offer back. Owns the pending offer, its repetition, and the candidates of rounds to come.
//!
//! ```text
//! settled ── renegotiate ──▶ offered ── answer of the round ──▶ settled
//! any state ── offer of a higher round ──▶ asked ── the app answers ──▶ answered
//! offered (callee) ── offer of the same round ──▶ asked
//! ```

use std::{
    cmp::Ordering,
    collections::VecDeque,
    time::{Duration, Instant},
};

use chappe_common::redacted::Redacted;

use crate::message::{Description, DescriptionKind};

/// How far an offer's round may be above the last known one. Rounds between them belong to offers that were lost or
/// not answered. A further step is forged, and could use up the numbers.
const MAX_STEP: u32 = 16;
/// The most offers accepted in [`WINDOW`]. A restart takes a second or two, so an app needs fewer even on a network
/// that changes all the time; each costs the receiver a gathering of candidates.
const MAX_OFFERS: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// The most candidates of rounds to come, and their total size: one full message.
const MAX_EARLY: usize = 64;
const MAX_EARLY_BYTES: usize = 16 * 1024;
/// When an offer without an answer is sent again; the pause then doubles. It was delivered, but perhaps to a session
/// that ended before the client read it.
const FIRST_REPEAT: Duration = Duration::from_secs(3);
/// How long an offer waits for its answer. As long as a call may take to reconnect.
const UNANSWERED: Duration = Duration::from_secs(30);

/// The role of this side in the call. It decides which offer counts if both sides offer in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ignores the other side's offer.
    Caller,
    /// Takes its own offer back. WebRTC calls this side polite.
    Callee,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a description of this round.
    Send { round: u32, description: Description },
    /// Ask the app for the answer to this offer.
    Offer {
        round: u32,
        sdp: Redacted<String>,
        /// An own offer does not count any more: the app takes it back first.
        roll_back: bool,
    },
    /// Pass the answer to this side's offer to the app.
    Answer { round: u32, sdp: Redacted<String> },
    /// Pass the candidates to the app.
    Candidates { round: u32, candidates: Vec<String> },
    /// An offer was dropped: its round is too far ahead, or there were too many.
    Refused { round: u32 },
    /// Nobody has answered this side's offer. The app takes it back.
    Unanswered { round: u32 },
}

/// The input does not fit the state: an own offer is pending, no offer of this round waits for an answer, or the rounds
/// are used up. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NegotiationError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exchange {
    /// The last own offer was answered, or there was none.
    Settled,
    /// An own offer of the round waits for its answer.
    Offered { sdp: Redacted<String>, since: Instant, pause: Duration, repeat_at: Instant },
    /// The app was asked for the answer to the other side's offer.
    Asked,
    /// The answer to the other side's offer.
    Answered(Redacted<String>),
}

/// The rounds of one call, for one side.
#[derive(Clone, Debug)]
pub(crate) struct Negotiation {
    role: Role,
    /// The highest round of which a description was sent or accepted.
    round: u32,
    exchange: Exchange,
    /// Candidates of higher rounds, whose descriptions have not come yet.
    early: Vec<(u32, String)>,
    /// When the offers of the last [`WINDOW`] were accepted.
    accepted: VecDeque<Instant>,
}

impl Negotiation {
    pub(crate) const fn new(role: Role) -> Self {
        Self { role, round: 0, exchange: Exchange::Settled, early: Vec::new(), accepted: VecDeque::new() }
    }

    /// The current round.
    pub(crate) const fn round(&self) -> u32 {
        self.round
    }

    /// Starts a round with the app's offer.
    pub(crate) fn renegotiate(&mut self, sdp: Redacted<String>, now: Instant) -> Result<Vec<Output>, NegotiationError> {
        if matches!(self.exchange, Exchange::Offered { .. }) {
            return Err(NegotiationError);
        }
        self.round = self.round.checked_add(1).ok_or(NegotiationError)?;
        let repeat_at = now + FIRST_REPEAT;
        self.exchange = Exchange::Offered { sdp: sdp.clone(), since: now, pause: FIRST_REPEAT, repeat_at };
        Ok(vec![self.send(DescriptionKind::Offer, sdp)])
    }

    /// Takes the app's answer to the other side's offer of `round`.
    pub(crate) fn answer(&mut self, round: u32, sdp: Redacted<String>) -> Result<Vec<Output>, NegotiationError> {
        if round != self.round || self.exchange != Exchange::Asked {
            return Err(NegotiationError);
        }
        self.exchange = Exchange::Answered(sdp.clone());
        Ok(vec![self.send(DescriptionKind::Answer, sdp)])
    }

    /// Handles a description of the other side.
    pub(crate) fn handle_description(&mut self, round: u32, description: Description, now: Instant) -> Vec<Output> {
        match description.kind {
            DescriptionKind::Offer => self.handle_offer(round, description.sdp, now),
            DescriptionKind::Answer => self.handle_answer(round, description.sdp),
        }
    }

    fn handle_offer(&mut self, round: u32, sdp: Redacted<String>, now: Instant) -> Vec<Output> {
        match (round.cmp(&self.round), &self.exchange) {
            (Ordering::Greater, _) => self.accept_offer(round, sdp, now),
            (Ordering::Equal, Exchange::Offered { .. }) if self.role == Role::Callee => {
                self.accept_offer(round, sdp, now)
            }
            // A repetition: the first answer was perhaps lost.
            (Ordering::Equal, Exchange::Answered(answer)) => {
                vec![self.send(DescriptionKind::Answer, answer.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn accept_offer(&mut self, round: u32, sdp: Redacted<String>, now: Instant) -> Vec<Output> {
        self.accepted.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        if round - self.round > MAX_STEP || self.accepted.len() >= MAX_OFFERS {
            return vec![Output::Refused { round }];
        }
        self.accepted.push_back(now);
        self.round = round;
        let roll_back = matches!(self.exchange, Exchange::Offered { .. });
        self.exchange = Exchange::Asked;
        let mut outputs = vec![Output::Offer { round, sdp, roll_back }];
        outputs.extend(self.take_early());
        outputs
    }

    fn handle_answer(&mut self, round: u32, sdp: Redacted<String>) -> Vec<Output> {
        if round != self.round || !matches!(self.exchange, Exchange::Offered { .. }) {
            return Vec::new();
        }
        self.exchange = Exchange::Settled;
        let mut outputs = vec![Output::Answer { round, sdp }];
        outputs.extend(self.take_early());
        outputs
    }

    /// Handles candidates of the other side.
    pub(crate) fn handle_candidates(&mut self, round: u32, candidates: Vec<String>) -> Option<Output> {
        match round.cmp(&self.round) {
            _ if candidates.is_empty() => None,
            Ordering::Less => None,
            Ordering::Equal => Some(Output::Candidates { round, candidates }),
            Ordering::Greater => {
                if round - self.round <= MAX_STEP {
                    self.keep_early(round, candidates);
                }
                None
            }
        }
    }

    fn keep_early(&mut self, round: u32, candidates: Vec<String>) {
        for candidate in candidates {
            let bytes: usize = self.early.iter().map(|(_, known)| known.len()).sum();
            if self.early.len() >= MAX_EARLY || bytes + candidate.len() > MAX_EARLY_BYTES {
                tracing::debug!("dropped a candidate: too many of rounds to come");
                return;
            }
            self.early.push((round, candidate));
        }
    }

    /// Takes the early candidates of the current round, whose description has come.
    fn take_early(&mut self) -> Option<Output> {
        let round = self.round;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.early)
            .into_iter()
            .filter(|(of, _)| *of >= round)
            .partition(|(of, _)| *of == round);
        self.early = later;
        let candidates: Vec<_> = due.into_iter().map(|(_, candidate)| candidate).collect();
        (!candidates.is_empty()).then_some(Output::Candidates { round, candidates })
    }

    fn send(&self, kind: DescriptionKind, sdp: Redacted<String>) -> Output {
        Output::Send { round: self.round, description: Description { kind, sdp } }
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.exchange {
            Exchange::Offered { since, repeat_at, .. } => Some(repeat_at.min(since + UNANSWERED)),
            _ => None,
        }
    }

    /// Repeats a pending offer, or gives it up.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Output> {
        let round = self.round;
        let Exchange::Offered { sdp, since, pause, repeat_at } = &mut self.exchange else { return None };
        if *since + UNANSWERED <= now {
            self.exchange = Exchange::Settled;
            return Some(Output::Unanswered { round });
        }
        if *repeat_at > now {
            return None;
        }
        *pause *= 2;
        *repeat_at = now + *pause;
        let description = Description { kind: DescriptionKind::Offer, sdp: sdp.clone() };
        Some(Output::Send { round, description })
    }
}

#[cfg(test)]
mod tests;
