use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::message::Ice;

const VECTORS: &str = include_str!("../../../docs/protocol/vectors/negotiation.json");

fn text(value: &str) -> Redacted<String> {
    Redacted::new(value.to_owned())
}

fn description(kind: DescriptionKind, sdp: &str) -> Description {
    Description { kind, sdp: text(sdp) }
}

fn offer(sdp: &str) -> Description {
    description(DescriptionKind::Offer, sdp)
}

fn answer(sdp: &str) -> Description {
    description(DescriptionKind::Answer, sdp)
}

fn sent(round: u32, description: Description) -> Output {
    Output::Send { round, description }
}

fn asked(round: u32, sdp: &str, roll_back: bool) -> Output {
    Output::Offer { round, sdp: text(sdp), roll_back }
}

/// The states of [`Exchange`], each in round 5.
#[derive(Clone, Copy, Debug)]
enum State {
    Settled,
    Offered,
    Asked,
    Answered,
}

const STATES: [State; 4] = [State::Settled, State::Offered, State::Asked, State::Answered];

fn at(role: Role, state: State, now: Instant) -> Negotiation {
    let mut negotiation = Negotiation::new(role);
    negotiation.handle_description(4, offer("before"), now);
    match state {
        State::Settled | State::Offered => {
            negotiation.renegotiate(text("own"), now).expect("nothing is pending");
        }
        State::Asked | State::Answered => {
            negotiation.handle_description(5, offer("theirs"), now);
        }
    }
    match state {
        State::Settled => drop(negotiation.handle_description(5, answer("theirs"), now)),
        State::Answered => drop(negotiation.answer(5, text("own")).expect("it is asked")),
        State::Offered | State::Asked => {}
    }
    assert_eq!(negotiation.round(), 5);
    negotiation
}

