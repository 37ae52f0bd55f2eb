//! The wall clock, as signed notes need it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chappe_common::time::UnixTime;

/// A wall clock: the machine's, or one that is off. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds by which it is ahead of the machine's.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that goes before the machine's by this much: for tests of what a wrong clock does.
    pub fn ahead(ahead: Duration) -> Self {
        Self::off_by(i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX))
    }

    /// A clock that goes after the machine's by this much.
    pub fn behind(behind: Duration) -> Self {
        Self::off_by(-i64::try_from(behind.as_millis()).unwrap_or(i64::MAX))
    }

    fn off_by(millis: i64) -> Self {
        Self { ahead: Arc::new(AtomicI64::new(millis)) }
    }

    /// Sets the clock by that of the machine: from now on it is off by as much as `other`, as a clock is that is set while
    /// programs run.
    pub fn set_like(&self, other: &Self) {
        self.ahead.store(other.ahead.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The time in seconds since 1970.
    pub fn now(&self) -> UnixTime {
        self.time().into()
    }

    /// The time in milliseconds since 1970.
    pub fn millis(&self) -> u64 {
        let since = self.time().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn time(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
}
