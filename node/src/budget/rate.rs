//! Whether this machine uses more bytes a second than the operator has set. Pure.

use std::time::Duration;

/// How long the machine may use twice its rate, if it was idle before: joining a federation and a burst of calls need less.
const BURST: Duration = Duration::from_secs(60);

/// A token bucket. Invariant: there are at most as many tokens as [`BURST`] brings, and at least as many are missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateBudget {
    bytes_per_second: u64,
    tokens: i64,
    is_exceeded: bool,
}

impl RateBudget {
    /// Begins with a full bucket.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let mut budget = Self { bytes_per_second, tokens: 0, is_exceeded: false };
        budget.tokens = budget.tokens_of(BURST);
        budget
    }

    fn tokens_of(&self, time: Duration) -> i64 {
        let tokens = u128::from(self.bytes_per_second) * time.as_millis() / 1000;
        i64::try_from(tokens).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
    }

    /// Takes the bytes used in the time since the last call. Returns whether the rate is exceeded for long: from when the bucket
    /// is empty until it is half full again.
    pub(crate) fn handle_usage(&mut self, bytes: u64, elapsed: Duration) -> bool {
        let (most, refill) = (self.tokens_of(BURST), self.tokens_of(elapsed));
        let used = i64::try_from(bytes).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        self.tokens = (self.tokens + refill - used).clamp(-most, most);
        self.is_exceeded = if self.is_exceeded { self.tokens < most / 2 } else { self.tokens <= 0 };
        self.is_exceeded
    }

    /// What the last call returned.
    pub(crate) const fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1_000_000;
    const STEP: Duration = Duration::from_secs(5);

    fn steps_until(budget: &mut RateBudget, bytes: u64, exceeded: bool) -> usize {
        (1..1000).find(|_| budget.handle_usage(bytes, STEP) == exceeded).expect("it changes")
    }

    #[test]
    fn twice_the_rate_is_exceeded_after_a_minute_and_nothing_is_after_half_of_one_without_traffic() {
        let mut budget = RateBudget::new(RATE);
        assert_eq!(steps_until(&mut budget, 2 * RATE * 5, true), 12);
        assert_eq!(steps_until(&mut budget, 0, false), 6);
        // It needs as long again: it does not alternate with each step.
        assert_eq!(steps_until(&mut budget, 2 * RATE * 5, true), 6);
    }

    #[test]
    fn a_flood_of_any_size_is_over_in_time() {
        let mut budget = RateBudget::new(RATE);
        assert!(budget.handle_usage(u64::MAX, STEP));
        assert_eq!(steps_until(&mut budget, 0, false), 18, "ninety seconds");
    }

    proptest! {
        #[test]
        fn traffic_within_the_rate_is_never_exceeded(
            rate in 1u64..1 << 50,
            steps in proptest::collection::vec((1u64..100, 0u64..100), 100),
        ) {
            let mut budget = RateBudget::new(rate);
            for (seconds, percent) in steps {
                prop_assert!(!budget.handle_usage(rate * seconds * percent / 100, Duration::from_secs(seconds)));
            }
        }
    }
}
