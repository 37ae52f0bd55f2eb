//! What probing has found out about one node: whether it answers now, and how often it did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Millis;

/// As many results as are remembered: about three hours of probes every five minutes.
const REMEMBERED: u8 = 32;
/// After a failure the next probe comes this much sooner: who is gone leaves the list within minutes, and a node whose
/// packet was lost is soon cleared.
const SOONER: u32 = 5;

/// The results of the last probes of a node, and when the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probes {
    /// The last results, the newest in the lowest bit; 1 is an answer.
    results: u32,
    /// How many of the bits are results.
    known: u8,
    /// How many of the last probes failed in a row.
    failures: u8,
    /// When the next one is due, in milliseconds since 1970.
    due: u64,
}

impl Probes {
    /// Those of a node that has just proved its key to be listed.
    pub(crate) const fn first(now: Millis, every: Duration) -> Self {
        Self { results: 1, known: 1, failures: 0, due: now.0 + every.as_millis() as u64 }
    }

    /// With one more result. `jitter` is from 0 to 1: probes of nodes that registered together drift apart.
    #[must_use]
    pub(crate) fn with(self, answered: bool, now: Millis, every: Duration, jitter: f64) -> Self {
        let pause = if answered { every } else { every / SOONER }.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        Self {
            results: self.results << 1 | u32::from(answered),
            known: self.known.saturating_add(1).min(REMEMBERED),
            failures: if answered { 0 } else { self.failures.saturating_add(1) },
            due: now.0 + pause.as_millis() as u64,
        }
    }

    /// How many probes failed since the last answer.
    pub(crate) const fn failures(self) -> u8 {
        self.failures
    }

    /// When the next probe is due.
    pub(crate) const fn due(self) -> Millis {
        Millis(self.due)
    }

    /// Which part of the last probes was answered, in percent.
    pub(crate) fn answered(self) -> u32 {
        let known = u32::from(self.known.clamp(1, REMEMBERED));
        let mask = u32::MAX >> (u32::from(REMEMBERED) - known);
        (self.results & mask).count_ones() * 100 / known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(300);

    #[test]
    fn what_was_answered_is_counted_over_the_last_probes() {
        let mut probes = Probes::first(Millis(0), EVERY);
        assert_eq!(probes.answered(), 100);
        for _ in 0..3 {
            probes = probes.with(false, Millis(0), EVERY, 0.5);
        }
        assert_eq!((probes.answered(), probes.failures()), (25, 3));
        for _ in 0..32 {
            probes = probes.with(true, Millis(0), EVERY, 0.5);
        }
        assert_eq!((probes.answered(), probes.failures()), (100, 0));
    }

    #[test]
    fn a_failure_is_looked_into_sooner() {
        let first = Probes::first(Millis(1000), EVERY);
        assert_eq!(first.with(true, Millis(1000), EVERY, 0.5).due(), Millis(301_000));
        assert_eq!(first.with(false, Millis(1000), EVERY, 0.5).due(), Millis(61_000));
        assert_eq!(first.with(true, Millis(1000), EVERY, 0.0).due(), Millis(226_000));
        assert_eq!(first.with(true, Millis(1000), EVERY, 1.0).due(), Millis(376_000));
    }
}
