//! Limits the events of each source or network per second. The counters of sources have memory of a fixed size.
//!
//! A keyed hash maps sources to counters, so an attacker cannot choose a source that shares a victim's counter. Two sources
//! that share a counter also share its limit.

use std::hash::{BuildHasher as _, Hash, RandomState};

use crate::time::Seconds;

/// The number of counters: 512 KiB. With a thousand sources in a second, one in 65 shares its counter.
const COUNTERS: usize = 1 << 16;

/// Counts the events of each source in the current second.
#[derive(Debug)]
pub struct SourceLimiter {
    counters: Box<[EventCounter]>,
    hash: RandomState,
    per_second: u16,
}

/// Counts the events of the current second.
#[derive(Clone, Copy, Debug)]
pub struct EventCounter {
    second: Seconds,
    events: u16,
}

impl EventCounter {
    /// Makes a counter without events.
    pub const fn new(now: Seconds) -> Self {
        Self { second: now, events: 0 }
    }

    /// Counts an event. Returns whether it is among the first `per_second` of this second.
    pub fn allows(&mut self, per_second: u16, now: Seconds) -> bool {
        self.charge(1, now);
        self.events <= per_second
    }

    fn charge(&mut self, events: u16, now: Seconds) {
        if self.second != now {
            *self = Self::new(now);
        }
        self.events = self.events.saturating_add(events);
    }
}

impl SourceLimiter {
    /// Makes a limiter that allows each source `per_second` events in a second.
    pub fn new(per_second: u16, now: Seconds) -> Self {
        let counters = vec![EventCounter::new(now); COUNTERS].into_boxed_slice();
        Self { counters, hash: RandomState::new(), per_second }
    }

    /// Counts an event of a source or network. Returns whether it is allowed.
    pub fn allows(&mut self, source: impl Hash, now: Seconds) -> bool {
        let per_second = self.per_second;
        self.counter(source).allows(per_second, now)
    }

    /// Counts further events of a source or network, whether they are allowed or not.
    pub fn charge(&mut self, source: impl Hash, events: u16, now: Seconds) {
        self.counter(source).charge(events, now);
    }

    fn counter(&mut self, source: impl Hash) -> &mut EventCounter {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo a smaller number")]
        &mut self.counters[self.hash.hash_one(source) as usize % COUNTERS]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::source::Source;

    #[test]
    fn a_source_gets_its_events_of_a_second_and_others_are_unaffected() {
        let start = Instant::now();
        let first = Seconds::between(start, start);
        let mut limiter = SourceLimiter::new(10, first);
        let source = Source::of([192, 0, 2, 1].into());
        for second in [first, first.plus(1)] {
            let allowed = (0..1000).filter(|_| limiter.allows(source, second)).count();
            assert_eq!(allowed, 10);
        }
        let others = (0..100).filter(|other| limiter.allows(Source::of([198, 51, 100, *other].into()), first.plus(1)));
        assert!(others.count() >= 98);
    }
}
