//! Whether this machine's clock is wrong, by what other nodes' clocks say as links are made, and by its own steps.
//!
//! Pure. One node may be wrong or lie: it takes several, and the middle of what they say. The caller says which nodes are
//! witnesses: any node may make this one warn its operator, but strangers don't decide whether it serves clients.
//!
//! A clock that is set while the node runs makes earlier observations worthless. Then the monotonic clock is a witness of its own for an hour: either the clock was right
//! before, and is wrong now by the step, or it was wrong, and others will say so. It counts beside one other node alone: where
//! several have been seen, they decide.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use chappe_common::{keys::NodeId, time::UnixTime};

/// The nodes whose clocks were seen last.
const NODES: usize = 15;
/// So many have to say so: one may be wrong.
const ENOUGH: usize = 2;
/// A clock that is off by less does no harm: half of what a record from the future is allowed.
const TOLERATED: u64 = 60;
/// The operator is told again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A wall clock that goes faster or slower than the monotonic one by more than this between two looks was set.
const STEP: Duration = Duration::from_secs(5);

/// How long a step is a witness. Members are asked for the time at once after it.
const STEP_COUNTS_FOR: Duration = Duration::from_secs(3600);

/// How this clock compares with others.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    /// Seconds by which each node's clock is ahead of this one.
    ahead: VecDeque<(NodeId, i64)>,
    /// When this clock was looked at, and what it showed in milliseconds.
    looked: Option<(Instant, u64)>,
    /// Seconds by which it has been set back lately, by the monotonic clock.
    set_back: i64,
    set_at: Option<Instant>,
    said: Option<Instant>,
}

impl ClockWatch {
    /// A node's clock shows `theirs`. The seconds by which this clock is wrong, ahead where positive, if the operator
    /// should hear of it now.
    pub(crate) fn note(&mut self, at: Instant, node: NodeId, ours: UnixTime, theirs: UnixTime) -> Option<i64> {
        let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        self.ahead.retain(|(known, _)| *known != node);
        self.ahead.push_back((node, seconds(theirs).saturating_sub(seconds(ours))));
        if self.ahead.len() > NODES {
            self.ahead.pop_front();
        }
        let wrong = self.offset(at, |_| true).filter(|offset| offset.unsigned_abs() > TOLERATED)?;
        if self.said.is_some_and(|said| said + AGAIN_AFTER > at) {
            return None;
        }
        self.said = Some(at);
        Some(-wrong)
    }

    /// Looks at the clock itself. The seconds by which it was set since the last look, ahead where positive, if it was.
    pub(crate) fn look(&mut self, at: Instant, millis: u64) -> Option<i64> {
        let (looked, showed) = self.looked.replace((at, millis))?;
        let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        let passed = i64::try_from(at.saturating_duration_since(looked).as_millis()).unwrap_or(i64::MAX);
        let step = signed(millis).saturating_sub(signed(showed)).saturating_sub(passed);
        if Duration::from_millis(step.unsigned_abs()) < STEP {
            return None;
        }
        let seconds = step / 1000;
        let before = self.set_back_at(at).unwrap_or_default();
        self.set_back = before.saturating_sub(seconds);
        self.set_at = Some(at);
        self.ahead.clear();
        self.said = None;
        Some(seconds)
    }

    fn set_back_at(&self, at: Instant) -> Option<i64> {
        self.set_at.filter(|set_at| at < *set_at + STEP_COUNTS_FOR).map(|_| self.set_back)
    }