type Apply = fn(&mut Negotiation, Instant) -> Result<Vec<Output>, NegotiationError>;
/// For each state in the order of [`STATES`]: the round afterwards and the outputs, or why not.
type Row = (&'static str, Apply, [Result<(u32, Vec<Output>), NegotiationError>; 4]);

fn table(role: Role) -> Vec<Row> {
    let no = || Ok((5, Vec::new()));
    let next = |roll_back| Ok((6, vec![asked(6, "new", roll_back)]));
    let start = || Ok((6, vec![sent(6, offer("new"))]));
    let glare = || if role == Role::Callee { Ok((5, vec![asked(5, "new", true)])) } else { no() };
    let far = || Ok((5, vec![Output::Refused { round: 22 }]));
    let pass = || Ok((5, vec![Output::Candidates { round: 5, candidates: vec!["c".to_owned()] }]));
    vec![
        ("renegotiate", |n, now| n.renegotiate(text("new"), now), [start(), Err(NegotiationError), start(), start()]),
        (
            "answer",
            |n, _| n.answer(5, text("new")),
            [
                Err(NegotiationError),
                Err(NegotiationError),
                Ok((5, vec![sent(5, answer("new"))])),
                Err(NegotiationError),
            ],
        ),
        ("answer an old round", |n, _| n.answer(4, text("new")), [(); 4].map(|()| Err(NegotiationError))),
        (
            "offer of a higher round",
            |n, now| Ok(n.handle_description(6, offer("new"), now)),
            [next(false), next(true), next(false), next(false)],
        ),
        (
            "offer of this round",
            |n, now| Ok(n.handle_description(5, offer("new"), now)),
            [no(), glare(), no(), Ok((5, vec![sent(5, answer("own"))]))],
        ),
        ("offer of a lower round", |n, now| Ok(n.handle_description(4, offer("new"), now)), [no(), no(), no(), no()]),
        ("offer far ahead", |n, now| Ok(n.handle_description(22, offer("new"), now)), [far(), far(), far(), far()]),
        (
            "answer of this round",
            |n, now| Ok(n.handle_description(5, answer("new"), now)),
            [no(), Ok((5, vec![Output::Answer { round: 5, sdp: text("new") }])), no(), no()],
        ),
        ("answer of a lower round", |n, now| Ok(n.handle_description(4, answer("new"), now)), [no(), no(), no(), no()]),
        (
            "answer of a higher round",
            |n, now| Ok(n.handle_description(6, answer("new"), now)),
            [no(), no(), no(), no()],
        ),
        (
            "candidates of this round",
            |n, _| Ok(n.handle_candidates(5, vec!["c".to_owned()]).into_iter().collect()),
            [pass(), pass(), pass(), pass()],
        ),
        (
            "candidates of a lower round",
            |n, _| Ok(n.handle_candidates(4, vec!["c".to_owned()]).into_iter().collect()),
            [no(), no(), no(), no()],
        ),
        (
            "candidates of a higher round",
            |n, _| Ok(n.handle_candidates(6, vec!["c".to_owned()]).into_iter().collect()),
            [no(), no(), no(), no()],
        ),
    ]
}

#[test]
fn every_input_in_every_state_follows_the_table() {
    let now = Instant::now();
    for role in [Role::Caller, Role::Callee] {
        for (what, apply, row) in table(role) {
            for (state, expected) in STATES.into_iter().zip(row) {
                let mut negotiation = at(role, state, now);
                let got = apply(&mut negotiation, now).map(|outputs| (negotiation.round(), outputs));
                assert_eq!(got, expected, "{what} in {state:?} as the {role:?}");
            }
        }
    }
}

#[test]
fn early_candidates_follow_their_description_and_are_bounded() {
    let now = Instant::now();
    let mut negotiation = Negotiation::new(Role::Caller);
    for round in [2, 1, 3, MAX_STEP + 1] {
        assert_eq!(negotiation.handle_candidates(round, vec![format!("of {round}")]), None);
    }
    let outputs = negotiation.handle_description(2, offer("theirs"), now);
    assert_eq!(
        outputs,
        [asked(2, "theirs", false), Output::Candidates { round: 2, candidates: vec!["of 2".to_owned()] }]
    );
    assert_eq!(negotiation.early, [(3, "of 3".to_owned())], "lower rounds and those far ahead are dropped");
    negotiation.handle_candidates(3, vec!["c".to_owned(); 100]);
    assert_eq!(negotiation.early.len(), MAX_EARLY);
    let mut negotiation = Negotiation::new(Role::Caller);
    negotiation.handle_candidates(1, vec!["c".repeat(10_000); 2]);
    assert_eq!(negotiation.early.len(), 1);
}

#[test]
fn an_offer_without_an_answer_is_repeated_and_given_up_after_half_a_minute() {
    let start = Instant::now();
    let mut negotiation = Negotiation::new(Role::Caller);
    assert_eq!(negotiation.poll_timeout(), None);
    negotiation.renegotiate(text("own"), start).expect("nothing is pending");
    let mut times = Vec::new();
    while let Some(due) = negotiation.poll_timeout() {
        assert_eq!(negotiation.handle_timeout(due - Duration::from_millis(1)), None);
        times.push(((due - start).as_secs(), negotiation.handle_timeout(due).expect("it is due")));
    }
    let again = sent(1, offer("own"));
    let given_up = Output::Unanswered { round: 1 };
    assert_eq!(times, [(3, again.clone()), (9, again.clone()), (21, again), (30, given_up)]);
    assert!(negotiation.handle_description(1, answer("late"), start).is_empty());
    assert!(negotiation.renegotiate(text("own"), start).is_ok());
}

#[test]
fn too_many_offers_in_a_minute_are_refused_and_later_ones_accepted() {
    let now = Instant::now();
    let mut negotiation = Negotiation::new(Role::Callee);
    for round in 1..=20 {
        assert_eq!(negotiation.handle_description(round, offer("o"), now), [asked(round, "o", false)]);
    }
    assert_eq!(negotiation.handle_description(21, offer("o"), now), [Output::Refused { round: 21 }]);
    assert_eq!(negotiation.round(), 20);
    assert_eq!(negotiation.handle_description(21, offer("o"), now + WINDOW), [asked(21, "o", false)]);
}

#[test]
fn the_last_round_ends_renegotiation_without_an_overflow() {
    let mut negotiation = Negotiation::new(Role::Caller);
    negotiation.round = u32::MAX;
    assert_eq!(negotiation.renegotiate(text("o"), Instant::now()), Err(NegotiationError));
    assert!(negotiation.handle_description(0, offer("o"), Instant::now()).is_empty());
}

/// A side with its app, which has the signalling states of WebRTC.
struct Side {
    negotiation: Negotiation,
    /// The app's own offer that waits for an answer.
    local: Option<String>,
    /// The other side's offer that the app has to answer.
    remote: Option<(u32, String)>,
    /// The offer and the answer that count.
    settled: Option<(String, String)>,
    name: &'static str,
    made: u32,
}

impl Side {
    fn new(role: Role, name: &'static str) -> Self {
        Self { negotiation: Negotiation::new(role), local: None, remote: None, settled: None, name, made: 0 }
    }

    fn sdp(&mut self) -> String {
        self.made += 1;
        format!("{} {}", self.name, self.made)
    }

    fn renegotiate(&mut self, now: Instant) -> Vec<(u32, Description)> {
        let sdp = self.sdp();
        let Ok(outputs) = self.negotiation.renegotiate(text(&sdp), now) else { return Vec::new() };
        self.remote = None;
        self.local = Some(sdp);
        self.perform(outputs)
    }

    fn answer(&mut self) -> Vec<(u32, Description)> {
        let Some((round, theirs)) = self.remote.take() else { return Vec::new() };
        let sdp = self.sdp();
        self.settled = Some((theirs, sdp.clone()));
        let outputs = self.negotiation.answer(round, text(&sdp)).expect("the app was asked");
        self.perform(outputs)
    }

    fn receive(&mut self, (round, description): (u32, Description), now: Instant) -> Vec<(u32, Description)> {
        let outputs = self.negotiation.handle_description(round, description, now);
        self.perform(outputs)
    }

    fn perform(&mut self, outputs: Vec<Output>) -> Vec<(u32, Description)> {
        let mut messages = Vec::new();
        for output in outputs {
            match output {
                Output::Send { round, description } => messages.push((round, description)),
                Output::Offer { round, sdp, roll_back } => {
                    assert_eq!(roll_back, self.local.take().is_some());
                    self.remote = Some((round, sdp.into_inner()));
                }
                Output::Answer { sdp, .. } => {
                    let own = self.local.take().expect("an offer is pending");
                    self.settled = Some((own, sdp.into_inner()));
                }
                other => panic!("{other:?}"),
            }
        }
        messages
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Renegotiate,
    Answer,
    /// Deliver the message with this index, and keep it for another delivery or not.
    Deliver {
        index: usize,
        again: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let step = prop_oneof![
        1 => Just(Step::Renegotiate),
        2 => Just(Step::Answer),
        4 => (0..8_usize, prop::bool::weighted(0.3)).prop_map(|(index, again)| Step::Deliver { index, again }),
    ];
    prop::collection::vec((any::<bool>(), step), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Messages are repeated and arrive in any order. Once all have arrived, both sides agree on one offer and answer.
    #[test]
    fn both_sides_agree_in_the_end_whatever_the_order(steps in steps(), order in any::<u64>()) {
        let mut now = Instant::now();
        let mut sides = [Side::new(Role::Caller, "caller"), Side::new(Role::Callee, "callee")];
        // The messages to each side.
        let mut queues: [Vec<(u32, Description)>; 2] = [Vec::new(), Vec::new()];
        let run = |sides: &mut [Side; 2], queues: &mut [Vec<(u32, Description)>; 2], at: usize, step, now| {
            let messages = match step {
                Step::Renegotiate => sides[at].renegotiate(now),
                Step::Answer => sides[at].answer(),
                Step::Deliver { .. } if queues[at].is_empty() => Vec::new(),
                Step::Deliver { index, again } => {
                    let index = index % queues[at].len();
                    let message = if again { queues[at][index].clone() } else { queues[at].remove(index) };
                    sides[at].receive(message, now)
                }
            };
            queues[1 - at].extend(messages);
        };
        for (first, step) in steps {
            // Slow enough for the limit of offers.
            now += Duration::from_secs(4);
            run(&mut sides, &mut queues, usize::from(first), step, now);
        }
        let mut random = order;
        while queues.iter().any(|queue| !queue.is_empty()) || sides.iter().any(|side| side.remote.is_some()) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += Duration::from_secs(4);
            let (at, index) = ((random >> 63) as usize, (random >> 33) as usize);
            let step = if random & 1 << 40 == 0 { Step::Answer } else { Step::Deliver { index, again: false } };
            run(&mut sides, &mut queues, at, step, now);
        }
        let [caller, callee] = &sides;
        prop_assert_eq!(caller.negotiation.round(), callee.negotiation.round());
        prop_assert_eq!(&caller.local, &None);
        prop_assert_eq!(&callee.local, &None);
        prop_assert_eq!(&caller.settled, &callee.settled);
    }
}

fn received(outputs: Vec<Output>) -> Vec<Value> {
    outputs
        .into_iter()
        .map(|output| match output {
            Output::Send { round, description } => {
                json!({"send": Ice { candidates: Vec::new(), round, description: Some(description) }})
            }
            Output::Offer { round, sdp, roll_back } => {
                json!({"offer": {"round": round, "sdp": *sdp, "rollBack": roll_back}})
            }
            Output::Answer { round, sdp } => json!({"answer": {"round": round, "sdp": *sdp}}),
            Output::Candidates { round, candidates } => {
                json!({"candidates": {"round": round, "candidates": candidates}})
            }
            Output::Refused { round } => json!({"refused": {"round": round}}),
            Output::Unanswered { round } => json!({"unanswered": {"round": round}}),
        })
        .collect()
}

#[test]
fn the_vectors_lead_to_their_outputs_on_both_sides() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let cases = vectors["cases"].as_array().expect("a list");
    assert!(cases.iter().any(|case| case["role"] == "caller") && cases.iter().any(|case| case["role"] == "callee"));
    let now = Instant::now();
    for case in cases {
        let role = if case["role"] == "caller" { Role::Caller } else { Role::Callee };
        let mut negotiation = Negotiation::new(role);
        for step in case["steps"].as_array().expect("a list") {
            let input = &step["input"];
            let sdp = |of: &Value| text(of["sdp"].as_str().expect("a text"));
            let outputs = if let Some(own) = input.get("renegotiate") {
                negotiation.renegotiate(sdp(own), now)
            } else if let Some(own) = input.get("answer") {
                negotiation.answer(own["round"].as_u64().expect("a number").try_into().expect("a round"), sdp(own))
            } else {
                let ice: Ice = serde_json::from_value(input["receive"].clone()).expect("a message");
                let described =
                    ice.description.map(|description| negotiation.handle_description(ice.round, description, now));
                let mut outputs = described.unwrap_or_default();
                outputs.extend(negotiation.handle_candidates(ice.round, ice.candidates));
                Ok(outputs)
            };
            let name = format!("{} as the {role:?}: {input}", case["name"]);
            match outputs {
                Ok(outputs) => assert_eq!(Value::from(received(outputs)), step["outputs"], "{name}"),
                Err(_) => assert_eq!(step["error"], true, "{name}"),
            }
            assert_eq!(negotiation.round(), step["round"], "{name}");
        }
    }
}
