//! When to order a certificate, and when to renew it. Pure: callers supply the time and random numbers.

use std::time::Duration;

use chappe_common::time::UnixTime;
use serde::{Deserialize, Serialize};

use crate::websocket::validity::Validity;

/// Maximum number of failed validations within an hour. Let's Encrypt allows five for each host, then no more until
/// some of them are an hour old.
pub(crate) const MAX_VALIDATIONS: usize = 4;
const HOUR: Duration = Duration::from_secs(3600);

/// Pause after the first failure. Each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
/// Maximum pause while the authority cannot be reached: requests are cheap then.
const MAX_PAUSE_UNREACHABLE: Duration = HOUR;
/// Maximum pause after refusals: they rarely end without the operator.
const MAX_PAUSE_REFUSED: Duration = Duration::from_secs(12 * 3600);
/// Pause while the disk is full: the authority is not asked.
const DISK_PAUSE: Duration = Duration::from_secs(5);
/// Maximum wait that an authority may ask for. A longer one is a mistake of its clock.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Below this life, certificates are renewed after half of it instead of two thirds: of a few days, a failed weekend
/// must not take all.
const SHORT_LIFE: Duration = Duration::from_secs(10 * 24 * 3600);
/// The part of the life over which renewals are spread.
const SPREAD: f64 = 0.05;
/// A renewal begins while at least this part of the life is left, even if the authority suggests a later time.
const MIN_LEFT: f64 = 0.1;
/// Minimum age of a certificate that is renewed, unless an eighth of its life is less: an authority that always suggests
/// «now» would otherwise be asked in a loop.
const MIN_AGE: Duration = Duration::from_secs(6 * 3600);

/// Allowed intervals between questions for the authority's renewal window (RFC 9773, 4.3.2).
const WINDOW_CHECKS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(24 * 3600)];
/// Interval if the authority names none, or does not answer.
pub(crate) const WINDOW_CHECK: Duration = Duration::from_secs(6 * 3600);

/// Why an attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The authority did not answer, or has a problem itself.
    Unreachable,
    /// It refused something, or could not validate a host.
    Refused,
    /// The state could not be stored, so the authority was not asked.
    Disk,
}

/// The failed attempts, stored on disk: restarts must not exceed the authority's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// When validations were requested that have not succeeded.
    validations: Vec<UnixTime>,
    /// Failures since the last success.
    failures: u32,
    /// No attempt before this time, because of earlier failures.
    paused_until: UnixTime,
    /// No attempt before this time, because the authority said so.
    retry_after: UnixTime,
}

impl Attempts {
    /// Forgets the pause, but not the validations: the operator may have repaired something before the restart.
    pub(crate) const fn restarted(mut self) -> Self {
        self.paused_until = UnixTime::from_secs(0);
        self
    }

    /// Returns when the next attempt may begin. Times in the future are left from a clock that was ahead, and count as now.
    pub(crate) fn next(&mut self, now: UnixTime) -> UnixTime {
        self.paused_until = self.paused_until.min(now + MAX_PAUSE_REFUSED * 2);
        self.retry_after = self.retry_after.min(now + MAX_RETRY_AFTER);
        for at in &mut self.validations {
            *at = (*at).min(now);
        }
        self.validations.retain(|at| *at + HOUR > now);
        self.validations.sort();
        let over = self.validations.len().checked_sub(MAX_VALIDATIONS).map(|index| self.validations[index] + HOUR);
        now.max(self.paused_until).max(self.retry_after).max(over.unwrap_or(now))
    }

    /// Records that hosts will be validated now. To be stored before.
    pub(crate) fn start_validation(&mut self, now: UnixTime) {
        if self.validations.len() >= MAX_VALIDATIONS {
            self.validations.remove(0);
        }
        self.validations.push(now);
    }

