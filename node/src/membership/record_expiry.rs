//! Whether records may expire now. A wall clock that was set makes all of them look too old or too new at once, and without
//! the others' records a node can't find back.

use std::time::{Duration, Instant};

use super::now::Now;

/// A wall clock that differs by more than this from the monotonic one since the last check was set.
const STEP: Duration = Duration::from_secs(60);
/// How long no record expires after that: until then it is known which time was right.
const PATIENCE: Duration = Duration::from_secs(600);

/// Compares the two clocks.
#[derive(Debug)]
pub(super) struct RecordExpiry {
    checked: Now,
    paused_until: Instant,
}

impl RecordExpiry {
    pub(super) const fn new(now: Now) -> Self {
        Self { checked: now, paused_until: now.at }
    }

    /// Compares the clocks since the last check.
    pub(super) fn check_clocks(&mut self, now: Now) {
        let expected = self.checked.clock + now.at.saturating_duration_since(self.checked.at);
        if now.clock.saturating_since(expected).max(expected.saturating_since(now.clock)) > STEP {
            self.paused_until = now.at + PATIENCE;
        }
        self.checked = now;
    }

    /// Whether records may expire.
    pub(super) fn is_allowed(&self, now: Instant) -> bool {
        now >= self.paused_until
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::time::UnixTime;

    use super::*;

    #[test]
    fn records_stay_for_a_while_after_the_clock_was_set_and_no_longer() {
        let (at, clock) = (Instant::now(), UnixTime::from_secs(1_000_000));
        let mut expiry = RecordExpiry::new(Now { at, clock });
        let second = Duration::from_secs(1);
        expiry.check_clocks(Now { at: at + second, clock: clock + second });
        assert!(expiry.is_allowed(at + second), "the clocks agree");
        let set = Now { at: at + 2 * second, clock: clock + 10 * PATIENCE };
        expiry.check_clocks(set);
        assert!(!expiry.is_allowed(set.at));
        let later = Now { at: set.at + PATIENCE, clock: set.clock + PATIENCE };
        expiry.check_clocks(later);
        assert!(expiry.is_allowed(later.at));
    }
}
