//! Detects a wrong clock, from the clocks of other nodes in their hellos and from steps of this clock.
//!
//! Pure. One node may be wrong or lie, so several readings are needed and their median counts. The caller selects the
//! witnesses. Any node may cause a warning to the operator, but strangers don't decide whether this node serves
//! clients.
//!
//! Setting the clock makes earlier readings invalid. For the next hour, the monotonic clock counts as one witness.
//! Either the clock was right before and is now wrong by the step, or it was wrong before and other nodes will confirm
//! the new time. The step counts only beside a single reading: two or more readings outvote it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use chappe_common::{keys::NodeId, time::UnixTime};

/// Maximum number of stored readings; the oldest is dropped.
const MAX_READINGS: usize = 15;
/// Minimum number of witnesses: one may be wrong.
const MIN_WITNESSES: usize = 2;
/// Tolerated offset in seconds: half of the limit for records from the future.
const TOLERATED: u64 = 60;
/// Pause before the warning is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// Minimum difference between the wall clock and the monotonic clock, from one check to the next, that counts as a
/// step.
const STEP: Duration = Duration::from_secs(5);

/// How long a step counts as a witness. Members are asked for the time right after it.
const STEP_COUNTS_FOR: Duration = Duration::from_secs(3600);

/// Readings of other nodes' clocks, and recent steps of this clock.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    /// For each node, the seconds by which its clock is ahead of this one.
    ahead: VecDeque<(NodeId, i64)>,
    /// Time of the last step check, and the wall clock then, in milliseconds.
    last_check: Option<(Instant, u64)>,
    /// Seconds by which the clock was recently set back, by the monotonic clock.
    set_back: i64,
    set_at: Option<Instant>,
    warned_at: Option<Instant>,
}

impl ClockWatch {
    /// Adds a reading of another node's clock. If the operator should be warned now, returns the seconds by which this
    /// clock is ahead (negative if behind).
    pub(crate) fn add_reading(&mut self, at: Instant, node: NodeId, ours: UnixTime, theirs: UnixTime) -> Option<i64> {
        let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        self.ahead.retain(|(known, _)| *known != node);
        self.ahead.push_back((node, seconds(theirs).saturating_sub(seconds(ours))));
        if self.ahead.len() > MAX_READINGS {
            self.ahead.pop_front();
        }
        let wrong = self.offset(at, |_| true).filter(|offset| offset.unsigned_abs() > TOLERATED)?;
        if self.warned_at.is_some_and(|warned_at| warned_at + REPEAT_AFTER > at) {
            return None;
        }
        self.warned_at = Some(at);
        Some(-wrong)
    }

    /// Compares the wall clock with the monotonic clock since the last check. Returns the seconds of a step, positive
    /// if the clock was set forward.
    pub(crate) fn check_step(&mut self, at: Instant, millis: u64) -> Option<i64> {
        let (checked_at, reading) = self.last_check.replace((at, millis))?;
        let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        let passed = i64::try_from(at.saturating_duration_since(checked_at).as_millis()).unwrap_or(i64::MAX);
        let step = signed(millis).saturating_sub(signed(reading)).saturating_sub(passed);
        if Duration::from_millis(step.unsigned_abs()) < STEP {
            return None;
        }
        let seconds = step / 1000;
        let before = self.set_back_at(at).unwrap_or_default();
        self.set_back = before.saturating_sub(seconds);
        self.set_at = Some(at);
        self.ahead.clear();
        self.warned_at = None;
        Some(seconds)
    }

    fn set_back_at(&self, at: Instant) -> Option<i64> {
        self.set_at.filter(|set_at| at < *set_at + STEP_COUNTS_FOR).map(|_| self.set_back)
    }

