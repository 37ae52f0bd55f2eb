//! Decides whether records may expire now. After the wall clock was set, all records may look too old at once, and
//! without records of other nodes a node can't rejoin.

use std::time::{Duration, Instant};

use super::now::Now;

/// The wall clock was set if it differs by more than this from the monotonic clock since the last check.
const STEP: Duration = Duration::from_secs(60);
/// For this time after the clock was set, no record expires. By then it is known which time is correct.
const PATIENCE: Duration = Duration::from_secs(600);

/// Compares the two clocks to detect that the wall clock was set.
#[derive(Debug)]
pub(super) struct RecordExpiry {
    checked: Now,
    paused_until: Instant,
}

impl RecordExpiry {
    pub(super) const fn new(now: Now) -> Self {
        Self { checked: now, paused_until: now.at }
    }

    /// Compares how far both clocks have advanced since the last check.
    pub(super) fn check_clocks(&mut self, now: Now) {
        let expected = self.checked.clock + now.at.saturating_duration_since(self.checked.at);
        if now.clock.saturating_since(expected).max(expected.saturating_since(now.clock)) > STEP {
            self.paused_until = now.at + PATIENCE;
        }
        self.checked = now;
    }

    /// Returns whether records may expire.
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
