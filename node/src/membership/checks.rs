//! Checks: this node finds out by itself whether a member is there.
//!
//! Whatever the reason to doubt a member, two series of probes decide, seconds apart, the second over a link that is
//! made anew. One word of the member, of any kind, ends the check.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// How long a series of probes waits for an answer: several of the longest round trips.
const WINDOW: Duration = Duration::from_secs(2);
/// When the second series begins, after the first: a path that has just failed is often back by then.
const SECOND_AFTER: Duration = Duration::from_secs(4);
/// The pause between two probes of a series: longer than the longest round trip, so that none is sent in vain.
const PAUSE: Duration = Duration::from_millis(400);
/// Checks that may be open at once. Where more members fall silent, the rest is checked when these are done.
const MAX_OPEN: usize = 256;
/// Accusers that are remembered for one check: the first ones. Later ones risk nothing, and gain nothing.
const MAX_ACCUSERS: usize = 8;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send a probe.
    Probe(NodeId),
    /// Make a new link, and send a probe over it.
    Redial(NodeId),
    /// The member isn't there.
    Failed(NodeId),
}

#[derive(Debug)]
struct Check {
    starts: Instant,
    /// Probes sent so far.
    sent: u32,
    accusers: Vec<NodeId>,
}

/// Probes in one series.
const PER_SERIES: u32 = 5;

impl Check {
    /// When the next step is due.
    fn due(&self) -> Instant {
        match self.sent {
            sent if sent < PER_SERIES => self.starts + PAUSE * sent,
            sent if sent < 2 * PER_SERIES => self.starts + SECOND_AFTER + PAUSE * (sent - PER_SERIES),
            _ => self.starts + SECOND_AFTER + WINDOW,
        }
    }
}

/// The open checks.
#[derive(Debug, Default)]
pub(super) struct Checks {
    open: HashMap<NodeId, Check>,
    /// The number of the last probe.
    probes: u64,
}

impl Checks {
    /// The number of the next probe.
    pub(super) const fn next_probe(&mut self) -> u64 {
        self.probes += 1;
        self.probes
    }

    /// Checks `node` from `starts` on, for this accuser if there is one. Whether the accuser's word is what the check
    /// is for: it is held against it if it proves false.
    pub(super) fn open(&mut self, node: NodeId, accuser: Option<NodeId>, starts: Instant) -> bool {
        let full = self.open.len() >= MAX_OPEN;
        if full && !self.open.contains_key(&node) {
            return false;
        }
        let check = self.open.entry(node).or_insert_with(|| Check { starts, sent: 0, accusers: Vec::new() });
        // Where this node has its own doubts, there is no reason to wait.
        if check.sent == 0 {
            check.starts = check.starts.min(starts);
        }
        match accuser {
            Some(accuser) if check.accusers.len() < MAX_ACCUSERS => {
                check.accusers.push(accuser);
                true
            }
            _ => false,
        }
    }

    /// Whether `node` is being checked.
    pub(super) fn is_open(&self, node: &NodeId) -> bool {
        self.open.contains_key(node)
    }

    /// How many checks are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Ends a check: the member was heard, has left, or is down. Its accusers.
    pub(super) fn close(&mut self, node: &NodeId) -> Vec<NodeId> {
        self.open.remove(node).map(|check| check.accusers).unwrap_or_default()
    }

    /// Begins all checks anew: this node itself was not there to hear the answers.
    pub(super) fn restart(&mut self, now: Instant) {
        for check in self.open.values_mut() {
            (check.starts, check.sent) = (now, 0);
        }
    }

    /// When [`Checks::step`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.open.values().map(Check::due).min()
    }

    /// What is due, in no particular order. A check that has failed stays open until it is closed.
    pub(super) fn step(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for (node, check) in &mut self.open {
            if check.due() > now {
                continue;
            }
            steps.push(match check.sent {
                PER_SERIES => Step::Redial(*node),
                sent if sent < 2 * PER_SERIES => Step::Probe(*node),
                _ => Step::Failed(*node),
            });
            check.sent += 1;
        }
        // The order of a hash map is another in every run, and a simulation should not be.
        steps.sort_unstable_by_key(|step| match step {
            Step::Probe(node) | Step::Redial(node) | Step::Failed(node) => *node,
        });
        steps
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    /// All steps of a check from its start, with their times in milliseconds.
    fn run(checks: &mut Checks, start: Instant) -> Vec<(u128, Step)> {
        let mut steps = Vec::new();
        while let Some(at) = checks.wake_at() {
            for step in checks.step(at) {
                steps.push(((at - start).as_millis(), step));
                if let Step::Failed(node) = step {
                    checks.close(&node);
                }
            }
        }
        steps
    }

    #[test]
    fn two_series_of_probes_fail_before_a_member_does() {
        let start = Instant::now();
        let mut checks = Checks::default();
        checks.open(node(1), None, start);
        let steps = run(&mut checks, start);
        let times: Vec<_> = steps.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 400, 800, 1200, 1600, 4000, 4400, 4800, 5200, 5600, 6000]);
        assert_eq!(steps[5].1, Step::Redial(node(1)));
        assert_eq!(steps[10].1, Step::Failed(node(1)));
        assert!(steps.iter().filter(|(_, step)| *step == Step::Probe(node(1))).count() == 9);
    }

    #[test]
    fn a_word_of_the_member_ends_the_check_and_names_the_accusers() {
        let start = Instant::now();
        let mut checks = Checks::default();
        assert!(checks.open(node(1), Some(node(2)), start));
        assert!(checks.open(node(1), Some(node(3)), start));
        checks.step(start);
        assert_eq!(checks.close(&node(1)), [node(2), node(3)]);
        assert_eq!(checks.wake_at(), None);
    }

    #[test]
    fn own_doubts_do_not_wait_and_a_stall_begins_anew() {
        let start = Instant::now();
        let mut checks = Checks::default();
        checks.open(node(1), Some(node(2)), start + Duration::from_secs(1));
        checks.open(node(1), None, start);
        assert_eq!(checks.wake_at(), Some(start));
        checks.step(start);
        checks.restart(start + Duration::from_secs(30));
        assert_eq!(run(&mut checks, start).last(), Some(&(36_000, Step::Failed(node(1)))));
    }

    #[test]
    fn checks_and_accusers_are_bounded() {
        let start = Instant::now();
        let mut checks = Checks::default();
        let many = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            NodeId::new(PublicKey::from_bytes(key))
        };
        for n in 0..MAX_OPEN + 10 {
            checks.open(many(n), None, start);
        }
        assert_eq!(checks.len(), MAX_OPEN);
        let kept = (0..20).filter(|n| checks.open(many(1), Some(many(1000 + n)), start)).count();
        assert_eq!(kept, MAX_ACCUSERS);
    }
}
