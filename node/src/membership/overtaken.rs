//! When a node that runs takes a new epoch: the others know a later run with its key, and refuse this one.
//!
//! A copy of the node's folder does that, be it for seconds. Pure. One member may lie, and a tenth of them together: it takes
//! a quarter of the members, at least two. Nodes that were no members when they refused don't count. A node that is alone
//! loses nothing by a new epoch, so it believes anybody; but its clients stay where only strangers say so.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// The part of the members that have to say so.
const PART: usize = 4;
/// How long a refusal counts: members that refuse a run do so at each dial, many times in this time.
const COUNTS_FOR: Duration = Duration::from_secs(600);
/// The first and the longest pause between two new epochs; each is twice the last. Two processes with one key take turns by
/// it, and its members aren't told of a new run more often than they allow.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Which members have said so, and when an epoch was taken.
#[derive(Debug)]
pub(crate) struct Overtaken {
    by: HashMap<NodeId, Instant>,
    next: Instant,
    pause: Duration,
}

/// What to make of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Too few say so.
    Doubted,
    /// A stranger says so to a node that is alone: a new epoch does no harm, and may help.
    Alone,
    /// Members say so: clients are better off elsewhere until a new run is known.
    Members,
}

impl Overtaken {
    /// Nobody has.
    pub(crate) fn new(now: Instant) -> Self {
        Self { by: HashMap::new(), next: now, pause: FIRST_PAUSE }
    }

    /// A node, which is a member or isn't, has refused this one as a former run; `others` are up.
    pub(crate) fn told(&mut self, now: Instant, by: NodeId, is_member: bool, others: usize) -> Belief {
        self.by.retain(|_, at| now < *at + COUNTS_FOR);
        // Members that refuse this run are soon declared down; they count all the same.
        if is_member || self.by.contains_key(&by) {
            self.by.insert(by, now);
        } else if others == 0 {
            return Belief::Alone;
        }
        let enough = if others == 0 { 1 } else { (others / PART).max(2) };
        if self.by.len() >= enough { Belief::Members } else { Belief::Doubted }
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
        let (now, mut overtaken) = (Instant::now(), Overtaken::new(Instant::now()));
        let mut told = |n| overtaken.told(now, node(n), true, 100);
        assert!((0..25).all(|n| told(n % 10) == Belief::Doubted));
        assert!((10..24).all(|n| told(n) == Belief::Doubted));
        assert_eq!(told(24), Belief::Members);
    }

    #[test]
    fn strangers_are_not_counted_and_refusals_expire() {
        let (now, mut overtaken) = (Instant::now(), Overtaken::new(Instant::now()));
        assert!((10..100).all(|n| overtaken.told(now, node(n), false, 3) == Belief::Doubted));
        assert_eq!(overtaken.told(now, node(1), true, 3), Belief::Doubted);
        let later = now + COUNTS_FOR;
        assert_eq!(overtaken.told(later, node(2), true, 3), Belief::Doubted, "the first one is too old");
        assert_eq!(overtaken.told(later, node(3), true, 3), Belief::Members);
    }

    #[test]
    fn a_node_that_is_alone_keeps_its_clients_unless_a_former_member_says_so() {
        let (now, mut overtaken) = (Instant::now(), Overtaken::new(Instant::now()));
        assert_eq!(overtaken.told(now, node(9), false, 0), Belief::Alone);
        assert_eq!(overtaken.told(now, node(1), true, 1), Belief::Doubted);
        assert_eq!(overtaken.told(now, node(9), false, 0), Belief::Alone);
        assert_eq!(overtaken.told(now, node(1), false, 0), Belief::Members, "it was a member when it refused first");
    }

    #[test]
    fn two_processes_with_one_key_take_turns_ever_more_rarely() {
        let start = Instant::now();
        let mut overtaken = Overtaken::new(start);
        let taken = (0..3600).filter(|second| overtaken.try_take(start + Duration::from_secs(*second))).count();
        assert!((9..=12).contains(&taken), "{taken}");
    }
}
