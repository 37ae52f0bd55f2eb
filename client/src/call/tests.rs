use super::*;

const CALL: CallId = CallId::from_bytes([5; 16]);
const LOWER: CallId = CallId::from_bytes([4; 16]);
const HIGHER: CallId = CallId::from_bytes([6; 16]);
const ADA: ContactId = ContactId::new([1; 32]);
const BOB: ContactId = ContactId::new([2; 32]);

/// The call that [`CALL`] has replaced in [`State::Rejoining`].
const LOST: CallId = CallId::from_bytes([9; 16]);

const STATES: [State; 7] = [
    State::Idle,
    State::Outgoing,
    State::Incoming,
    State::Rejoining,
    State::Connecting,
    State::Connected,
    State::Reconnecting,
];

/// [`CALL`] with Ada, brought to `state` at `now`.
fn at(state: State, now: Instant) -> Calls {
    let inputs: &[Input] = match state {
        State::Idle => &[],
        State::Outgoing => &[Input::Place(ADA)],
        State::Incoming => &[Input::Offered(ADA)],
        State::Rejoining => &[Input::OfferedToRejoin { contact: ADA, old: LOST }],
        State::Connecting => &[Input::Offered(ADA), Input::Accept],
        State::Connected => &[Input::Place(ADA), Input::Answered, Input::MediaUp],
        State::Reconnecting => &[Input::Place(ADA), Input::Answered, Input::MediaUp, Input::MediaDown],
    };
    let mut calls = Calls::default();
    if state == State::Rejoining {
        calls.handle(LOST, Input::Offered(ADA), now).expect("it rings");
        calls.handle(LOST, Input::Accept, now).expect("it is accepted");
    }
    for input in inputs {
        calls.handle(CALL, *input, now).expect("the way to the state");
    }
    assert_eq!(calls.state(), state);
    calls
}

/// For each state in the order of [`STATES`]: the next state and the outputs, or why not.
type Row = (Input, [Result<(State, Vec<Output>), CallError>; 7]);

