//! The call state machine: `idle → outgoing | incoming | rejoining → connecting → connected → ended`.
//!
//! Pure: takes inputs and the time, returns outputs. One call is active at a time; a second caller gets a busy
//! response. If both sides call each other at once, the call with the lower id wins. A contact that rings too often
//! gets a busy response too ([`RingLimiter`]). Placing a call ends one that rings. A client that has lost an answered
//! call, as by a reload, replaces it by a new one, which does not ring. Owns every deadline of a call; delivery of
//! messages is up to the driver.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{contact::ContactId, ring_limiter::RingLimiter, seal::CallId};

/// How long a call rings.
pub const RINGING: Duration = Duration::from_secs(60);
/// How long candidates are gathered once the call is answered. After that, the app proceeds with those it has.
pub const GATHERING: Duration = Duration::from_secs(10);
/// How long media may take to connect, and to reconnect after a loss.
pub const RECONNECT: Duration = Duration::from_secs(30);

/// The most calls that the other side replaces in [`REJOIN_WINDOW`]. A reload takes a few seconds, and each costs this side a
/// gathering of candidates.
pub const MAX_REJOINS: usize = 5;
/// The time for [`MAX_REJOINS`].
pub const REJOIN_WINDOW: Duration = Duration::from_secs(60);

/// Why a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// This side hung up.
    HungUp,
    /// The other side hung up.
    PeerHungUp,
    /// The callee declined.
    Declined,
    /// The callee is in another call.
    Busy,
    /// The callee did not answer within [`RINGING`].
    NoAnswer,
    /// The contact is not reachable at any node.
    Offline,
    /// Media did not connect within [`RECONNECT`].
    NotConnected,
    /// Media was lost and did not come back within [`RECONNECT`].
    Lost,
    /// Both sides called at once, and the other side's call won.
    Glare,
    /// The other side has lost the call, and has replaced it by a new one.
    Rejoined,
    /// The client was shut down.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The offer is being delivered, or the other side rings.
    Outgoing { until: Instant },
    /// This side rings.
    Incoming { until: Instant },
    /// The other side has replaced an answered call by this one, and the app prepares its answer.
    Rejoining { until: Instant },
    /// Answered; media is not connected yet.
    Connecting { gathering_until: Option<Instant>, until: Instant },
    /// Media is connected, or was lost a moment ago.
    Connected { lost_until: Option<Instant> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Active {
    call: CallId,
    contact: ContactId,
    phase: Phase,
    /// The call that this one replaces.
    rejoins: Option<CallId>,
}

impl Active {
    /// Whether the call was answered, or continues one that was.
    const fn is_answered(&self) -> bool {
        matches!(self.phase, Phase::Rejoining { .. } | Phase::Connecting { .. } | Phase::Connected { .. })
    }

    /// Whether a device that comes back into the call `lost` means this one. Until media flows in a call that was itself
    /// placed to come back, that device may have been started again before it knew that its offer had arrived.
    fn is_named(&self, lost: CallId) -> bool {
        self.call == lost || (self.rejoins == Some(lost) && !matches!(self.phase, Phase::Connected { .. }))
    }
}

/// The state of the active call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No call.
    Idle,
    /// Calling.
    Outgoing,
    /// Being called.
    Incoming,
    /// The other side continues an answered call by this one; the app prepares its answer.
    Rejoining,
    /// Answered; media is not connected yet.
    Connecting,
    /// Media flows.
    Connected,
    /// Media was lost and may reconnect.
    Reconnecting,
}

/// An input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The app places the call.
    Place(ContactId),
    /// The app places the call, to replace one that it has lost.
    Rejoin {
        /// The callee.
        contact: ContactId,
        /// The lost call.
        old: CallId,
    },
    /// An offer has arrived, for the first time or again.
    Offered(ContactId),
    /// The first offer of a call that replaces another one has arrived.
    OfferedToRejoin {
        /// The caller.
        contact: ContactId,
        /// The call that the other side has lost.
        old: CallId,
    },
    /// The app accepts the call.
    Accept,
    /// The app declines the call.
    Decline,
    /// The callee's answer has arrived.
    Answered,
    /// The callee has declined.
    Rejected {
        /// Because it is in another call.
        busy: bool,
    },
    /// The other side has hung up.
    PeerHangup,
    /// The app hangs up.
    Hangup,
    /// The offer cannot be delivered, and a retry would not help.
    Undeliverable,
    /// Media flows.
    MediaUp,
    /// Media has stopped.
    MediaDown,
}

/// An output of the state machine: what the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send the offer.
    SendOffer(CallId),
    /// Notify the app of an incoming call.
    Ring(CallId),
    /// Ask the app for the answer to a call that replaces `old`. It does not ring.
    Rejoin {
        /// The new call.
        call: CallId,
        /// The call that it replaces.
        old: CallId,
    },
    /// Send a hangup: there is no call that this one could replace.
    SendGone(CallId),
    /// Send the answer, for the first time or again.
    SendAnswer(CallId),
    /// Notify the app that the callee has answered.
    ReportAnswer(CallId),
    /// Reject the other side's call: this side is busy.
    SendBusy(CallId),
    /// Reject the other side's call: this side declines.
    SendReject(CallId),
    /// Send the other side the end of the call.
    SendHangup(CallId),
    /// Notify the app that it should proceed with the candidates that it has.
    StopGathering(CallId),
    /// The call is over.
    End(CallId, EndReason),
}

