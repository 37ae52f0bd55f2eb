//! The call state machine: `idle → outgoing | incoming → connecting → connected → ended`.
//!
//! Pure: takes inputs and the time, returns outputs. One call is active at a time; a second caller gets a busy
//! response. If both sides call each other at once, the call with the lower id wins. A contact that rings too often
//! gets a busy response too ([`RingLimiter`]). Placing a call ends one that rings. Owns every deadline of a call;
//! delivery of messages is up to the driver.

use std::time::{Duration, Instant};

use crate::{contact::ContactId, ring_limiter::RingLimiter, seal::CallId};

/// How long a call rings.
pub const RINGING: Duration = Duration::from_secs(60);
/// How long candidates are gathered once the call is answered. After that, the app proceeds with those it has.
pub const GATHERING: Duration = Duration::from_secs(10);
/// How long media may take to connect, and to reconnect after a loss.
pub const RECONNECT: Duration = Duration::from_secs(30);

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
    /// The client was shut down.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The offer is being delivered, or the other side rings.
    Outgoing { until: Instant },
    /// This side rings.
    Incoming { until: Instant },
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
    /// An offer has arrived, for the first time or again.
    Offered(ContactId),
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
}

impl Calls {
    /// The state of the active call.
    pub fn state(&self) -> State {
        match self.active.map(|active| active.phase) {
            None => State::Idle,
            Some(Phase::Outgoing { .. }) => State::Outgoing,
            Some(Phase::Incoming { .. }) => State::Incoming,
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
            Input::Place(contact) => return self.place(call, contact, now),
            Input::Offered(contact) => return Ok(self.offered(call, contact, now)),
            _ => self.active.as_mut().filter(|active| active.call == call).ok_or(CallError::OutOfTurn)?,
        };
        let outgoing = matches!(active.phase, Phase::Outgoing { .. });
        let incoming = matches!(active.phase, Phase::Incoming { .. });
        let connecting = Phase::Connecting { gathering_until: Some(now + GATHERING), until: now + RECONNECT };
        match (input, active.phase) {
            (Input::Accept, Phase::Incoming { .. }) => {
                active.phase = connecting;
                self.rings.answered(active.contact);
                Ok(vec![Output::SendAnswer(call)])
            }
            (Input::Answered, Phase::Outgoing { .. }) => {
                active.phase = connecting;
                Ok(vec![Output::ReportAnswer(call)])
            }
            // The first delivery of the answer may have failed: send it again.
            (Input::Answered, Phase::Connecting { .. } | Phase::Connected { .. }) => Ok(Vec::new()),
            (Input::Decline, _) if incoming => self.end(EndReason::Declined, Some(Output::SendReject(call)), now),
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
            Phase::Outgoing { until } | Phase::Incoming { until } => Some(until),
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
            Phase::Connecting { gathering_until: None, .. } => self.end(EndReason::NotConnected, hangup, now),
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

    fn place(&mut self, call: CallId, contact: ContactId, now: Instant) -> Result<Vec<Output>, CallError> {
        let mut outputs = match self.active {
            Some(Active { call: ringing, phase: Phase::Incoming { .. }, .. }) => {
                self.end(EndReason::Declined, Some(Output::SendReject(ringing)), now)?
            }
            Some(_) => return Err(CallError::Busy),
            None => Vec::new(),
        };
        self.active = Some(Active { call, contact, phase: Phase::Outgoing { until: now + RINGING } });
        outputs.push(Output::SendOffer(call));
        Ok(outputs)
    }

    fn offered(&mut self, call: CallId, contact: ContactId, now: Instant) -> Vec<Output> {
        let incoming = Active { call, contact, phase: Phase::Incoming { until: now + RINGING } };
        match self.active {
            None if !self.rings.try_ring(contact, now) => vec![Output::SendBusy(call)],
            None => {
                self.active = Some(incoming);
                vec![Output::Ring(call)]
            }
            // A repeated offer: the caller does not know whether the first one or the answer has arrived.
            Some(active) if active.call == call => match active.phase {
                Phase::Connecting { .. } | Phase::Connected { .. } => vec![Output::SendAnswer(call)],
                Phase::Outgoing { .. } | Phase::Incoming { .. } => Vec::new(),
            },
            Some(Active { call: ours, contact: callee, phase: Phase::Outgoing { .. } }) if callee == contact => {
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

    fn end(&mut self, reason: EndReason, first: Option<Output>, now: Instant) -> Result<Vec<Output>, CallError> {
        let active = self.active.take().ok_or(CallError::OutOfTurn)?;
        if matches!(active.phase, Phase::Incoming { .. }) {
            self.rings.unanswered(active.contact, now);
        }
        Ok(first.into_iter().chain([Output::End(active.call, reason)]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: CallId = CallId::from_bytes([5; 16]);
    const LOWER: CallId = CallId::from_bytes([4; 16]);
    const HIGHER: CallId = CallId::from_bytes([6; 16]);
    const ADA: ContactId = ContactId::new([1; 32]);
    const BOB: ContactId = ContactId::new([2; 32]);

    const STATES: [State; 6] =
        [State::Idle, State::Outgoing, State::Incoming, State::Connecting, State::Connected, State::Reconnecting];

    /// [`CALL`] with Ada, brought to `state` at `now`.
    fn at(state: State, now: Instant) -> Calls {
        let inputs: &[Input] = match state {
            State::Idle => &[],
            State::Outgoing => &[Input::Place(ADA)],
            State::Incoming => &[Input::Offered(ADA)],
            State::Connecting => &[Input::Offered(ADA), Input::Accept],
            State::Connected => &[Input::Place(ADA), Input::Answered, Input::MediaUp],
            State::Reconnecting => &[Input::Place(ADA), Input::Answered, Input::MediaUp, Input::MediaDown],
        };
        let mut calls = Calls::default();
        for input in inputs {
            calls.handle(CALL, *input, now).expect("the way to the state");
        }
        assert_eq!(calls.state(), state);
        calls
    }

    /// For each state in the order of [`STATES`]: the next state and the outputs, or why not.
    type Row = (Input, [Result<(State, Vec<Output>), CallError>; 6]);

    fn table() -> Vec<Row> {
        use CallError::{Busy, OutOfTurn};
        use State::{Connected, Connecting, Idle, Incoming, Outgoing, Reconnecting};
        let no = || Err(OutOfTurn);
        let to = |state, outputs: &[Output]| Ok((state, outputs.to_vec()));
        let end = |reason| Ok((Idle, vec![Output::End(CALL, reason)]));
        let end_with = |output, reason| Ok((Idle, vec![output, Output::End(CALL, reason)]));
        let hangup = || end_with(Output::SendHangup(CALL), EndReason::HungUp);
        let reject = || end_with(Output::SendReject(CALL), EndReason::Declined);
        let peer = || end(EndReason::PeerHungUp);
        let again = [Output::SendAnswer(CALL)];
        vec![
            (
                Input::Place(ADA),
                [
                    to(Outgoing, &[Output::SendOffer(CALL)]),
                    Err(Busy),
                    // The one that rings ends.
                    to(
                        Outgoing,
                        &[Output::SendReject(CALL), Output::End(CALL, EndReason::Declined), Output::SendOffer(CALL)],
                    ),
                    Err(Busy),
                    Err(Busy),
                    Err(Busy),
                ],
            ),
            (
                Input::Offered(ADA),
                [
                    to(Incoming, &[Output::Ring(CALL)]),
                    to(Outgoing, &[]),
                    to(Incoming, &[]),
                    to(Connecting, &again),
                    to(Connected, &again),
                    to(Reconnecting, &again),
                ],
            ),
            (Input::Accept, [no(), no(), to(Connecting, &again), no(), no(), no()]),
            (Input::Decline, [no(), no(), reject(), no(), no(), no()]),
            (
                Input::Answered,
                [
                    no(),
                    to(Connecting, &[Output::ReportAnswer(CALL)]),
                    no(),
                    to(Connecting, &[]),
                    to(Connected, &[]),
                    to(Reconnecting, &[]),
                ],
            ),
            (Input::Rejected { busy: false }, [no(), end(EndReason::Declined), no(), no(), no(), no()]),
            (Input::Rejected { busy: true }, [no(), end(EndReason::Busy), no(), no(), no(), no()]),
            (Input::Undeliverable, [no(), end(EndReason::Offline), no(), no(), no(), no()]),
            (Input::Hangup, [no(), hangup(), reject(), hangup(), hangup(), hangup()]),
            (Input::PeerHangup, [no(), peer(), peer(), peer(), peer(), peer()]),
            (Input::MediaUp, [no(), no(), no(), to(Connected, &[]), to(Connected, &[]), to(Connected, &[])]),
            (Input::MediaDown, [no(), no(), no(), to(Connecting, &[]), to(Reconnecting, &[]), to(Reconnecting, &[])]),
        ]
    }

    #[test]
    fn every_input_in_every_state_follows_the_table() {
        let now = Instant::now();
        for (input, row) in table() {
            for (state, expected) in STATES.into_iter().zip(row) {
                let mut calls = at(state, now);
                let got = calls.handle(CALL, input, now).map(|outputs| (calls.state(), outputs));
                if expected.is_err() {
                    assert_eq!(calls.state(), state, "{input:?} in {state:?} changes nothing");
                }
                assert_eq!(got, expected, "{input:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_contact_that_rings_again_at_once_gets_busy_and_others_ring() {
        let now = Instant::now();
        let mut calls = at(State::Incoming, now);
        calls.handle(CALL, Input::Decline, now).expect("it rings");
        assert_eq!(calls.handle(LOWER, Input::Offered(ADA), now), Ok(vec![Output::SendBusy(LOWER)]));
        assert_eq!(calls.handle(HIGHER, Input::Offered(BOB), now), Ok(vec![Output::Ring(HIGHER)]));
        // To place a call, one need not wait for the end of a ring.
        let placed = calls.handle(CALL, Input::Place(ADA), now).expect("a call");
        let ended = [Output::SendReject(HIGHER), Output::End(HIGHER, EndReason::Declined), Output::SendOffer(CALL)];
        assert_eq!(placed, ended);
    }

    #[test]
    fn messages_of_another_call_do_not_affect_the_active_one() {
        let now = Instant::now();
        let inputs = table().into_iter().map(|(input, _)| input);
        for input in inputs.filter(|input| !matches!(input, Input::Place(_) | Input::Offered(_))) {
            for state in STATES {
                let mut calls = at(state, now);
                assert_eq!(calls.handle(LOWER, input, now), Err(CallError::OutOfTurn), "{input:?} in {state:?}");
                assert_eq!(calls.state(), state);
            }
        }
    }

    #[test]
    fn each_state_ends_at_its_deadline_and_not_before() {
        let now = Instant::now();
        let hangup = Output::SendHangup(CALL);
        for (state, after, outputs) in [
            (State::Outgoing, RINGING, vec![hangup, Output::End(CALL, EndReason::NoAnswer)]),
            (State::Incoming, RINGING, vec![Output::End(CALL, EndReason::NoAnswer)]),
            (State::Reconnecting, RECONNECT, vec![hangup, Output::End(CALL, EndReason::Lost)]),
        ] {
            let mut calls = at(state, now);
            assert_eq!(calls.poll_timeout(), Some(now + after));
            assert!(calls.handle_timeout(now + after - Duration::from_millis(1)).is_empty());
            assert_eq!(calls.handle_timeout(now + after), outputs, "{state:?}");
            assert_eq!((calls.state(), calls.poll_timeout()), (State::Idle, None));
        }
        for state in [State::Idle, State::Connected] {
            assert_eq!(at(state, now).poll_timeout(), None, "{state:?}");
        }
    }

    #[test]
    fn a_connecting_call_first_stops_gathering_and_then_ends() {
        let now = Instant::now();
        let mut calls = at(State::Connecting, now);
        assert_eq!(calls.handle_timeout(now + GATHERING), [Output::StopGathering(CALL)]);
        assert_eq!(calls.state(), State::Connecting);
        assert_eq!(calls.poll_timeout(), Some(now + RECONNECT));
        let ended = calls.handle_timeout(now + RECONNECT);
        assert_eq!(ended, [Output::SendHangup(CALL), Output::End(CALL, EndReason::NotConnected)]);
    }

    #[test]
    fn where_both_call_at_once_the_lower_call_id_wins_on_both_sides() {
        let now = Instant::now();
        let mut winner = at(State::Outgoing, now);
        assert_eq!(winner.handle(HIGHER, Input::Offered(ADA), now), Ok(Vec::new()));
        assert_eq!(winner.active(), Some((CALL, ADA)));
        let mut loser = at(State::Outgoing, now);
        assert_eq!(
            loser.handle(LOWER, Input::Offered(ADA), now),
            Ok(vec![Output::End(CALL, EndReason::Glare), Output::Ring(LOWER)])
        );
        assert_eq!((loser.state(), loser.active()), (State::Incoming, Some((LOWER, ADA))));
    }

    #[test]
    fn a_second_call_gets_busy() {
        let now = Instant::now();
        for state in STATES.into_iter().skip(1) {
            let mut calls = at(state, now);
            assert_eq!(calls.handle(LOWER, Input::Offered(BOB), now), Ok(vec![Output::SendBusy(LOWER)]), "{state:?}");
            assert_eq!(calls.active(), Some((CALL, ADA)));
        }
    }

    #[test]
    fn a_shutdown_hangs_up() {
        let now = Instant::now();
        assert!(at(State::Idle, now).shutdown(now).is_empty());
        let ended = at(State::Connected, now).shutdown(now);
        assert_eq!(ended, [Output::SendHangup(CALL), Output::End(CALL, EndReason::Shutdown)]);
    }
}
