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
