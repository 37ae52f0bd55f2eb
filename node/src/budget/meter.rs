//! Turns the kernel's counters of network interfaces into bytes since the last look. Pure.
//!
//! Invariant: what a counter has counted since the last look is returned once, also if the node was not running meanwhile.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Where a counter of 32 bits begins again. Some drivers have such counters.
const WRAP: u64 = 1 << 32;

/// The maximum number of interfaces that are remembered. Some dialled lines have a new name with each connection, and the
/// file of the budget must stay readable.
const MAX_INTERFACES: usize = 64;

/// The counters of an interface, in bytes; or their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Received bytes.
    pub(crate) received: u64,
    /// Sent bytes.
    pub(crate) sent: u64,
}

/// The counters at the last look. Survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meter {
    interfaces: BTreeMap<String, Traffic>,
    /// The time since the machine was started.
    uptime: Duration,
}

impl Meter {
    /// Returns the bytes since the last look. `uptime` is the time since the machine was started.
    ///
    /// A reboot resets the counters. An interface that was not seen before counts from now on, unless the machine was
    /// rebooted: then its counter began with the machine.
    pub(crate) fn handle_counters(&mut self, counters: &BTreeMap<String, Traffic>, uptime: Duration) -> Traffic {
        let is_rebooted = uptime < self.uptime;
        if is_rebooted {
            self.interfaces.clear();
        }
        self.uptime = uptime;
        let mut total = Traffic::default();
        for (name, now) in counters {
            let since = match self.interfaces.insert(name.clone(), *now) {
                Some(last) => since(last, *now),
                None if is_rebooted => *now,
                None => Traffic::default(),
            };
            total.received = total.received.saturating_add(since.received);
            total.sent = total.sent.saturating_add(since.sent);
        }
        if self.interfaces.len() > MAX_INTERFACES {
            self.interfaces.retain(|name, _| counters.contains_key(name));
        }
        total
    }
}

fn since(last: Traffic, now: Traffic) -> Traffic {
    // An interface that was made again, such as that of a dialled line, has both counters at 0.
    if now.received < last.received && now.sent < last.sent {
        return now;
    }
    let count = |last: u64, now: u64| match now.checked_sub(last) {
        Some(bytes) => bytes,
        None if last < WRAP && WRAP - last + now < WRAP / 2 => WRAP - last + now,
        None => now,
    };
    Traffic { received: count(last.received, now.received), sent: count(last.sent, now.sent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(meter: &mut Meter, uptime: u64, counters: &[(&str, u64, u64)]) -> (u64, u64) {
        let counters = counters
            .iter()
            .map(|(name, received, sent)| ((*name).to_owned(), Traffic { received: *received, sent: *sent }));
        let Traffic { received, sent } = meter.handle_counters(&counters.collect(), Duration::from_secs(uptime));
        (received, sent)
    }

    #[test]
    fn bytes_count_from_the_first_look_on_and_once() {
        let mut meter = Meter::default();
        assert_eq!(look(&mut meter, 100, &[("eth0", 7000, 8000)]), (0, 0), "before the node was there");
        assert_eq!(look(&mut meter, 110, &[("eth0", 7010, 8020)]), (10, 20));
        assert_eq!(look(&mut meter, 120, &[("eth0", 7010, 8020)]), (0, 0));
        // The node is killed, and starts again.
        let stored = serde_json::to_string(&meter).expect("text");
        let mut meter = serde_json::from_str(&stored).expect("the same");
        assert_eq!(look(&mut meter, 500, &[("eth0", 8010, 8021)]), (1000, 1));
    }

    #[test]
    fn a_reboot_counts_from_zero() {
        let mut meter = Meter::default();
        look(&mut meter, 100, &[("eth0", 7000, 8000)]);
        assert_eq!(look(&mut meter, 50, &[("eth0", 9000, 10), ("wlan0", 5, 6)]), (9005, 16));
        assert_eq!(look(&mut meter, 60, &[("eth0", 9001, 11), ("wlan0", 5, 6), ("tun0", 99, 99)]), (1, 1));
    }

    #[test]
    fn names_that_are_not_used_again_are_forgotten() {
        let mut meter = Meter::default();
        for number in 0..1000 {
            look(&mut meter, number, &[("eth0", number, 0), (&format!("ppp{number}"), 1, 1)]);
            assert!(meter.interfaces.len() <= MAX_INTERFACES);
        }
        assert_eq!(look(&mut meter, 1000, &[("eth0", 1009, 0)]), (10, 0), "the one in use is remembered");
    }

    #[test]
    fn a_counter_that_wraps_or_is_reset_loses_nothing() {
        let mut meter = Meter::default();
        look(&mut meter, 1, &[("ppp0", WRAP - 10, 500)]);
        assert_eq!(look(&mut meter, 2, &[("ppp0", 20, 600)]), (30, 100), "32 bits");
        assert_eq!(look(&mut meter, 3, &[("ppp0", 3, 4)]), (3, 4), "dialled again");
        // It is away for a while.
        assert_eq!(look(&mut meter, 4, &[]), (0, 0));
        assert_eq!(look(&mut meter, 5, &[("ppp0", 5, 6)]), (2, 2));
    }
}
