//! The members whose services the relay refuses as peers: the current ones, and those of the last hour. Pure.
//!
//! Invariant: current members are always among them. Others are at most [`MAX_FORMER`].

use std::{collections::HashMap, time::Duration};

use chappe_common::keys::NodeId;
use tokio::time::Instant;

/// How long a member's services are refused after it was last seen. It may be back at any moment.
const KEEP: Duration = Duration::from_secs(3600);
/// The maximum number of former members. With more, those that are gone are forgotten.
const MAX_FORMER: usize = 4096;

/// The members with a record `R` of each.
#[derive(Debug)]
pub(crate) struct KnownMembers<R>(HashMap<NodeId, (R, Instant)>);

impl<R> KnownMembers<R> {
    /// Makes an empty set.
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Takes the current members, and forgets those that have been gone for too long.
    pub(crate) fn update(&mut self, members: impl Iterator<Item = (NodeId, R)>, now: Instant) {
        self.0.extend(members.map(|(node, record)| (node, (record, now))));
        let former = self.0.values().filter(|(_, seen)| *seen != now).count();
        self.0.retain(|_, (_, seen)| *seen == now || (former <= MAX_FORMER && now - *seen < KEEP));
    }

    /// The newest record of each.
    pub(crate) fn records(&self) -> impl Iterator<Item = &R> {
        self.0.values().map(|(record, _)| record)
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    fn node(number: u16) -> NodeId {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        SecretKey::from_bytes(&key).node_id()
    }

    fn known(members: &KnownMembers<u16>) -> Vec<u16> {
        let mut known: Vec<_> = members.records().copied().collect();
        known.sort_unstable();
        known
    }

    #[test]
    fn a_member_is_kept_for_an_hour_after_it_was_last_seen() {
        let mut members = KnownMembers::new();
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        members.update([(node(1), 1), (node(2), 2)].into_iter(), start);
        members.update([(node(2), 20)].into_iter(), after(10));
        assert_eq!(known(&members), [1, 20], "the newest record");
        members.update([(node(2), 20)].into_iter(), after(3599));
        assert_eq!(known(&members), [1, 20]);
        members.update([(node(2), 20)].into_iter(), after(3600));
        assert_eq!(known(&members), [20]);
        members.update(std::iter::empty(), after(3600 + 3599));
        assert_eq!(known(&members), [20]);
    }

    #[test]
    fn beyond_the_bound_former_members_are_forgotten_and_current_ones_stay() {
        let mut members = KnownMembers::new();
        let bound = u16::try_from(MAX_FORMER).expect("small");
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        members.update((0..bound).map(|number| (node(number), number)), start);
        members.update(std::iter::once((node(bound), bound)), after(1));
        assert_eq!(members.records().count(), MAX_FORMER + 1, "one is current");
        members.update(std::iter::once((node(bound + 1), bound + 1)), after(2));
        assert_eq!(known(&members), [bound + 1]);
    }
}
