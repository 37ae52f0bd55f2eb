//! Virtual time.

use std::{
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use chappe_common::time::UnixTime;
use chappe_node::membership::Now;

/// What the wall clocks show when virtual time begins.
const START: u64 = 1_800_000_000;

/// Microseconds since virtual time began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// A time that never comes.
    pub(super) const fn from_far() -> Self {
        Self(u64::MAX / 2)
    }

    /// When virtual time begins.
    pub const ZERO: Self = Self(0);

    /// The time that an engine is told.
    pub(super) fn now(self, base: Instant) -> Now {
        let at = base + Duration::from_micros(self.0);
        Now { at, clock: UnixTime::from_secs(START + self.0 / 1_000_000) }
    }

    /// The first time at or after an instant: an engine that is woken too early would ask again and again.
    pub(super) fn at_or_after(instant: Instant, base: Instant) -> Self {
        let nanos = instant.saturating_duration_since(base).as_nanos();
        Self(u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// As a number, for hashes.
    pub(super) const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since virtual time began.
    #[expect(clippy::cast_precision_loss, reason = "a virtual century fits")]
    pub const fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// How long after `earlier` this is; zero where it is not after it.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
