//! Whether this machine's clock is wrong, by what other nodes' clocks say as links are made.
//!
//! Pure. One node may be wrong or lie: it takes several, and the middle of what they say.

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

/// How this clock compares with others.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    /// Seconds by which each node's clock is ahead of this one.
    ahead: VecDeque<(NodeId, i64)>,
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
        let wrong = self.offset().filter(|offset| offset.unsigned_abs() > TOLERATED)?;
        if self.said.is_some_and(|said| said + AGAIN_AFTER > at) {
            return None;
        }
        self.said = Some(at);
        Some(-wrong)
    }

    /// Seconds by which the others' clocks are ahead, in the middle; none: too few were seen.
    pub(crate) fn offset(&self) -> Option<i64> {
        if self.ahead.len() < ENOUGH {
            return None;
        }
        let mut ahead: Vec<_> = self.ahead.iter().map(|(_, ahead)| *ahead).collect();
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
    fn a_few_wrong_clocks_among_many_say_nothing() {
        let at = Instant::now();
        let mut watch = ClockWatch::default();
        for n in 0..10 {
            let theirs = if n < 5 { NOW + Duration::from_secs(86_400) } else { NOW };
            let told = watch.note(at, node(n), NOW, theirs);
            assert!(n < 5 || told.is_none());
        }
        assert_eq!(watch.offset(), Some(0));
    }
}
