//! The wall clock for signed statements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chappe_common::time::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Returns a time as people read it, such as `2026-12-01T00:00:00Z`.
pub(crate) fn rfc3339(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The machine's wall clock, with an optional offset. Clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Offset to the machine's clock in milliseconds, positive if ahead.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// Creates a clock that is ahead of the machine's, for tests of wrong clocks.
    pub fn ahead(ahead: Duration) -> Self {
        Self::off_by(i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX))
    }

    /// Creates a clock that is behind the machine's.
    pub fn behind(behind: Duration) -> Self {
        Self::off_by(-i64::try_from(behind.as_millis()).unwrap_or(i64::MAX))
    }

    fn off_by(millis: i64) -> Self {
        Self { ahead: Arc::new(AtomicI64::new(millis)) }
    }

    /// Takes over the offset of `other`, like setting a clock while programs run.
    pub fn set_like(&self, other: &Self) {
        self.ahead.store(other.ahead.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Returns the time in seconds since 1970.
    pub fn now(&self) -> UnixTime {
        self.time().into()
    }

    /// Returns the time in milliseconds since 1970.
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
