//! The probe results of a node: whether it answers now, and how often it did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Millis;

/// Number of stored results: three hours with a probe every five minutes.
const HISTORY: u8 = 32;
/// Divisor of the probe interval after a failure. So a dead node leaves the list within minutes, and a node that lost a
/// packet soon counts as responsive again.
const FAILURE_SPEEDUP: u32 = 5;

/// The results of a node's last probes, and when the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeHistory {
    /// The last results, with the newest in the lowest bit. 1 is an answer.
    results: u32,
    /// Number of valid bits in `results`.
    known: u8,
    /// Number of consecutive failures up to now.
    failures: u8,
    /// When the next probe is due, in milliseconds since 1970.
    due: u64,
}

impl ProbeHistory {
    /// The state of a node that has just proved its key in order to be listed.
    pub(crate) const fn after_registration(now: Millis, every: Duration) -> Self {
        Self { results: 1, known: 1, failures: 0, due: now.0 + every.as_millis() as u64 }
    }

    /// Adds a result. `jitter` from 0 to 1 spreads the probes of nodes that registered together.
    #[must_use]
    pub(crate) fn with_result(self, answered: bool, now: Millis, every: Duration, jitter: f64) -> Self {
        Self {
            results: self.results << 1 | u32::from(answered),
            known: self.known.saturating_add(1).min(HISTORY),
            failures: if answered { 0 } else { self.failures.saturating_add(1) },
            due: due(now, if answered { every } else { every / FAILURE_SPEEDUP }, jitter),
        }
    }

    /// The same, with the next probe as soon as after a failure.
    #[must_use]
    pub(crate) fn sooner(self, now: Millis, every: Duration, jitter: f64) -> Self {
        Self { due: due(now, every / FAILURE_SPEEDUP, jitter), ..self }
    }

    /// Number of failed probes since the last answer.
    pub(crate) const fn failures(self) -> u8 {
        self.failures
    }

    pub(crate) const fn due(self) -> Millis {
        Millis(self.due)
    }

    /// Percentage of the last probes that were answered.
    pub(crate) fn answered_percent(self) -> u32 {
        let known = u32::from(self.known.clamp(1, HISTORY));
        let mask = u32::MAX >> (u32::from(HISTORY) - known);
        (self.results & mask).count_ones() * 100 / known
    }
}

fn due(now: Millis, pause: Duration, jitter: f64) -> u64 {
    now.0 + pause.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(300);

    #[test]
    fn answers_are_counted_over_the_last_probes() {
        let mut probes = ProbeHistory::after_registration(Millis(0), EVERY);
        assert_eq!(probes.answered_percent(), 100);
        for _ in 0..3 {
            probes = probes.with_result(false, Millis(0), EVERY, 0.5);
        }
        assert_eq!((probes.answered_percent(), probes.failures()), (25, 3));
        for _ in 0..32 {
            probes = probes.with_result(true, Millis(0), EVERY, 0.5);
        }
        assert_eq!((probes.answered_percent(), probes.failures()), (100, 0));
    }

    #[test]
    fn a_failure_is_looked_into_sooner() {
        let first = ProbeHistory::after_registration(Millis(1000), EVERY);
        assert_eq!(first.with_result(true, Millis(1000), EVERY, 0.5).due(), Millis(301_000));
        assert_eq!(first.with_result(false, Millis(1000), EVERY, 0.5).due(), Millis(61_000));
        assert_eq!(first.with_result(true, Millis(1000), EVERY, 0.0).due(), Millis(226_000));
        assert_eq!(first.with_result(true, Millis(1000), EVERY, 1.0).due(), Millis(376_000));
    }
}
