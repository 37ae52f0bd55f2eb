//! The time that is passed to the engine.

use std::time::Instant;

use chappe_common::time::UnixTime;

/// The time of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock, for deadlines.
    pub at: Instant,
    /// The wall clock, for signed notes.
    pub clock: UnixTime,
}
