//! The wall clock, as signed notes need it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chappe_common::time::UnixTime;

/// A wall clock: the machine's, or one that is off by a fixed time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    ahead: Duration,
    behind: Duration,
}

impl Clock {
    /// A clock that goes before the machine's by this much: for tests of what a wrong clock does.
    pub const fn ahead(ahead: Duration) -> Self {
        Self { ahead, behind: Duration::ZERO }
    }

    /// A clock that goes after the machine's by this much.
    pub const fn behind(behind: Duration) -> Self {
        Self { ahead: Duration::ZERO, behind }
    }

    /// The time in seconds since 1970.
    pub fn now(self) -> UnixTime {
        self.time().into()
    }

    /// The time in milliseconds since 1970.
    pub fn millis(self) -> u64 {
        let since = self.time().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn time(self) -> SystemTime {
        SystemTime::now() + self.ahead - self.behind
    }
}
