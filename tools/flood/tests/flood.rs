//! Every attack, small and short: the baseline loses nothing, nothing panics, and each refusal is counted.

use chappe_flood::run::{Course, run};
use chappe_harness::figures::Figures;

#[tokio::test(flavor = "multi_thread")]
async fn the_honest_lose_nothing_while_others_attack() {
    assert!(run(Figures::from_args(), &Course { only: None, quick: true }).await, "see the lines with «!»");
}
