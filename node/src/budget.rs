//! The bytes that this machine may receive and send in a month, and what the node still offers of its services. Pure.
//!
//! Invariants: bytes count for the month of their time. A clock that is set never makes the bytes of the true month fewer.
//! Within a month the level only rises, so it cannot alternate.

mod interfaces;
mod meter;
mod period;
mod rate;
mod state_file;
pub(crate) mod traffic;

use std::{collections::BTreeMap, time::Duration};

use chappe_common::{keys::NodeId, time::UnixTime};
use sha2::{Digest as _, Sha256};

use self::period::{Calendar, Period};

/// Percentages of the budget at which the levels begin. The relay takes most of the bytes, so switching it off leaves enough
/// for calls to be set up. The last percent is for clients that leave, and for packets that arrive while the node sleeps.
const NO_RELAY: u64 = 90;
const RESERVE: u64 = 95;
const ASLEEP: u64 = 99;

/// The maximum time between two counts of a clock that was not set.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of months with bytes. More than two exist only if the clock was set.
const MAX_PERIODS: usize = 4;

/// What the node still offers. Each level offers less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Everything.
    Open,
    /// No new allocations of the relay for media. Existing ones continue until they expire.
    NoRelay,
    /// In addition, clients no longer learn of the node from public lists.
    Reserve,
    /// Nothing: the node has left the federation, and has no clients.
    Asleep,
}

impl Level {
    /// The name in `/health`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NoRelay => "no_relay",
            Self::Reserve => "reserve",
            Self::Asleep => "asleep",
        }
    }
}

/// The operator's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes in a month. 0: no limit.
    pub(crate) monthly_bytes: u64,
    /// The day of the month on which the provider begins to count, at most 28.
    pub(crate) first_day: u8,
}

/// The budget of a node.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    monthly_bytes: u64,
    calendar: Calendar,
    node: NodeId,
    state: State,
}

/// What survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    bytes: BTreeMap<Period, u64>,
    /// When bytes were last counted.
    counted_at: Option<UnixTime>,
    /// The last month in which the node was awake, and since when.
    awake: Option<(Period, UnixTime)>,
    /// The last month that the node did not end awake.
    slept: Option<Slept>,
}

/// A month that the node did not end awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slept {
    period: Period,
    /// How long the node was awake in it.
    awake: Duration,
    /// The budget that lasted so long. `None`: the present one.
    monthly_bytes: Option<u64>,
}

impl Budget {
    /// Continues with the state of the last run.
    pub(crate) const fn new(settings: Settings, node: NodeId, state: State) -> Self {
        let Settings { monthly_bytes, first_day } = settings;
        Self { monthly_bytes, calendar: Calendar::new(first_day), node, state }
    }

    /// Counts the bytes since the last call. Returns what the node may offer from now on.
    pub(crate) fn handle_usage(&mut self, bytes: u64, now: UnixTime) -> Level {
        self.count(bytes, now);
        let period = self.calendar.period(now);
        let level = self.level(now);
        let slept = self.state.slept.filter(|slept| slept.period == period);
        let awake = self.state.awake.filter(|(awake, _)| *awake == period);
        match (level, slept, awake) {
            (Level::Asleep, None, Some((_, since))) => {
                let (awake, monthly_bytes) = (now.saturating_since(since), Some(self.monthly_bytes));
                self.state.slept = Some(Slept { period, awake, monthly_bytes });
            }
            (Level::Asleep, ..) => {}
            // The budget was raised. The time asleep does not count as awake.
            (_, Some(slept), _) => {
                let since = now.as_secs().saturating_sub(slept.awake.as_secs());
                self.state.awake = Some((period, UnixTime::from_secs(since)));
                self.state.slept = None;
            }
            (_, None, None) => self.state.awake = Some((period, now)),
            (_, None, Some(_)) => {}
        }
        level
    }

    fn count(&mut self, bytes: u64, now: UnixTime) {
        let last = self.state.counted_at.replace(now).unwrap_or(now);
        let [last_period, period] = [last, now].map(|time| self.calendar.period(time));
        if period <= last_period {
            return self.add(period, bytes);
        }
        let pause = now.saturating_since(last);
        if pause <= MAX_PAUSE {
            // A month has ended. Bytes of later months were counted while the clock was ahead, and belong to it.
            self.state.bytes.retain(|counted, _| *counted <= period);
        }
        // Nobody knows when the machine used them, so they are divided by time.
        let share = u128::from(self.calendar.start(period).saturating_since(last).as_secs());
        let before = u128::from(bytes) * share / u128::from(pause.as_secs().max(1));
        let before = u64::try_from(before).unwrap_or(bytes).min(bytes);
        self.add(last_period, before);
        self.add(period, bytes - before);
    }

