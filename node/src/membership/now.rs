//! The time, as the engine is given it.

use std::time::Instant;

use chappe_common::time::UnixTime;

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock: for waiting.
    pub at: Instant,
    /// The wall clock: for what is signed.
    pub clock: UnixTime,
}
