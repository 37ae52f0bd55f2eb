//! Checks, by which this node finds out for itself whether a member is alive.
//!
//! A check consists of two series of probes, some seconds apart. The second series uses a new link. Any packet from the
//! member ends the check.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// How long the second series waits for an answer: several of the longest round trips.
const WINDOW: Duration = Duration::from_secs(2);
/// The time from the start of the first series to the start of the second. A failed path has often recovered by then.
const SECOND_AFTER: Duration = Duration::from_secs(4);
/// The interval between two probes of a series: longer than the longest round trip, so that no probe is wasted.
const PAUSE: Duration = Duration::from_millis(400);
/// The maximum number of open checks. If more members fall silent, the others are checked later.
const MAX_OPEN: usize = 256;
/// The maximum number of accusers of one check. Later accusers have no effect and no risk.
const MAX_ACCUSERS: usize = 8;

/// The next step of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send a probe.
    Probe(NodeId),
    /// Dial a new link, and send a probe over it.
    Redial(NodeId),
    /// The member did not answer: the check has failed.
    Failed(NodeId),
}

#[derive(Debug)]
struct Check {
    starts: Instant,
    sent: u32,
    accusers: Vec<NodeId>,
}

/// The number of probes in one series.
const PER_SERIES: u32 = 5;

impl Check {
    fn due(&self) -> Instant {
        match self.sent {
            sent if sent < PER_SERIES => self.starts + PAUSE * sent,
            sent if sent < 2 * PER_SERIES => self.starts + SECOND_AFTER + PAUSE * (sent - PER_SERIES),
            _ => self.starts + SECOND_AFTER + WINDOW,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    open: HashMap<NodeId, Check>,
    probes: u64,
}

impl Checks {
    /// Returns the number for the next probe.
    pub(super) const fn next_probe(&mut self) -> u64 {
        self.probes += 1;
        self.probes
    }

    /// Opens a check of `node` that starts at `starts`, or adds `accuser` to the open check. Returns whether the
    /// accuser was added, so that a wrong accusation counts against it.
    pub(super) fn open(&mut self, node: NodeId, accuser: Option<NodeId>, starts: Instant) -> bool {
        let full = self.open.len() >= MAX_OPEN;
        if full && !self.open.contains_key(&node) {
            return false;
        }
        let check = self.open.entry(node).or_insert_with(|| Check { starts, sent: 0, accusers: Vec::new() });
        // A failed probe of this node starts the check immediately, without jitter.
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

    /// Returns whether `node` is being checked.
    pub(super) fn is_open(&self, node: &NodeId) -> bool {
        self.open.contains_key(node)
    }

    /// Returns the number of open checks.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Ends a check, since the member has answered, has left, or is down. Returns the accusers.
    pub(super) fn close(&mut self, node: &NodeId) -> Vec<NodeId> {
        self.open.remove(node).map(|check| check.accusers).unwrap_or_default()
    }

    /// Restarts all checks, since this node itself was not running and may have missed answers.
    pub(super) fn restart(&mut self, now: Instant) {
        for check in self.open.values_mut() {
            (check.starts, check.sent) = (now, 0);
        }
    }

    /// Returns when [`Checks::handle_timeout`] is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().map(Check::due).min()
    }

    /// Returns the steps that are due, sorted by node. A failed check stays open until it is closed.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Step> {
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
        // The order of a hash map differs in every run, but simulations have to be reproducible.
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

    /// Runs a check. Returns all steps with their times from the start in milliseconds.
    fn run(checks: &mut Checks, start: Instant) -> Vec<(u128, Step)> {
        let mut steps = Vec::new();
        while let Some(at) = checks.poll_timeout() {
            for step in checks.handle_timeout(at) {
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
    fn an_ack_of_the_accused_member_ends_the_check_and_names_the_accusers() {
        let start = Instant::now();
        let mut checks = Checks::default();
        assert!(checks.open(node(1), Some(node(2)), start));
        assert!(checks.open(node(1), Some(node(3)), start));
        checks.handle_timeout(start);
        assert_eq!(checks.close(&node(1)), [node(2), node(3)]);
        assert_eq!(checks.poll_timeout(), None);
    }

    #[test]
    fn own_failed_probes_are_checked_at_once_and_a_stall_restarts_the_checks() {
        let start = Instant::now();
        let mut checks = Checks::default();
        checks.open(node(1), Some(node(2)), start + Duration::from_secs(1));
        checks.open(node(1), None, start);
        assert_eq!(checks.poll_timeout(), Some(start));
        checks.handle_timeout(start);
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
