//! What the registry found at a node's door, where clients connect, and whether the node leaves the directory for it.
//!
//! Only the registry's own tries hide a node. What members state can only keep one listed that the registry cannot reach.

use std::{sync::Arc, time::Duration};

use chappe_common::{
    reachability::{DoorFault, Outcome},
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

use super::{Listing, Millis};

/// Failed tries in a row without which no node is hidden: a single lost connection is common, three are not.
const MIN_FAILURES: u8 = 3;
/// If more doors fail than one in this number, of those that were reached before, the registry blames its own network.
const DOUBT_PART: usize = 10;
/// With fewer failing doors it does not. In a small federation, one or two nodes are more than a tenth.
const DOUBT_MIN: usize = 3;

/// The result of trying a node's door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoorTry {
    /// A client can connect at one of the URLs.
    Works,
    /// None works. This is why one of them does not.
    Fails(Fault),
    /// There is no URL that the registry may and can try. Nothing follows from that.
    NotTried,
}

/// Why a door fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) fault: DoorFault,
    /// When the certificate expired, if that is why.
    pub(crate) expired_at: Option<UnixTime>,
}

/// For how long a door may fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorGrace {
    /// After this time the node is hidden.
    pub(crate) time: Duration,
    /// The most of a pause between two failures that counts.
    pub(crate) longest_pause: Duration,
}

/// The results of a node's last tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoorHistory {
    /// Whether the registry has reached it once.
    was_reached: bool,
    /// Number of consecutive failures up to now.
    failures: u8,
    /// For how long it has failed, in milliseconds. Of a pause between two failures, at most [`DoorGrace::longest_pause`]
    /// counts.
    failing_for: u64,
    /// What the last one was.
    fault: Option<Fault>,
    /// Until then members' statements count more than the registry's failures, in milliseconds since 1970.
    overruled_until: u64,
    /// The node has left the directory.
    is_hidden: bool,
    /// When the last failure was, in milliseconds since 1970.
    failed_at: u64,
}

impl DoorHistory {
    /// Adds a result. A node is hidden if its door has failed for the grace, unless members overrule that, or `in_doubt` says
    /// that the registry blames its own network.
    ///
    /// Time in which the registry did not try is no failure of the door: it was stopped or asleep, or was cut off.
    #[must_use]
    pub(crate) fn with_result(self, tried: DoorTry, now: Millis, grace: DoorGrace, in_doubt: bool) -> Self {
        match tried {
            DoorTry::NotTried => self,
            DoorTry::Works => Self { was_reached: true, ..Self::default() },
            DoorTry::Fails(fault) => {
                let pause = if self.failures == 0 { 0 } else { now.0.saturating_sub(self.failed_at) };
                let failing_for = self.failing_for.saturating_add(pause.min(millis(grace.longest_pause)));
                let failures = self.failures.saturating_add(1);
                let is_overruled = now.0 < self.overruled_until && is_of_network(fault.fault.outcome);
                let is_long = failures >= MIN_FAILURES && failing_for >= millis(grace.time);
                let is_hidden = !is_overruled && (self.is_hidden || (is_long && !in_doubt));
                Self { failures, failed_at: now.0, failing_for, fault: Some(fault), is_hidden, ..self }
            }
        }
    }

    /// Shows the node for `grace`, because members reach its door.
    #[must_use]
    pub(super) fn overruled(self, now: Millis, grace: Duration) -> Self {
        Self { overruled_until: now.0.saturating_add(millis(grace)), is_hidden: false, ..self }
    }

    /// Whether members' statements matter now.
    pub(crate) fn may_be_overruled(&self) -> bool {
        self.fault.is_some_and(|fault| is_of_network(fault.fault.outcome))
    }

    /// Whether the registry has reached it once.
    pub(crate) const fn was_reached(&self) -> bool {
        self.was_reached
    }

    /// What is known of other URLs of the same node: whether one of its doors was ever reached.
    pub(super) fn of_other_urls(self) -> Self {
        Self { was_reached: self.was_reached, ..Self::default() }
    }

    /// Whether it has failed so often that the node is hidden, or would be.
    const fn is_given_up(&self) -> bool {
        self.is_hidden || self.failures >= MIN_FAILURES
    }

    /// Whether it fails and the node is still shown. It is tried again soon.
    pub(super) const fn is_in_question(&self) -> bool {
        self.failures > 0 && !self.is_hidden
    }
}

impl Listing {
    /// Whether its door is tried: it has one, and the node is for everybody.
    pub(crate) fn is_tried(&self) -> bool {
        !self.record.client_urls.is_empty() && !self.record.is_reserve()
    }

