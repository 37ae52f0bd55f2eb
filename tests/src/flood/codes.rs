//! What a stranger who guesses codes can see: the words and the time of a refusal.

use std::time::Duration;

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    attack::{Plan, Tally},
    floods::{random_code, registered},
    node::Victim,
    wire::{Said, Wire},
};
use crate::figures::{Figures, percentile};

/// Guesses of each kind, each from an address of its own.
const GUESSES: u32 = 40;
/// How many may wait for one code.
const WAITING: u32 = 10;
/// By how many milliseconds the medians may differ: by what one wake-up may take on a busy machine.
const APART: f64 = 5.0;

/// Guesses codes that nobody has, one's own, and one for which enough wait already, and compares what comes of it. A code
/// that somebody has is another matter: the protocol answers nothing until its owner does.
///
/// # Panics
/// A guess is answered by nothing, or with other words.
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
    let mut medians = Vec::new();
    for (kind, first) in [("nobody's", 0), ("one's own", 1_000), ("one for which ten wait", 2_000)] {
        let mut guesses = JoinSet::new();
        for number in 0..GUESSES {
            let plan = plan.clone();
            guesses.spawn(async move {
                let own = random_code();
                let mut wire = registered(&plan, first + number, &own).await.expect("a session");
                let target = match first {
                    0 => random_code(),
                    1_000 => own,
                    _ => "PXPXPX".to_owned(),
                };
                let since = Instant::now();
                ask(&mut wire, &target).await;
                let answer = timeout(Duration::from_secs(5), wire.next()).await.expect("an answer").expect("an answer");
                let refusal = r#"{"type":"pair_error","error":"Pair request could not be processed"}"#;
                assert_eq!(answer, Said::Text(refusal.to_owned()), "a guess of {kind}");
                since.elapsed().as_secs_f64() * 1000.0
            });
        }
        let mut times = guesses.join_all().await;
        let median = percentile(&mut times, 0.5);
        figures.print(&format!("guessing a code, {kind}: until the refusal, p50"), median, "ms", None);
        medians.push(median);
    }
    drop((owner, asking));
    let apart = medians.iter().fold(0.0_f64, |most, one| most.max((one - medians[0]).abs()));
    figures.print("guessing a code: by how much the medians differ", apart, "ms", Some(APART))
}

async fn ask(wire: &mut Wire, target: &str) {
    let ask = json!({"type": "pair_request", "targetCode": target}).to_string();
    wire.say(&ask).await.expect("an open connection");
}