fn table() -> Vec<Row> {
    use CallError::{Busy, OutOfTurn};
    use State::{Connected, Connecting, Idle, Incoming, Outgoing, Reconnecting, Rejoining};
    let no = || Err(OutOfTurn);
    let to = |state, outputs: &[Output]| Ok((state, outputs.to_vec()));
    let end = |reason| Ok((Idle, vec![Output::End(CALL, reason)]));
    let end_with = |output, reason| Ok((Idle, vec![output, Output::End(CALL, reason)]));
    let hangup = || end_with(Output::SendHangup(CALL), EndReason::HungUp);
    let reject = || end_with(Output::SendReject(CALL), EndReason::Declined);
    let peer = || end(EndReason::PeerHungUp);
    let again = [Output::SendAnswer(CALL)];
    let place = || {
        [
            to(Outgoing, &[Output::SendOffer(CALL)]),
            Err(Busy),
            // The one that rings ends.
            to(Outgoing, &[Output::SendReject(CALL), Output::End(CALL, EndReason::Declined), Output::SendOffer(CALL)]),
            Err(Busy),
            Err(Busy),
            Err(Busy),
            Err(Busy),
        ]
    };
    vec![
        (Input::Place(ADA), place()),
        (Input::Rejoin { contact: ADA, old: LOST }, place()),
        (
            Input::Offered(ADA),
            [
                to(Incoming, &[Output::Ring(CALL)]),
                to(Outgoing, &[]),
                to(Incoming, &[]),
                to(Rejoining, &[]),
                to(Connecting, &again),
                to(Connected, &again),
                to(Reconnecting, &again),
            ],
        ),
        // Its first offer, or a repeated one.
        (
            Input::OfferedToRejoin { contact: ADA, old: LOST },
            [
                to(Idle, &[Output::SendGone(CALL)]),
                to(Outgoing, &[]),
                to(Incoming, &[]),
                to(Rejoining, &[]),
                to(Connecting, &again),
                to(Connected, &again),
                to(Reconnecting, &again),
            ],
        ),
        (Input::Accept, [no(), no(), to(Connecting, &again), to(Connecting, &again), no(), no(), no()]),
        (Input::Decline, [no(), no(), reject(), reject(), no(), no(), no()]),
        (
            Input::Answered,
            [
                no(),
                to(Connecting, &[Output::ReportAnswer(CALL)]),
                no(),
                no(),
                to(Connecting, &[]),
                to(Connected, &[]),
                to(Reconnecting, &[]),
            ],
        ),
        (Input::Rejected { busy: false }, [no(), end(EndReason::Declined), no(), no(), no(), no(), no()]),
        (Input::Rejected { busy: true }, [no(), end(EndReason::Busy), no(), no(), no(), no(), no()]),
        (Input::Undeliverable, [no(), end(EndReason::Offline), no(), no(), no(), no(), no()]),
        (Input::Hangup, [no(), hangup(), reject(), hangup(), hangup(), hangup(), hangup()]),
        (Input::PeerHangup, [no(), peer(), peer(), peer(), peer(), peer(), peer()]),
        (Input::MediaUp, [no(), no(), no(), no(), to(Connected, &[]), to(Connected, &[]), to(Connected, &[])]),
        (Input::MediaDown, [no(), no(), no(), no(), to(Connecting, &[]), to(Reconnecting, &[]), to(Reconnecting, &[])]),
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
    let of_a_call = |input: &Input| {
        !matches!(input, Input::Place(_) | Input::Rejoin { .. } | Input::Offered(_) | Input::OfferedToRejoin { .. })
    };
    for input in inputs.filter(of_a_call) {
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
        (State::Rejoining, RECONNECT, vec![hangup, Output::End(CALL, EndReason::NotConnected)]),
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

#[test]
fn a_call_that_was_answered_is_replaced_without_ringing_and_any_other_is_gone() {
    let now = Instant::now();
    let replaced = || vec![Output::End(CALL, EndReason::Rejoined), Output::Rejoin { call: HIGHER, old: CALL }];
    let gone = || vec![Output::SendGone(HIGHER)];
    for (state, outputs) in STATES.into_iter().zip([
        gone(),
        // It rings over there: the other side gets the offer again.
        gone(),
        gone(),
        replaced(),
        replaced(),
        replaced(),
        replaced(),
    ]) {
        let is_replaced = outputs.len() == 2;
        let rejoin = |contact, old| Input::OfferedToRejoin { contact, old };
        let mut calls = at(state, now);
        assert_eq!(calls.handle(HIGHER, rejoin(ADA, CALL), now), Ok(outputs), "{state:?}");
        assert_eq!(calls.state(), if is_replaced { State::Rejoining } else { state });
        // Another contact's, and another call.
        assert_eq!(at(state, now).handle(HIGHER, rejoin(BOB, CALL), now), Ok(gone()), "{state:?}");
        if !matches!(state, State::Outgoing | State::Rejoining) {
            assert_eq!(at(state, now).handle(HIGHER, rejoin(ADA, LOST), now), Ok(gone()), "{state:?}");
        }
    }
}

#[test]
fn until_media_flows_in_a_call_that_replaced_another_one_that_one_may_be_named_too() {
    let now = Instant::now();
    let replaced = || vec![Output::End(CALL, EndReason::Rejoined), Output::Rejoin { call: HIGHER, old: CALL }];
    let gone = || vec![Output::SendGone(HIGHER)];
    let rejoin = |contact| Input::OfferedToRejoin { contact, old: LOST };
    let inputs = [Input::Accept, Input::MediaUp, Input::MediaDown];
    for (count, outputs) in [replaced(), replaced(), gone(), gone()].into_iter().enumerate() {
        let mut calls = at(State::Rejoining, now);
        for input in &inputs[..count] {
            calls.handle(CALL, *input, now).expect("it is answered");
        }
        assert_eq!(calls.handle(HIGHER, rejoin(BOB), now), Ok(gone()), "{count}");
        assert_eq!(calls.handle(HIGHER, rejoin(ADA), now), Ok(outputs), "{count}");
    }
    // Also by the side that was called.
    let mut calls = Calls::default();
    calls.handle(CALL, Input::Rejoin { contact: ADA, old: LOST }, now).expect("idle");
    calls.handle(CALL, Input::Answered, now).expect("it is outgoing");
    assert_eq!(calls.handle(HIGHER, rejoin(ADA), now), Ok(replaced()));
}

#[test]
fn where_both_have_lost_the_call_the_lower_id_wins_without_ringing() {
    let now = Instant::now();
    let lost = |old| Input::OfferedToRejoin { contact: ADA, old };
    let outgoing = || {
        let mut calls = Calls::default();
        calls.handle(CALL, Input::Rejoin { contact: ADA, old: LOST }, now).expect("idle");
        calls
    };
    assert_eq!(outgoing().handle(HIGHER, lost(LOST), now), Ok(Vec::new()));
    let mut loser = outgoing();
    let outputs = loser.handle(LOWER, lost(LOST), now);
    assert_eq!(outputs, Ok(vec![Output::End(CALL, EndReason::Glare), Output::Rejoin { call: LOWER, old: LOST }]));
    assert_eq!(loser.state(), State::Rejoining);
    // If this side has called without such a call, its user knows of no lost one.
    let mut calls = at(State::Outgoing, now);
    let outputs = calls.handle(LOWER, lost(LOST), now);
    assert_eq!(outputs, Ok(vec![Output::End(CALL, EndReason::Glare), Output::Ring(LOWER)]));
}

#[test]
fn replacements_are_bounded_and_cost_no_ring() {
    let now = Instant::now();
    let id = |n: u8| CallId::from_bytes([n; 16]);
    let mut calls = Calls::default();
    calls.handle(id(0), Input::Offered(ADA), now).expect("it rings");
    calls.handle(id(0), Input::Accept, now).expect("it rings");
    for n in 1..=5 {
        let outputs = calls.handle(id(n), Input::OfferedToRejoin { contact: ADA, old: id(n - 1) }, now);
        assert_eq!(outputs.map(|outputs| outputs.len()), Ok(2), "{n}");
        calls.handle(id(n), Input::Accept, now).expect("the app is asked");
    }
    let again = Input::OfferedToRejoin { contact: ADA, old: id(5) };
    assert_eq!(calls.handle(id(6), again, now), Ok(vec![Output::SendGone(id(6))]));
    assert_eq!(calls.handle(id(6), again, now + REJOIN_WINDOW).map(|outputs| outputs.len()), Ok(2));
    calls.handle(id(6), Input::PeerHangup, now).expect("it is active");
    assert_eq!(calls.handle(id(7), Input::Offered(ADA), now), Ok(vec![Output::Ring(id(7))]));
}
