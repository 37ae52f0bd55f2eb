//! What the tests of several crates share: a real federation in one process, and clients that speak raw frames.
//!
//! Nothing waits for ever: every await here has a deadline, and a test that misses it says what it waited for.

pub mod altered;
pub mod bench;
pub mod ca;
pub mod faults;
pub mod federation;
pub mod figures;
pub mod flood;
pub mod hosts;
pub mod link;
pub mod people;
pub mod process;
pub mod raw;
pub mod simulation;

/// How long a test waits for what has to happen. Generous: a loaded machine is no reason to fail.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
/// It doesn't within [`PATIENCE`]; `what` says which.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
