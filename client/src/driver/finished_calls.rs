//! The ids of calls that are over, so that a replayed offer does not ring again. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{message::FRESH, seal::CallId};

/// The most ids. Only contacts can call, and a node forwards six offers a minute to an inbox: [`KEEP`] covers 180 of
/// them.
const MAX: usize = 512;
/// An offer is accepted up to [`FRESH`] before or after its time.
const KEEP: Duration = Duration::from_secs(2 * FRESH.as_secs());

#[derive(Debug, Default)]
pub(crate) struct FinishedCalls(VecDeque<(CallId, Instant)>);

impl FinishedCalls {
    pub(crate) fn insert(&mut self, call: CallId, now: Instant) {
        self.0.retain(|(known, since)| *known != call && now.saturating_duration_since(*since) < KEEP);
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back((call, now));
    }

    pub(crate) fn contains(&self, call: CallId) -> bool {
        self.0.iter().any(|(known, _)| *known == call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_call_is_remembered_for_as_long_as_its_offer_would_open() {
        let now = Instant::now();
        let mut finished = FinishedCalls::default();
        let call = |n: u16| CallId::from_bytes([n.to_be_bytes(); 8].concat().try_into().expect("16 bytes"));
        finished.insert(call(0), now);
        finished.insert(call(1), now + KEEP - Duration::from_secs(1));
        assert!(finished.contains(call(0)) && finished.contains(call(1)));
        finished.insert(call(2), now + KEEP);
        assert!(!finished.contains(call(0)) && finished.contains(call(1)));
        for n in 3..1000 {
            finished.insert(call(n), now + KEEP);
        }
        assert_eq!(finished.0.len(), MAX);
    }
}