    /// Records a failure. `random` is in 0..1.
    pub(crate) fn fail(&mut self, now: UnixTime, kind: FailureKind, retry_after: Option<UnixTime>, random: f64) {
        let max = match kind {
            FailureKind::Unreachable => MAX_PAUSE_UNREACHABLE,
            FailureKind::Refused => MAX_PAUSE_REFUSED,
            FailureKind::Disk => {
                self.paused_until = now + DISK_PAUSE.mul_f64(1.0 + random);
                return;
            }
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = now + pause.mul_f64(1.0 + random);
        self.retry_after = retry_after.unwrap_or_default();
    }

    /// Records a success.
    pub(crate) fn succeed(&mut self) {
        *self = Self::default();
    }
}

/// When a certificate is renewed. Stored with it, so that a restart asks the authority nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Renewal {
    /// When this node has received the certificate.
    issued_at: UnixTime,
    /// When the renewal begins, within the bounds of [`Renewal::next`].
    at: UnixTime,
    /// When the authority is asked for its window again. `None` if it offers none.
    check_at: Option<UnixTime>,
    /// Whether `at` is in a window that the authority has suggested.
    is_suggested: bool,
}

impl Renewal {
    /// The schedule of a new certificate. `random` is in 0..1.
    pub(crate) fn new(validity: Validity, now: UnixTime, random: f64) -> Self {
        let life = validity.life();
        let part = if life < SHORT_LIFE { 1.0 / 2.0 } else { 2.0 / 3.0 };
        let at = validity.starts_at + life.mul_f64(part + SPREAD * random);
        let check_at = Some(now + WINDOW_CHECK.min(life.mul_f64(0.1)));
        Self { issued_at: now, at, check_at, is_suggested: false }
    }

    /// Returns when the renewal begins. Times in the future are left from a clock that was ahead, and count as now.
    pub(crate) fn next(&mut self, validity: Validity, now: UnixTime) -> UnixTime {
        self.issued_at = self.issued_at.min(now);
        let latest = validity.starts_at + validity.life().mul_f64(1.0 - MIN_LEFT);
        // A certificate may be issued long after its validity has begun.
        let earliest = self.issued_at + MIN_AGE.min(validity.life() / 8);
        self.at.min(latest).max(earliest)
    }

    /// Returns when the authority is asked for its window again. `None` if it offers none.
    pub(crate) fn next_check(&mut self, now: UnixTime) -> Option<UnixTime> {
        self.check_at = self.check_at.map(|at| at.min(now + WINDOW_CHECKS[1]));
        self.check_at
    }

    /// Whether the authority has suggested a window.
    pub(crate) const fn is_suggested(&self) -> bool {
        self.is_suggested
    }

    /// Takes over a window that the authority suggests. A time that was chosen in the same window stays. `random` is in 0..1.
    pub(crate) fn suggest(&mut self, window: [UnixTime; 2], random: f64) {
        let [start, end] = window;
        if end <= start || (self.is_suggested && (start..end).contains(&self.at)) {
            return;
        }
        (self.at, self.is_suggested) = (start + end.saturating_since(start).mul_f64(random), true);
    }