/// The input is not valid in this state. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Another call is active.
    #[error("another call is active")]
    Busy,
    /// There is no such call, or it is in another state.
    #[error("the call is in another state")]
    OutOfTurn,
}

/// The active call, if there is one.
#[derive(Debug, Default)]
pub struct Calls {
    active: Option<Active>,
    rings: RingLimiter,
    /// When the calls of the last [`REJOIN_WINDOW`] were replaced.
    rejoined: VecDeque<Instant>,
}

impl Calls {
    /// The state of the active call.
    pub fn state(&self) -> State {
        match self.active.map(|active| active.phase) {
            None => State::Idle,
            Some(Phase::Outgoing { .. }) => State::Outgoing,
            Some(Phase::Incoming { .. }) => State::Incoming,
            Some(Phase::Rejoining { .. }) => State::Rejoining,
            Some(Phase::Connecting { .. }) => State::Connecting,
            Some(Phase::Connected { lost_until: None }) => State::Connected,
            Some(Phase::Connected { lost_until: Some(_) }) => State::Reconnecting,
        }
    }

    /// The active call and its contact.
    pub fn active(&self) -> Option<(CallId, ContactId)> {
        self.active.map(|active| (active.call, active.contact))
    }

    /// Applies an input to `call` and returns the outputs, in order.
    ///
    /// # Errors
    /// The input is not valid in this state, or another call is active.
    pub fn handle(&mut self, call: CallId, input: Input, now: Instant) -> Result<Vec<Output>, CallError> {
        let active = match input {
            Input::Place(contact) => return self.place(call, contact, None, now),
            Input::Rejoin { contact, old } => return self.place(call, contact, Some(old), now),
            Input::Offered(contact) => return Ok(self.offered(call, contact, now)),
            Input::OfferedToRejoin { contact, old } => return Ok(self.offered_to_rejoin(call, contact, old, now)),
            _ => self.active.as_mut().filter(|active| active.call == call).ok_or(CallError::OutOfTurn)?,
        };
        let outgoing = matches!(active.phase, Phase::Outgoing { .. });
        let incoming = matches!(active.phase, Phase::Incoming { .. });
        let rejoining = matches!(active.phase, Phase::Rejoining { .. });
        let connecting = Phase::Connecting { gathering_until: Some(now + GATHERING), until: now + RECONNECT };
        match (input, active.phase) {
            (Input::Accept, Phase::Incoming { .. }) => {
                active.phase = connecting;
                self.rings.answered(active.contact);
                Ok(vec![Output::SendAnswer(call)])
            }
            (Input::Accept, Phase::Rejoining { .. }) => {
                active.phase = connecting;
                Ok(vec![Output::SendAnswer(call)])
            }
            (Input::Answered, Phase::Outgoing { .. }) => {
                active.phase = connecting;
                Ok(vec![Output::ReportAnswer(call)])
            }
            // The first delivery of the answer may have failed: send it again.
            (Input::Answered, Phase::Connecting { .. } | Phase::Connected { .. }) => Ok(Vec::new()),
            (Input::Decline, _) if incoming || rejoining => {
                self.end(EndReason::Declined, Some(Output::SendReject(call)), now)
            }
            (Input::Rejected { busy }, _) if outgoing => {
                self.end(if busy { EndReason::Busy } else { EndReason::Declined }, None, now)
            }
            (Input::Undeliverable, _) if outgoing => self.end(EndReason::Offline, None, now),
            (Input::Hangup, _) if incoming => self.end(EndReason::Declined, Some(Output::SendReject(call)), now),
            (Input::Hangup, _) => self.end(EndReason::HungUp, Some(Output::SendHangup(call)), now),
            (Input::PeerHangup, _) => self.end(EndReason::PeerHungUp, None, now),
            (Input::MediaUp, Phase::Connecting { .. } | Phase::Connected { .. }) => {
                active.phase = Phase::Connected { lost_until: None };
                Ok(Vec::new())
            }
            (Input::MediaDown, Phase::Connected { lost_until: None }) => {
                active.phase = Phase::Connected { lost_until: Some(now + RECONNECT) };
                Ok(Vec::new())
            }
            (Input::MediaDown, Phase::Connected { .. } | Phase::Connecting { .. }) => Ok(Vec::new()),
            _ => Err(CallError::OutOfTurn),
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.active?.phase {
            Phase::Outgoing { until } | Phase::Incoming { until } | Phase::Rejoining { until } => Some(until),
            Phase::Connecting { gathering_until, until } => Some(gathering_until.unwrap_or(until)),
            Phase::Connected { lost_until } => lost_until,
        }
    }

    /// Applies the deadlines that have passed at `now` and returns the outputs.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Output> {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let Some(active) = self.active.as_mut() else { return Vec::new() };
        let call = active.call;
        let hangup = Some(Output::SendHangup(call));
        let ended = match active.phase {
            Phase::Outgoing { .. } => self.end(EndReason::NoAnswer, hangup, now),
            // The caller has the same deadline and ends the call by itself.
            Phase::Incoming { .. } => self.end(EndReason::NoAnswer, None, now),
            Phase::Connecting { gathering_until: Some(_), until } => {
                active.phase = Phase::Connecting { gathering_until: None, until };
                Ok(vec![Output::StopGathering(call)])
            }
            Phase::Rejoining { .. } | Phase::Connecting { gathering_until: None, .. } => {
                self.end(EndReason::NotConnected, hangup, now)
            }
            Phase::Connected { .. } => self.end(EndReason::Lost, hangup, now),
        };
        ended.unwrap_or_default()
    }

