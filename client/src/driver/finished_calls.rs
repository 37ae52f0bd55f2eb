//! The ids of received calls that are over, so that a replayed offer does not ring again. Pure.
//!
//! Each contact has a bound of its own. Otherwise a contact whose node ignores rate limits could make this side forget
//! the calls of another contact, and a replay of one of those would ring in the other's name.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{contact::ContactId, message::FRESH, seal::CallId};

/// The most ids of a contact. A node forwards six offers a minute to an inbox: [`KEEP`] covers 180 of them. Further
/// offers of the contact are dropped, and no id is forgotten before its time.
const MAX_OF_A_CONTACT: usize = 256;
/// An offer is accepted up to [`FRESH`] before or after its time.
const KEEP: Duration = Duration::from_secs(2 * FRESH.as_secs());

#[derive(Debug, Default)]
pub(crate) struct FinishedCalls(HashMap<ContactId, VecDeque<(CallId, Instant)>>);

impl FinishedCalls {
    pub(crate) fn insert(&mut self, call: CallId, contact: ContactId, now: Instant) {
        self.0.retain(|_, calls| {
            calls.retain(|(known, since)| *known != call && now.saturating_duration_since(*since) < KEEP);
            !calls.is_empty()
        });
        let calls = self.0.entry(contact).or_default();
        if calls.len() < MAX_OF_A_CONTACT {
            calls.push_back((call, now));
        }
    }

    pub(crate) fn contains(&self, call: CallId, contact: ContactId) -> bool {
        self.0.get(&contact).is_some_and(|calls| calls.iter().any(|(known, _)| *known == call))
    }

    /// Whether no further call of the contact could be remembered.
    pub(crate) fn is_full_for(&self, contact: ContactId, now: Instant) -> bool {
        let counts = |(_, since): &&(CallId, Instant)| now.saturating_duration_since(*since) < KEEP;
        self.0.get(&contact).is_some_and(|calls| calls.iter().filter(counts).count() >= MAX_OF_A_CONTACT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: ContactId = ContactId::new([1; 32]);
    const BOB: ContactId = ContactId::new([2; 32]);

    fn call(n: u16) -> CallId {
        CallId::from_bytes([n.to_be_bytes(); 8].concat().try_into().expect("16 bytes"))
    }

    #[test]
    fn a_finished_call_is_remembered_for_as_long_as_its_offer_would_open() {
        let now = Instant::now();
        let mut finished = FinishedCalls::default();
        finished.insert(call(0), ADA, now);
        finished.insert(call(1), ADA, now + KEEP - Duration::from_secs(1));
        assert!(finished.contains(call(0), ADA) && finished.contains(call(1), ADA));
        finished.insert(call(2), ADA, now + KEEP);
        assert!(!finished.contains(call(0), ADA) && finished.contains(call(1), ADA));
    }

    #[test]
    fn a_contact_with_many_calls_makes_nobody_forget_a_call() {
        let now = Instant::now();
        let mut finished = FinishedCalls::default();
        finished.insert(call(0), ADA, now);
        for n in 1..1000 {
            assert_eq!(finished.is_full_for(BOB, now), usize::from(n) > MAX_OF_A_CONTACT, "{n}");
            finished.insert(call(n), BOB, now);
        }
        assert!(finished.contains(call(0), ADA) && finished.contains(call(1), BOB));
        assert!(!finished.is_full_for(ADA, now) && !finished.is_full_for(BOB, now + KEEP));
    }
}