    /// Schedules the next question for the window. `after` is the interval that the authority has named, or `None` if it
    /// offers no windows.
    pub(crate) fn check_again(&mut self, now: UnixTime, after: Option<Duration>) {
        let [min, max] = WINDOW_CHECKS;
        self.check_at = after.map(|after| now + after.clamp(min, max));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const START: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn validity(life: Duration) -> Validity {
        Validity { starts_at: START, expires_at: START + life }
    }

    fn since_start(time: UnixTime) -> Duration {
        time.saturating_since(START)
    }

    #[test]
    fn a_long_certificate_is_renewed_after_two_thirds_and_a_short_one_after_half() {
        for (life, part) in [(90, 2.0 / 3.0), (6, 0.5)] {
            let life = DAY * life;
            let at = |random| {
                since_start(Renewal::new(validity(life), START, random).next(validity(life), START)).as_secs_f64()
            };
            assert!((at(0.0) - life.as_secs_f64() * part).abs() < 2.0);
            assert!((at(1.0) - life.as_secs_f64() * (part + SPREAD)).abs() < 2.0);
        }
    }

    #[test]
    fn a_time_in_the_window_is_chosen_once() {
        let validity = validity(DAY * 90);
        let mut renewal = Renewal::new(validity, START, 0.5);
        let mut suggest = |first: UnixTime, last: UnixTime, random| {
            renewal.suggest([first, last], random);
            since_start(renewal.next(validity, START))
        };
        let day = |day: u32| START + DAY * day;
        assert_eq!(suggest(day(50), day(60), 0.5), DAY * 55);
        assert_eq!(suggest(day(50), day(60), 0.9), DAY * 55, "the same window");
        assert_eq!(suggest(day(60), day(50), 0.5), DAY * 55, "not a window");
        // The authority revokes the certificate early.
        assert_eq!(suggest(START, START + Duration::from_secs(1), 0.5), MIN_AGE);
        assert_eq!(suggest(day(100), day(200), 0.0), DAY * 81, "before it expires");
    }

    #[test]
    fn a_certificate_that_is_issued_late_in_its_life_is_not_renewed_in_a_loop() {
        let (validity, issued_at) = (validity(DAY), START + Duration::from_secs(23 * 3600));
        let mut renewal = Renewal::new(validity, issued_at, 0.0);
        for _ in 0..2 {
            assert_eq!(renewal.next(validity, issued_at).saturating_since(issued_at), DAY / 8);
            renewal.suggest([START, START + DAY], 0.0);
        }
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_let_the_certificate_expire() {
        let validity = validity(DAY * 90);
        let mut renewal = Renewal::new(validity, START + DAY * 365, 0.0);
        assert_eq!(since_start(renewal.next(validity, START)), DAY * 60);
        assert_eq!(renewal.next_check(START), Some(START + DAY));
        renewal.suggest([START + DAY * 365, START + DAY * 366], 0.0);
        assert_eq!(since_start(renewal.next(validity, START)), DAY * 81);
    }

    #[test]
    fn failures_pause_longer_and_longer() {
        let mut attempts = Attempts::default();
        let mut now = START;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            attempts.fail(now, FailureKind::Refused, None, 0.0);
            pauses.push(attempts.next(now).saturating_since(now).as_secs() / 60);
            now = attempts.next(now);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 720, 720, 720]);
        attempts.fail(now, FailureKind::Unreachable, None, 0.0);
        assert_eq!(attempts.next(now).saturating_since(now), MAX_PAUSE_UNREACHABLE);
        assert_eq!(attempts.clone().restarted().next(now), now);
        attempts.fail(now, FailureKind::Unreachable, Some(now + DAY * 2), 0.0);
        assert_eq!(attempts.clone().restarted().next(now).saturating_since(now), DAY * 2, "the authority said so");
        attempts.fail(now, FailureKind::Unreachable, Some(now + DAY * 999), 0.0);
        assert_eq!(attempts.next(now).saturating_since(now), MAX_RETRY_AFTER);
        attempts.succeed();
        assert_eq!(attempts.next(now), now);
        for _ in 0..9 {
            attempts.fail(now, FailureKind::Disk, None, 0.0);
            assert_eq!(attempts.next(now).saturating_since(now), DISK_PAUSE);
        }
    }

    proptest! {
        /// Restarts and steps of the clock included.
        #[test]
        fn no_hour_has_more_validations_than_allowed(
            steps in prop::collection::vec((0..1800_u64, any::<bool>(), 0.0..1.0_f64), 1..200)
        ) {
            let mut attempts = Attempts::default();
            let mut now = START;
            let mut began: Vec<UnixTime> = Vec::new();
            for (wait, restarts, random) in steps {
                now = now + Duration::from_secs(wait);
                if restarts {
                    attempts = attempts.restarted();
                }
                if attempts.next(now) > now {
                    continue;
                }
                attempts.start_validation(now);
                began.push(now);
                attempts.fail(now, FailureKind::Refused, None, random);
                let recent = began.iter().filter(|at| **at + HOUR > now).count();
                prop_assert!(recent <= MAX_VALIDATIONS, "{recent} at {now}");
            }
        }

        #[test]
        fn a_clock_that_was_ahead_does_not_block_for_long(ahead in 0..10_000_000_u64, restarts in any::<bool>()) {
            let mut attempts = Attempts::default();
            let ahead = START + Duration::from_secs(ahead);
            for _ in 0..MAX_VALIDATIONS {
                attempts.start_validation(ahead);
                attempts.fail(ahead, FailureKind::Refused, None, 0.0);
            }
            if restarts {
                attempts = attempts.restarted();
            }
            prop_assert!(attempts.next(START).saturating_since(START) <= DAY);
            prop_assert_eq!(attempts.next(START + DAY), START + DAY);
        }
    }
}