    /// Ends the active call because the client stops, and returns the outputs.
    pub fn shutdown(&mut self, now: Instant) -> Vec<Output> {
        match self.active {
            Some(active) => {
                self.end(EndReason::Shutdown, Some(Output::SendHangup(active.call)), now).unwrap_or_default()
            }
            None => Vec::new(),
        }
    }

    fn place(
        &mut self,
        call: CallId,
        contact: ContactId,
        rejoins: Option<CallId>,
        now: Instant,
    ) -> Result<Vec<Output>, CallError> {
        let mut outputs = match self.active {
            Some(Active { call: ringing, phase: Phase::Incoming { .. }, .. }) => {
                self.end(EndReason::Declined, Some(Output::SendReject(ringing)), now)?
            }
            Some(_) => return Err(CallError::Busy),
            None => Vec::new(),
        };
        self.active = Some(Active { call, contact, phase: Phase::Outgoing { until: now + RINGING }, rejoins });
        outputs.push(Output::SendOffer(call));
        Ok(outputs)
    }

    fn offered(&mut self, call: CallId, contact: ContactId, now: Instant) -> Vec<Output> {
        let incoming = Active { call, contact, phase: Phase::Incoming { until: now + RINGING }, rejoins: None };
        match self.active {
            None if !self.rings.try_ring(contact, now) => vec![Output::SendBusy(call)],
            None => {
                self.active = Some(incoming);
                vec![Output::Ring(call)]
            }
            // A repeated offer: the caller does not know whether the first one or the answer has arrived.
            Some(active) if active.call == call => match active.phase {
                Phase::Connecting { .. } | Phase::Connected { .. } => vec![Output::SendAnswer(call)],
                Phase::Outgoing { .. } | Phase::Incoming { .. } | Phase::Rejoining { .. } => Vec::new(),
            },
            Some(Active { call: ours, contact: callee, phase: Phase::Outgoing { .. }, .. }) if callee == contact => {
                if ours < call {
                    // The other side compares the same two ids and ends its own call.
                    return Vec::new();
                }
                self.active = Some(incoming);
                vec![Output::End(ours, EndReason::Glare), Output::Ring(call)]
            }
            Some(_) => vec![Output::SendBusy(call)],
        }
    }

    fn offered_to_rejoin(&mut self, call: CallId, contact: ContactId, old: CallId, now: Instant) -> Vec<Output> {
        let rejoining =
            Active { call, contact, phase: Phase::Rejoining { until: now + RECONNECT }, rejoins: Some(old) };
        match self.active {
            Some(active) if active.call == call => self.offered(call, contact, now),
            Some(active) if active.contact == contact && active.is_answered() && active.is_named(old) => {
                if !self.may_rejoin(now) {
                    return vec![Output::SendGone(call)];
                }
                self.active = Some(rejoining);
                let old = active.call;
                vec![Output::End(old, EndReason::Rejoined), Output::Rejoin { call, old }]
            }
            // Both call each other. If both have lost the same call, the winner does not ring.
            Some(Active { call: ours, contact: callee, phase: Phase::Outgoing { .. }, rejoins })
                if callee == contact && ours != old =>
            {
                if rejoins != Some(old) || ours < call {
                    return self.offered(call, contact, now);
                }
                self.active = Some(rejoining);
                vec![Output::End(ours, EndReason::Glare), Output::Rejoin { call, old }]
            }
            _ => vec![Output::SendGone(call)],
        }
    }

    /// Returns whether the other side may replace a call now, and records it if so.
    fn may_rejoin(&mut self, now: Instant) -> bool {
        self.rejoined.retain(|at| now.saturating_duration_since(*at) < REJOIN_WINDOW);
        let may_rejoin = self.rejoined.len() < MAX_REJOINS;
        if may_rejoin {
            self.rejoined.push_back(now);
        }
        may_rejoin
    }

    fn end(&mut self, reason: EndReason, first: Option<Output>, now: Instant) -> Result<Vec<Output>, CallError> {
        let active = self.active.take().ok_or(CallError::OutOfTurn)?;
        if matches!(active.phase, Phase::Incoming { .. }) {
            self.rings.unanswered(active.contact, now);
        }
        Ok(first.into_iter().chain([Output::End(active.call, reason)]).collect())
    }
}

#[cfg(test)]
mod tests;