    /// Returns the median of the seconds by which the witnesses' clocks are ahead. Returns `None` if there are too few
    /// witnesses.
    pub(crate) fn offset(&self, at: Instant, is_witness: impl Fn(&NodeId) -> bool) -> Option<i64> {
        let mut ahead: Vec<_> =
            self.ahead.iter().filter(|(node, _)| is_witness(node)).map(|(_, ahead)| *ahead).collect();
        if ahead.len() < MIN_WITNESSES {
            ahead.extend(self.set_back_at(at).filter(|set_back| set_back.unsigned_abs() > STEP.as_secs()));
        }
        if ahead.len() < MIN_WITNESSES {
            return None;
        }
        ahead.sort_unstable_by_key(|ahead| ahead.unsigned_abs());
        // Of an even number of readings, take the one nearer to this clock.
        ahead.get((ahead.len() - 1) / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000_000);

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    #[test]
    fn two_other_nodes_reveal_a_clock_that_is_an_hour_off_either_way() {
        let at = Instant::now();
        for (theirs, wrong) in [(NOW + Duration::from_secs(3600), -3600), (UnixTime::from_secs(996_400), 3600)] {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.add_reading(at, node(1), NOW, theirs), None);
            assert_eq!(watch.add_reading(at, node(2), NOW, theirs), Some(wrong));
            assert_eq!(watch.add_reading(at, node(3), NOW, theirs), None, "the warning was given just now");
            assert_eq!(watch.add_reading(at + REPEAT_AFTER, node(3), NOW, theirs), Some(wrong));
        }
    }

    #[test]
    fn one_node_alone_causes_no_warning() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        for _ in 0..20 {
            assert_eq!(watch.add_reading(at, node(1), NOW, NOW + Duration::from_secs(3600)), None);
        }
    }

    #[test]
    fn one_other_node_reveals_a_clock_that_is_set_back_but_not_a_correction() {
        let at = Instant::now();
        let second = Duration::from_secs(1);
        for (set, theirs, wrong) in [(996_400_u64, 1_000_001, Some(-3600)), (1_003_600, 1_003_600, None)] {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.check_step(at, 1_000_000_000), None);
            assert_eq!(watch.add_reading(at, node(1), NOW, NOW), None);
            let step = i64::try_from(set).expect("small") - 1_000_001;
            assert_eq!(watch.check_step(at + second, set * 1000), Some(step));
            assert_eq!(watch.offset(at, |_| true), None, "a step alone is not enough");
            let warning =
                watch.add_reading(at + second, node(1), UnixTime::from_secs(set), UnixTime::from_secs(theirs));
            assert_eq!(warning.map(|warning| warning / 10), wrong.map(|wrong| wrong / 10));
            // A second check without a step.
            assert_eq!(watch.check_step(at + second * 2, set * 1000 + 1000), None);
        }
    }

    #[test]
    fn a_step_neither_outvotes_other_nodes_nor_counts_for_ever() {
        let at = Instant::now();
        let set_back = || {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.check_step(at, 1_003_600_000), None);
            // The clock was wrong before, and is right now.
            assert_eq!(watch.check_step(at, 1_000_000_000), Some(-3600));
            watch
        };
        let (lie, mut watch) = (NOW + Duration::from_secs(3600), set_back());
        assert_eq!(watch.add_reading(at, node(1), NOW, NOW), None);
        assert_eq!(watch.add_reading(at, node(2), NOW, lie), None, "one honest node, and one that lies");
        assert_eq!(watch.offset(at, |_| true), Some(0));
        let (later, mut watch) = (at + STEP_COUNTS_FOR, set_back());
        assert_eq!(watch.add_reading(later, node(2), NOW, lie), None, "the step is too long ago");
        assert_eq!(watch.offset(later, |_| true), None);
    }

    #[test]
    fn strangers_can_warn_and_do_not_count_among_witnesses() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        let lie = NOW + Duration::from_secs(3600);
        let warned = [(1, NOW), (2, NOW), (3, lie), (4, lie), (5, lie), (6, lie), (7, lie)]
            .map(|(n, theirs)| watch.add_reading(at, node(n), NOW, theirs));
        assert!(warned.contains(&Some(-3600)));
        assert_eq!(watch.offset(at, |of| [1, 2].contains(&of.as_bytes()[0])), Some(0));
        assert_eq!(watch.offset(at, |of| *of == node(1)), None, "one witness is too few");
    }

    #[test]
    fn a_few_wrong_clocks_among_many_cause_no_warning() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        for n in 0..10 {
            let theirs = if n < 5 { NOW + Duration::from_secs(86_400) } else { NOW };
            let warning = watch.add_reading(at, node(n), NOW, theirs);
            assert!(n < 5 || warning.is_none());
        }
        assert_eq!(watch.offset(at, |_| true), Some(0));
    }
}
