//! What the baseline observes, by stretches of time. Pure.

use chappe_harness::figures::percentile;
use serde::{Deserialize, Serialize};

/// The baseline's observations in one stretch.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    /// Messages sent.
    pub(super) sent: u64,
    /// Messages that arrived once, unaltered and in order.
    pub(super) arrived: u64,
    /// Messages that arrived twice, altered or out of order; outcomes that came twice, or of no message; messages that
    /// don't parse; and connections that broke.
    pub(super) wrong: u64,
    /// Messages whose outcome is `delivered`.
    pub(super) delivered: u64,
    /// Messages whose outcome is a refusal.
    pub(super) refused: u64,
    /// Requests to pair that were shown to the pair by code.
    pub(super) asked: u64,
    /// Newcomers, and those of them that weren't let in within two seconds.
    pub(super) came: u64,
    pub(super) not_let_in: u64,
    /// Newcomers that attached no inbox within two more seconds.
    pub(super) not_attached: u64,
    /// How often a newcomer was told to try again.
    pub(super) put_off: u64,
    /// For each message: the second of the stretch in which it was due, and the milliseconds until it arrived, from
    /// when it was due and from when it was sent.
    pub(super) latencies: Vec<(u32, f64, f64)>,
    /// For each message, the milliseconds from when it was due until it was sent.
    pub(super) late: Vec<f64>,
    /// The latencies from when a message was due, in milliseconds, of the pair by code.
    pub(super) by_code: Vec<f64>,
}

/// The summary of one or more stretches.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Messages sent.
    pub sent: u64,
    /// Messages that didn't arrive, arrived twice, altered or out of order, or were refused; wrong outcomes; and
    /// connections that broke.
    pub lost: u64,
    /// Messages without an outcome.
    pub untold: u64,
    /// Requests to pair that were shown to the pair by code.
    pub asked: u64,
    /// Newcomers.
    pub came: u64,
    /// Newcomers that weren't let in within two seconds.
    pub not_let_in: u64,
    /// Newcomers that attached no inbox within two more seconds.
    pub not_attached: u64,
    /// How often a newcomer was told to try again.
    pub put_off: u64,
    /// The 99th percentile of latency, in milliseconds from when a message was due. Zero without messages.
    pub p99: f64,
    /// The 99th percentile of latency from when a message was sent.
    pub p99_from_sent: f64,
    /// The 99th percentile of the time from when a message was due until it was sent: the baseline's own delay.
    pub late_p99: f64,
    /// As [`Self::p99`], of the pair by code.
    pub by_code_p99: f64,
    /// The second of a stretch in which most of the slowest hundredth were due, and how many were.
    pub slowest_second: (u32, usize),
}

impl Observed {
    /// Summarises these stretches.
    pub(super) fn of<'a>(stretches: impl IntoIterator<Item = &'a Observation>) -> Self {
        let mut all = Observation::default();
        let (mut lost, mut untold) = (0, 0);
        for one in stretches {
            lost += one.sent.saturating_sub(one.arrived) + one.wrong + one.refused;
            all.sent += one.sent;
            untold += one.sent.saturating_sub(one.delivered + one.refused);
            all.asked += one.asked;
            all.came += one.came;
            all.not_let_in += one.not_let_in;
            all.put_off += one.put_off;
            all.not_attached += one.not_attached;
            all.latencies.extend_from_slice(&one.latencies);
            all.late.extend_from_slice(&one.late);
            all.by_code.extend_from_slice(&one.by_code);
        }
        let p99 = p99(all.latencies.iter().map(|one| one.1));
        let slow = || all.latencies.iter().filter(|one| one.1 >= p99).map(|one| one.0);
        let in_second = |second| (second, slow().filter(|other| *other == second).count());
        Self {
            sent: all.sent,
            lost,
            untold,
            asked: all.asked,
            came: all.came,
            not_let_in: all.not_let_in,
            put_off: all.put_off,
            not_attached: all.not_attached,
            p99,
            p99_from_sent: self::p99(all.latencies.iter().map(|one| one.2)),
            late_p99: self::p99(all.late),
            by_code_p99: self::p99(all.by_code),
            slowest_second: slow().map(in_second).max_by_key(|(_, count)| *count).unwrap_or_default(),
        }
    }
}

fn p99(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    if values.is_empty() { 0.0 } else { percentile(&mut values, 0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_missing_twice_or_refused_count_as_lost_in_any_stretch() {
        let quiet = Observation { sent: 10, arrived: 9, delivered: 10, ..Observation::default() };
        let twice = Observation { sent: 5, arrived: 5, delivered: 5, wrong: 1, ..Observation::default() };
        let refused = Observation { sent: 5, arrived: 5, delivered: 4, refused: 1, ..Observation::default() };
        let noticed = Observed::of([&quiet, &twice, &refused]);
        assert_eq!((noticed.lost, noticed.untold), (3, 0));
    }

    #[test]
    fn a_message_that_arrived_without_an_outcome_is_reported_for_its_stretch() {
        let silent = Observation { sent: 10, arrived: 10, delivered: 8, refused: 1, ..Observation::default() };
        let more = Observation { sent: 5, arrived: 5, delivered: 6, ..Observation::default() };
        assert_eq!(Observed::of([&silent, &more]).untold, 1);
    }

    #[test]
    fn a_stretch_without_messages_has_no_loss() {
        let noticed = Observed::of([&Observation::default()]);
        assert_eq!((noticed.sent, noticed.lost, noticed.p99), (0, 0, 0.0));
    }

    #[test]
    fn the_second_of_the_slowest_message_is_reported() {
        let mut latencies: Vec<_> = (0..300).map(|number| (number / 100, 1.0, 1.0)).collect();
        latencies.extend([(7, 90.0, 2.0); 4]);
        let noticed = Observed::of([&Observation { latencies, ..Observation::default() }]);
        assert_eq!((noticed.p99, noticed.p99_from_sent, noticed.slowest_second), (90.0, 2.0, (7, 4)));
    }
}