    /// The median of the seconds by which the witnesses' clocks are ahead. `None` if there are too few.
    pub(crate) fn offset(&self, at: Instant, is_witness: impl Fn(&NodeId) -> bool) -> Option<i64> {
        let mut ahead: Vec<_> =
            self.ahead.iter().filter(|(node, _)| is_witness(node)).map(|(_, ahead)| *ahead).collect();
        if ahead.len() < ENOUGH {
            ahead.extend(self.set_back_at(at).filter(|set_back| set_back.unsigned_abs() > STEP.as_secs()));
        }
        if ahead.len() < ENOUGH {
            return None;
        }
        ahead.sort_unstable_by_key(|ahead| ahead.unsigned_abs());
        // Of an even number the one nearer to this clock.
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
    fn a_clock_that_is_an_hour_off_either_way_is_told_by_two_others() {
        let at = Instant::now();
        for (theirs, wrong) in [(NOW + Duration::from_secs(3600), -3600), (UnixTime::from_secs(996_400), 3600)] {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.note(at, node(1), NOW, theirs), None);
            assert_eq!(watch.note(at, node(2), NOW, theirs), Some(wrong));
            assert_eq!(watch.note(at, node(3), NOW, theirs), None, "it was said just now");
            assert_eq!(watch.note(at + AGAIN_AFTER, node(3), NOW, theirs), Some(wrong));
        }
    }

    #[test]
    fn one_node_says_nothing_however_often() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        for _ in 0..20 {
            assert_eq!(watch.note(at, node(1), NOW, NOW + Duration::from_secs(3600)), None);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_is_told_by_one_other_and_one_that_was_wrong_before_is_not() {
        let at = Instant::now();
        let second = Duration::from_secs(1);
        for (set, theirs, wrong) in [(996_400_u64, 1_000_001, Some(-3600)), (1_003_600, 1_003_600, None)] {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.look(at, 1_000_000_000), None);
            assert_eq!(watch.note(at, node(1), NOW, NOW), None);
            let step = i64::try_from(set).expect("small") - 1_000_001;
            assert_eq!(watch.look(at + second, set * 1000), Some(step));
            assert_eq!(watch.offset(at, |_| true), None, "one clock alone says nothing");
            let told = watch.note(at + second, node(1), UnixTime::from_secs(set), UnixTime::from_secs(theirs));
            assert_eq!(told.map(|told| told / 10), wrong.map(|wrong| wrong / 10));
            // It is put right, or stays so.
            assert_eq!(watch.look(at + second * 2, set * 1000 + 1000), None);
        }
    }

    #[test]
    fn a_step_neither_outvotes_other_nodes_nor_counts_for_ever() {
        let at = Instant::now();
        let set_back = || {
            let mut watch = ClockWatch::default();
            assert_eq!(watch.look(at, 1_003_600_000), None);
            // It was wrong before, and is right now.
            assert_eq!(watch.look(at, 1_000_000_000), Some(-3600));
            watch
        };
        let (lie, mut watch) = (NOW + Duration::from_secs(3600), set_back());
        assert_eq!(watch.note(at, node(1), NOW, NOW), None);
        assert_eq!(watch.note(at, node(2), NOW, lie), None, "one honest node, and one that lies");
        assert_eq!(watch.offset(at, |_| true), Some(0));
        let (later, mut watch) = (at + STEP_COUNTS_FOR, set_back());
        assert_eq!(watch.note(later, node(2), NOW, lie), None, "the step is too long ago");
        assert_eq!(watch.offset(later, |_| true), None);
    }

    #[test]
    fn strangers_can_warn_and_do_not_count_among_witnesses() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        let lie = NOW + Duration::from_secs(3600);
        let warned = [(1, NOW), (2, NOW), (3, lie), (4, lie), (5, lie), (6, lie), (7, lie)]
            .map(|(n, theirs)| watch.note(at, node(n), NOW, theirs));
        assert!(warned.contains(&Some(-3600)));
        assert_eq!(watch.offset(at, |of| [1, 2].contains(&of.as_bytes()[0])), Some(0));
        assert_eq!(watch.offset(at, |of| *of == node(1)), None, "one witness is too few");
    }

    #[test]
    fn a_few_wrong_clocks_among_many_say_nothing() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        for n in 0..10 {
            let theirs = if n < 5 { NOW + Duration::from_secs(86_400) } else { NOW };
            let told = watch.note(at, node(n), NOW, theirs);
            assert!(n < 5 || told.is_none());
        }
        assert_eq!(watch.offset(at, |_| true), Some(0));
    }
}