    /// Why the node is not in the directory, if that is because of its door.
    pub(crate) fn hidden_for(&self) -> Option<Fault> {
        self.door.fault.filter(|_| self.door.is_hidden && self.is_tried())
    }
}

/// Whether the registry's own network is the likely cause of failing doors. It is if more than a tenth of the doors fail that the
/// registry reached before, or those of more than half of the nodes. Doors of hidden nodes are not part of the tenth, because
/// they failed one by one.
pub(crate) fn doubts_own_network<'a>(listings: impl Iterator<Item = &'a Arc<Listing>>) -> bool {
    let (mut all, mut given_up, mut reached, mut failing) = (0, 0, 0, 0);
    for listing in listings.filter(|listing| !listing.record.is_reserve()) {
        all += 1;
        let door = &listing.door;
        let is_given_up = listing.is_tried() && door.is_given_up();
        given_up += usize::from(is_given_up);
        if door.was_reached && !door.is_hidden {
            reached += 1;
            failing += usize::from(is_given_up);
        }
    }
    given_up * 2 > all || (failing >= DOUBT_MIN && failing * DOUBT_PART > reached)
}

/// Whether a network between the registry and the node can be the cause. What the registry has seen itself, such as a
/// certificate or another service, is not overruled.
pub(crate) const fn is_of_network(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::NoAnswer | Outcome::Refused | Outcome::Reset | Outcome::Unreachable | Outcome::NoName)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(900);
    const PAUSE: Duration = Duration::from_secs(300);

    fn fails(outcome: Outcome) -> DoorTry {
        DoorTry::Fails(Fault { fault: DoorFault { place: 0, outcome }, expired_at: None })
    }

    fn after(door: DoorHistory, tried: DoorTry, secs: u64) -> DoorHistory {
        door.with_result(tried, Millis(secs * 1000), DoorGrace { time: GRACE, longest_pause: PAUSE }, false)
    }

    #[test]
    fn a_door_is_given_up_after_three_failures_and_a_quarter_of_an_hour_and_works_at_once_again() {
        let mut door = after(DoorHistory::default(), fails(Outcome::Refused), 1000);
        for (secs, is_hidden) in [(1300, false), (1600, false), (1899, false), (1900, true)] {
            door = after(door, fails(Outcome::Refused), secs);
            assert_eq!(door.is_hidden, is_hidden, "{secs}");
        }
        let mut fast = DoorHistory::default();
        for secs in 1000..1900 {
            fast = after(fast, fails(Outcome::Refused), secs);
        }
        assert!(!fast.is_hidden, "however many within the time");
        fast = after(fast, fails(Outcome::Refused), 1900);
        assert!(fast.is_hidden);
        assert_eq!(after(fast, DoorTry::NotTried, 2000), fast, "nothing follows from no try");
        fast = after(fast, DoorTry::Works, 2000);
        assert!(!fast.is_hidden && fast.was_reached);
        assert!(!after(fast, fails(Outcome::Refused), 3000).is_hidden, "it begins again");
    }

    #[test]
    fn time_without_a_try_is_no_failure_of_the_door() {
        let mut door = after(DoorHistory::default(), fails(Outcome::NoAnswer), 0);
        // The registry is asleep for a day between each two of these tries.
        for day in 1..=2 {
            door = after(door, fails(Outcome::NoAnswer), day * 86_400);
            assert!(!door.is_hidden, "day {day}");
        }
        // A day counts as the longest pause between two probes.
        assert!(after(door, fails(Outcome::NoAnswer), 2 * 86_400 + 300).is_hidden);
        // Nor is a time in which the registry is cut off, and tries no door.
        door = after(door, DoorTry::NotTried, 3 * 86_400);
        assert!(!after(door, fails(Outcome::NoAnswer), 2 * 86_400 + 299).is_hidden);
    }

    #[test]
    fn statements_overrule_for_a_time_and_only_what_a_network_can_cause() {
        let mut door = after(DoorHistory::default(), fails(Outcome::NoAnswer), 0);
        assert!(door.may_be_overruled());
        door = door.overruled(Millis(600_000), GRACE);
        for secs in [300, 600, 900, 1200, 1499] {
            door = after(door, fails(Outcome::NoAnswer), secs);
            assert!(!door.is_hidden, "{secs}");
        }
        assert!(after(door, fails(Outcome::NoAnswer), 1500).is_hidden, "the statements are old");
        let mut expired = DoorHistory::default().overruled(Millis(0), Duration::MAX);
        for secs in [0, 300, 600, 900] {
            expired = after(expired, fails(Outcome::CertificateExpired), secs);
        }
        assert!(expired.is_hidden && !expired.may_be_overruled());
    }
}
