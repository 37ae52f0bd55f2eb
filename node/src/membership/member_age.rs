//! Since when a node has been a member, as far as this node can tell.
//!
//! A node that has just joined would take everybody for new. So it asks: where three peers say since when, the one in
//! the middle is believed, and of two the later. One liar can make nobody older.

use chappe_common::{keys::NodeId, time::UnixTime};

/// How many peers are asked.
pub(super) const AGE_WITNESSES: usize = 3;

/// Since when a node has been a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberAge {
    seen: Option<UnixTime>,
    reports: Vec<(NodeId, UnixTime)>,
}

impl MemberAge {
    /// Seen as a member now; what was seen before stays.
    pub(super) fn seen(&mut self, clock: UnixTime) {
        self.seen.get_or_insert(clock);
    }

    /// Takes over what was remembered and told before the node was seen.
    pub(super) fn take_over(&mut self, before: Self) {
        self.seen = self.seen.min(before.seen).or(self.seen).or(before.seen);
        for (by, since) in before.reports {
            self.record_report(by, since);
        }
    }

    /// Known from this node's own last run.
    pub(super) fn remembered(&mut self, since: UnixTime) {
        self.seen = Some(since);
    }

    /// A peer says since when.
    pub(super) fn record_report(&mut self, by: NodeId, since: UnixTime) {
        if self.reports.len() < AGE_WITNESSES && self.reports.iter().all(|(peer, _)| *peer != by) {
            self.reports.push((by, since));
        }
    }

    /// Since when; none: it never was one.
    pub(super) fn get(&self) -> Option<UnixTime> {
        let mut reports: Vec<_> = self.reports.iter().map(|(_, since)| *since).collect();
        reports.sort_unstable();
        // Of three the middle one, of two the later: both are the second.
        let believed = reports.get(1).copied();
        match (self.seen, believed) {
            (Some(seen), Some(believed)) => Some(seen.min(believed)),
            (seen, None) => seen,
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn age(times: &[u64]) -> Option<u64> {
        let mut since = MemberAge::default();
        since.seen(UnixTime::from_secs(1000));
        for (n, time) in (0..).zip(times) {
            since.record_report(NodeId::new(PublicKey::from_bytes([n; 32])), UnixTime::from_secs(*time));
        }
        since.get().map(UnixTime::as_secs)
    }

    #[test]
    fn one_peer_makes_nobody_older_and_two_that_agree_do() {
        assert_eq!(age(&[]), Some(1000));
        assert_eq!(age(&[5]), Some(1000));
        assert_eq!(age(&[5, 900]), Some(900));
        assert_eq!(age(&[900, 5, 910]), Some(900));
        assert_eq!(age(&[5, 2000, 2000]), Some(1000));
        assert_eq!(age(&[900, 910, 920, 5, 5]), Some(910));
    }

    #[test]
    fn what_this_node_remembers_counts_for_more_than_that_it_sees_it_now() {
        let (mut since, mut before) = (MemberAge::default(), MemberAge::default());
        since.seen(UnixTime::from_secs(1000));
        before.remembered(UnixTime::from_secs(10));
        since.take_over(MemberAge::default());
        assert_eq!(since.get(), Some(UnixTime::from_secs(1000)));
        since.take_over(before);
        assert_eq!(since.get(), Some(UnixTime::from_secs(10)));
    }

    #[test]
    fn who_was_never_seen_is_no_member_whatever_is_told() {
        let mut since = MemberAge::default();
        for n in 0..3 {
            since.record_report(NodeId::new(PublicKey::from_bytes([n; 32])), UnixTime::from_secs(1));
        }
        assert_eq!(since.get(), None);
    }
}
