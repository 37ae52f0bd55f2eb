//! Every attack, small and short: nothing honest is lost, nothing panics, and what is refused is counted.

use chappe_flood::run::{Course, run};
use chappe_harness::figures::Figures;

#[tokio::test(flavor = "multi_thread")]
async fn the_honest_lose_nothing_while_others_attack() {
    assert!(run(Figures::from_args(), &Course { only: None, quick: true }).await, "see the lines with «!»");
}
