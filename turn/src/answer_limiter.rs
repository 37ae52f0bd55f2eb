//! Limits the answers to unverified sources, in memory of a fixed size.
//!
//! Sources share counters by a keyed hash, so one that is flooded with in its name can't be chosen by an attacker. Where two
//! share a counter, they share its answers.

use std::hash::{BuildHasher as _, RandomState};

use crate::{source::Source, time::Seconds};

/// Answers to a source in a second. A client that allocates needs two for each of its transports and addresses.
const PER_SECOND: u16 = 10;

/// The number of counters: 512 KiB. With a thousand sources in a second, one in 65 shares its counter.
const COUNTERS: usize = 1 << 16;

/// Counts the answers of the current second.
#[derive(Debug)]
pub struct AnswerLimiter {
    counters: Box<[Counter]>,
    hash: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    second: Seconds,
    answers: u16,
}

impl AnswerLimiter {
    /// Makes a limiter.
    pub fn new(now: Seconds) -> Self {
        let counters = vec![Counter { second: now, answers: 0 }; COUNTERS].into_boxed_slice();
        Self { counters, hash: RandomState::new() }
    }

    /// Counts an answer to a source. Returns whether it may be sent.
    pub fn allows(&mut self, source: Source, now: Seconds) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo a smaller number")]
        let counter = &mut self.counters[self.hash.hash_one(source) as usize % COUNTERS];
        if counter.second != now {
            *counter = Counter { second: now, answers: 0 };
        }
        counter.answers = counter.answers.saturating_add(1);
        counter.answers <= PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_source_gets_ten_answers_a_second_and_others_are_unaffected() {
        let start = Instant::now();
        let first = Seconds::between(start, start);
        let mut limiter = AnswerLimiter::new(first);
        let source = Source::of([192, 0, 2, 1].into());
        for second in [first, first.plus(1)] {
            let allowed = (0..1000).filter(|_| limiter.allows(source, second)).count();
            assert_eq!(allowed, PER_SECOND.into());
        }
        let others = (0..100).filter(|other| limiter.allows(Source::of([198, 51, 100, *other].into()), first.plus(1)));
        assert!(others.count() >= 98);
    }
}
