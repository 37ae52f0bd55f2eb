//! Decides when a running node takes a new epoch, because other nodes know a later run with its key and refuse this
//! one.
//!
//! This happens if another process runs with a copy of the node's folder, even for seconds. Pure.
//!
//! A single member may lie, and so may a tenth of all members. So a quarter of the members have to refuse this run, and
//! at least two. Refusals of nodes that were not members at the time don't count. A node without members loses nothing
//! by a new epoch, so any refusal is enough. But if only strangers refuse it, its clients stay.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// One member in this many has to refuse the run.
const QUORUM_FRACTION: usize = 4;
/// How long a refusal counts. A member that refuses a run does so at each dial, many times in this time.
const COUNTS_FOR: Duration = Duration::from_secs(600);
/// The first pause between two new epochs. Each pause is twice the last. So two processes with one
/// key take turns less and less often, and don't exceed the rates of other members.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between two new epochs.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Tracks the members that refuse this run, and when new epochs are allowed.
#[derive(Debug)]
pub(crate) struct Overtaken {
    by: HashMap<NodeId, Instant>,
    next: Instant,
    pause: Duration,
}

/// The conclusion from a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Too few members refuse this run.
    Doubted,
    /// The node has no members, and a stranger refuses it. A new epoch does no harm, and may help.
    Alone,
    /// Enough members refuse this run. Clients should use other nodes until the new run is known.
    Members,
}

impl Overtaken {
    /// Creates a value without refusals.
    pub(crate) fn new(now: Instant) -> Self {
        Self { by: HashMap::new(), next: now, pause: FIRST_PAUSE }
    }

    /// Handles a refusal of this run by a node. `others` is the number of other members that are up.
    pub(crate) fn handle_refusal(&mut self, now: Instant, by: NodeId, is_member: bool, others: usize) -> Belief {
        self.by.retain(|_, at| now < *at + COUNTS_FOR);
        // Members that refuse this run are soon declared down, but they still count.
        if is_member || self.by.contains_key(&by) {
            self.by.insert(by, now);
        } else if others == 0 {
            return Belief::Alone;
        }
        let quorum = if others == 0 { 1 } else { (others / QUORUM_FRACTION).max(2) };
        if self.by.len() >= quorum { Belief::Members } else { Belief::Doubted }
    }

    /// Returns whether a new epoch may be taken now. If so, it counts as taken.
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
        let mut refuse = |n| overtaken.handle_refusal(now, node(n), true, 100);
        assert!((0..25).all(|n| refuse(n % 10) == Belief::Doubted));
        assert!((10..24).all(|n| refuse(n) == Belief::Doubted));
        assert_eq!(refuse(24), Belief::Members);
    }

    #[test]
    fn strangers_are_not_counted_and_refusals_expire() {
        let (now, mut overtaken) = (Instant::now(), Overtaken::new(Instant::now()));
        assert!((10..100).all(|n| overtaken.handle_refusal(now, node(n), false, 3) == Belief::Doubted));
        assert_eq!(overtaken.handle_refusal(now, node(1), true, 3), Belief::Doubted);
        let later = now + COUNTS_FOR;
        assert_eq!(overtaken.handle_refusal(later, node(2), true, 3), Belief::Doubted, "the first one is too old");
        assert_eq!(overtaken.handle_refusal(later, node(3), true, 3), Belief::Members);
    }

    #[test]
    fn a_node_that_is_alone_keeps_its_clients_unless_a_former_member_says_so() {
        let (now, mut overtaken) = (Instant::now(), Overtaken::new(Instant::now()));
        assert_eq!(overtaken.handle_refusal(now, node(9), false, 0), Belief::Alone);
        assert_eq!(overtaken.handle_refusal(now, node(1), true, 1), Belief::Doubted);
        assert_eq!(overtaken.handle_refusal(now, node(9), false, 0), Belief::Alone);
        assert_eq!(
            overtaken.handle_refusal(now, node(1), false, 0),
            Belief::Members,
            "it was a member when it refused first"
        );
    }

    #[test]
    fn two_processes_with_one_key_take_turns_ever_more_rarely() {
        let start = Instant::now();
        let mut overtaken = Overtaken::new(start);
        let taken = (0..3600).filter(|second| overtaken.try_take(start + Duration::from_secs(*second))).count();
        assert!((9..=12).contains(&taken), "{taken}");
    }
}
