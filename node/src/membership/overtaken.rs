//! When a node that runs takes a new epoch: the others know a later run with its key, and refuse this one.
//!
//! A copy of the node's folder does that, be it for seconds. Pure. One member may lie, and a tenth of them together: it takes a
//! quarter of those that are up, or that nobody is left.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// The part of the members that have to say so.
const PART: usize = 4;
/// The first and the longest pause between two new epochs; each is twice the last. Two processes with one key take turns by
/// it, and its members aren't told of a new run more often than they allow.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Who has said so, and when an epoch was taken.
#[derive(Debug)]
pub(crate) struct Overtaken {
    by: HashSet<NodeId>,
    next: Instant,
    pause: Duration,
}

impl Overtaken {
    /// Nobody has.
    pub(crate) fn new(now: Instant) -> Self {
        Self { by: HashSet::new(), next: now, pause: FIRST_PAUSE }
    }

    /// A node has refused this one as a former run; `others` are up. Whether it is to be believed.
    pub(crate) fn told(&mut self, by: NodeId, others: usize) -> bool {
        self.by.insert(by);
        // Who says so and is no member any more doesn't count for less: it was one.
        others == 0 || self.by.len() >= (others / PART).max(2)
    }

    /// Whether a new epoch may be taken now; it counts as taken then.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        if now > self.next + LONGEST_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.by.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    #[test]
    fn a_tenth_of_the_members_is_not_believed_and_a_quarter_is() {
        let mut overtaken = Overtaken::new(Instant::now());
        assert!((0..25).all(|n| !overtaken.told(node(n % 10), 100)));
        assert!((10..24).all(|n| !overtaken.told(node(n), 100)));
        assert!(overtaken.told(node(24), 100));
    }

    #[test]
    fn one_is_believed_by_who_is_alone_and_by_nobody_else() {
        let mut overtaken = Overtaken::new(Instant::now());
        assert!(!overtaken.told(node(1), 3));
        assert!(overtaken.told(node(1), 0));
    }

    #[test]
    fn two_processes_with_one_key_take_turns_ever_more_rarely() {
        let start = Instant::now();
        let mut overtaken = Overtaken::new(start);
        let taken = (0..3600).filter(|second| overtaken.try_take(start + Duration::from_secs(*second))).count();
        assert!((9..=12).contains(&taken), "{taken}");
    }
}
