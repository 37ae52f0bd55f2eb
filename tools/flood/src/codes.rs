//! What an attacker learns by guessing codes: the text and the time of a refusal.

use std::time::Duration;

use chappe_harness::figures::{Figures, percentile};
use chappe_testkit::raw::key_of;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    client::code_of,
    floods::random_code,
    hostile_source,
    node::Victim,
    plan::{Plan, Tally},
    wire::{Said, Takes, Wire},
};

/// Guesses of each kind, each from its own address.
const GUESSES: u32 = 40;
/// Guesses of all kinds in a second.
const GUESSES_PER_SECOND: u32 = 30;
/// The node's bound on requests that wait for one code.
const WAITING: u32 = 10;
/// The most by which the medians may differ, in milliseconds: a wake-up on a busy machine.
const APART: f64 = 5.0;

/// Guesses codes that nobody has, the own code, and a code for which as many requests wait as may, and compares the
/// refusals. A code in use isn't compared: by the protocol its requester gets no answer until the owner gives one.
///
/// # Panics
/// A guess gets no answer, or another text.
pub async fn measure(figures: Figures, node: &Victim) -> bool {
    let plan = Plan {
        node: node.addr,
        quic: node.quic,
        id: node.id.clone(),
        until: Instant::now() + Duration::from_secs(60),
        quick: false,
        tally: Tally::default(),
    };
    let owner = registered(&plan, 3_000, "PXPXPX").await.expect("a session");
    let mut asking = Vec::new();
    for number in 0..WAITING {
        let mut wire = registered(&plan, 3_100 + number, &random_code()).await.expect("a session");
        ask(&mut wire, "PXPXPX").await;
        asking.push(wire);
    }
    let kinds = ["nobody's", "one's own", "one for which ten wait"];
    let (mut guesses, since) = (JoinSet::new(), Instant::now());
    // Alternate the kinds, so that the machine's load is the same for all.
    for turn in 0..GUESSES * 3 {
        let (plan, kind) = (plan.clone(), turn as usize % kinds.len());
        guesses.spawn(async move {
            let own = random_code();
            let mut wire = registered(&plan, turn, &own).await.expect("a session");
            let target = [random_code(), own, "PXPXPX".to_owned()][kind].clone();
            plan.turn(since, u64::from(turn), GUESSES_PER_SECOND).await;
            let since = Instant::now();
            ask(&mut wire, &target).await;
            let answer = timeout(Duration::from_secs(5), wire.next()).await.expect("an answer").expect("an answer");
            let refusal = r#"{"type":"pair_error","error":"Pair request could not be processed"}"#;
            assert_eq!(answer, Said::Text(refusal.to_owned()), "a guess of a code, {}", kinds[kind]);
            (kind, since.elapsed().as_secs_f64() * 1000.0)
        });
    }
    let guesses = guesses.join_all().await;
    let medians = [0, 1, 2].map(|kind| {
        let mut times: Vec<_> = guesses.iter().filter(|guess| guess.0 == kind).map(|guess| guess.1).collect();
        let median = percentile(&mut times, 0.5);
        figures.print(&format!("guessing a code, {}: until the refusal, p50", kinds[kind]), median, "ms", None);
        median
    });
    drop((owner, asking));
    let apart = medians.iter().fold(0.0_f64, |most, one| most.max((one - medians[0]).abs()));
    figures.print("guessing a code: by how much the medians differ", apart, "ms", Some(APART))
}

async fn ask(wire: &mut Wire, target: &str) {
    let ask = json!({"type": "pair_request", "targetCode": target}).to_string();
    wire.say(&ask).await.expect("an open connection");
}

/// Registers a session with this code.
async fn registered(plan: &Plan, source: u32, code: &str) -> Option<Wire> {
    let (mut wire, _) = Wire::open(hostile_source(source), plan.node, Takes::All).await.ok()?;
    let register = json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)});
    wire.say(&register.to_string()).await.ok()?;
    match wire.next().await.ok()? {
        Said::Text(text) if code_of(&text) == "registered" => Some(wire),
        _ => None,
    }
}
