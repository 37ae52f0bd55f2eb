//! What the tests of several crates and the measurement programs share: a federation in one process, clients that send
//! raw frames, links that are no node's, simulated members, and tests that run again in a process of their own.
//!
//! Every await has a deadline. A test that misses it panics and names what it waited for.

pub mod altered;
pub mod ca;
#[cfg(feature = "federation")]
pub mod federation;
pub mod http;
pub mod link;
pub mod members;
#[cfg(feature = "federation")]
pub mod people;
pub mod raw;
pub mod rerun;
pub mod tls;

/// The deadline of each await in a test. Generous, so that a loaded machine fails no test.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
/// It doesn't within [`PATIENCE`]; the message contains `what`.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
