//! The time, as the driver passes it in.

use std::time::{Duration, Instant};

/// The current time of two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock, by which lifetimes are measured.
    pub monotonic: Instant,
    /// Seconds since 1970, in which credentials expire.
    pub unix: u64,
}

/// Whole seconds since the server started. Takes four bytes, where an `Instant` takes sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(u32);

impl Seconds {
    /// The seconds from `start` to `now`.
    pub fn between(start: Instant, now: Instant) -> Self {
        Self(u32::try_from(now.saturating_duration_since(start).as_secs()).unwrap_or(u32::MAX))
    }

    /// The moment `seconds` later.
    #[must_use]
    pub const fn plus(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The time from the start until this moment.
    pub fn since_start(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}
