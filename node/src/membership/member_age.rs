//! Estimates since when a node has been a member.
//!
//! To a node that has just joined, all members would look new. So it requests their ages from three members. It uses
//! the median of three reports, and the later of two. So one liar can't make a node look older.

use chappe_common::{keys::NodeId, time::UnixTime};

/// The number of members whose reports count.
pub(super) const AGE_WITNESSES: usize = 3;

/// Observations and reports since when a node has been a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberAge {
    seen: Option<UnixTime>,
    reports: Vec<(NodeId, UnixTime)>,
}

impl MemberAge {
    /// Notes that the node is a member now. An earlier observation stays.
    pub(super) fn set_seen(&mut self, clock: UnixTime) {
        self.seen.get_or_insert(clock);
    }

    /// Merges what was remembered and reported before the node was seen.
    pub(super) fn merge(&mut self, before: Self) {
        self.seen = self.seen.min(before.seen).or(self.seen).or(before.seen);
        for (by, since) in before.reports {
            self.record_report(by, since);
        }
    }

    /// Sets the time that this node's own last run has stored.
    pub(super) fn set_remembered(&mut self, since: UnixTime) {
        self.seen = Some(since);
    }

    /// Adds a peer's report. Only the first report of each of [`AGE_WITNESSES`] peers counts.
    pub(super) fn record_report(&mut self, by: NodeId, since: UnixTime) {
        if self.reports.len() < AGE_WITNESSES && self.reports.iter().all(|(peer, _)| *peer != by) {
            self.reports.push((by, since));
        }
    }

    /// Returns since when the node has been a member, or `None` if this node has never seen it.
    pub(super) fn since(&self) -> Option<UnixTime> {
        let mut reports: Vec<_> = self.reports.iter().map(|(_, since)| *since).collect();
        reports.sort_unstable();
        // The median of three and the later of two are both the second.
        let reported = reports.get(1).copied();
        match (self.seen, reported) {
            (Some(seen), Some(reported)) => Some(seen.min(reported)),
            (seen, None) => seen,
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn estimate(times: &[u64]) -> Option<u64> {
        let mut age = MemberAge::default();
        age.set_seen(UnixTime::from_secs(1000));
        for (n, time) in (0..).zip(times) {
            age.record_report(NodeId::new(PublicKey::from_bytes([n; 32])), UnixTime::from_secs(*time));
        }
        age.since().map(UnixTime::as_secs)
    }

    #[test]
    fn one_peer_cannot_raise_a_member_age_and_two_agreeing_peers_can() {
        assert_eq!(estimate(&[]), Some(1000));
        assert_eq!(estimate(&[5]), Some(1000));
        assert_eq!(estimate(&[5, 900]), Some(900));
        assert_eq!(estimate(&[900, 5, 910]), Some(900));
        assert_eq!(estimate(&[5, 2000, 2000]), Some(1000));
        assert_eq!(estimate(&[900, 910, 920, 5, 5]), Some(910));
    }

    #[test]
    fn a_stored_first_sighting_counts_before_the_current_one() {
        let (mut age, mut before) = (MemberAge::default(), MemberAge::default());
        age.set_seen(UnixTime::from_secs(1000));
        before.set_remembered(UnixTime::from_secs(10));
        age.merge(MemberAge::default());
        assert_eq!(age.since(), Some(UnixTime::from_secs(1000)));
        age.merge(before);
        assert_eq!(age.since(), Some(UnixTime::from_secs(10)));
    }

    #[test]
    fn an_unseen_node_is_no_member_whatever_peers_report() {
        let mut age = MemberAge::default();
        for n in 0..3 {
            age.record_report(NodeId::new(PublicKey::from_bytes([n; 32])), UnixTime::from_secs(1));
        }
        assert_eq!(age.since(), None);
    }
}