    fn add(&mut self, period: Period, bytes: u64) {
        // If the clock is behind, the bytes belong to the last month that was seen.
        let last = self.state.bytes.last_key_value().map_or(period, |(last, _)| *last);
        let used = self.state.bytes.entry(period.max(last)).or_default();
        *used = used.saturating_add(bytes);
        if self.state.bytes.len() > MAX_PERIODS
            && let Some((_, first)) = self.state.bytes.pop_first()
            && let Some(mut next) = self.state.bytes.first_entry()
        {
            // Later months may all be those of a clock that was ahead, and then this one is still the true one.
            *next.get_mut() = next.get().saturating_add(first);
        }
    }

    /// The bytes of the month. Those of later months were counted while the clock was ahead.
    pub(crate) fn used(&self, now: UnixTime) -> u64 {
        self.state.bytes.range(self.calendar.period(now)..).fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// The budget of a month. 0: no limit.
    pub(crate) const fn monthly_bytes(&self) -> u64 {
        self.monthly_bytes
    }

    /// What the node may offer.
    pub(crate) fn level(&self, now: UnixTime) -> Level {
        if self.monthly_bytes == 0 {
            return Level::Open;
        }
        if self.is_used_up(now) || self.is_waiting(now) {
            Level::Asleep
        } else if self.reaches(RESERVE, now) {
            Level::Reserve
        } else if self.reaches(NO_RELAY, now) {
            Level::NoRelay
        } else {
            Level::Open
        }
    }

    /// Whether the bytes of the month are used up. Otherwise, a node that sleeps waits for its turn in the month.
    pub(crate) fn is_used_up(&self, now: UnixTime) -> bool {
        self.monthly_bytes > 0 && self.reaches(ASLEEP, now)
    }

    fn reaches(&self, percent: u64, now: UnixTime) -> bool {
        u128::from(self.used(now)) * 100 >= u128::from(self.monthly_bytes) * u128::from(percent)
    }

    /// Whether the node wakes later in this month. Once it was awake, a smaller budget does not make it wait again.
    fn is_waiting(&self, now: UnixTime) -> bool {
        let period = self.calendar.period(now);
        now < self.wake_at(period) && self.state.awake.is_none_or(|(awake, _)| awake != period)
    }

    /// When the node offers everything again: when it wakes, if it sleeps until later in this month, or else in the next one.
    pub(crate) fn open_at(&self, now: UnixTime) -> UnixTime {
        let period = self.calendar.period(now);
        self.wake_at(if self.is_waiting(now) && !self.is_used_up(now) { period } else { period.next() })
    }

    /// When the node wakes in a period: at its start, unless it slept at the end of the one before. Then it expects to be awake
    /// as long as in that one, or longer if the budget was raised. It wakes at a random time that leaves as much of the period,
    /// so that there are nodes in the whole month, as with Tor's `AccountingMax`.
    fn wake_at(&self, period: Period) -> UnixTime {
        let start = self.calendar.start(period);
        let Some(slept) = self.state.slept.filter(|slept| slept.period.next() == period) else { return start };
        let length = self.calendar.start(period.next()).saturating_since(start).as_secs();
        let before = slept.monthly_bytes.unwrap_or(self.monthly_bytes).max(1);
        let awake = u128::from(slept.awake.as_secs()) * u128::from(self.monthly_bytes.max(before)) / u128::from(before);
        let window = length.saturating_sub(u64::try_from(awake).unwrap_or(u64::MAX));
        let mut hash = Sha256::new();
        hash.update(b"chappe: when a node wakes");
        hash.update(self.node.key().as_bytes());
        hash.update(start.as_secs().to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
        let random = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        // Scaled, so that a larger budget never wakes the node later.
        let offset = (u128::from(random) * (u128::from(window) + 1)) >> 64;
        start + Duration::from_secs(u64::try_from(offset).unwrap_or(window))
    }

    /// What has to survive a restart.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }
}

#[cfg(test)]
mod tests;
