//! Limits how often a contact can make this side ring, so that no contact can block the phone.
//!
//! Pure. A contact rings at most once in [`RING_EVERY`]; after an answered call it may ring again at once. Each unanswered
//! ring in a row doubles the pause, up to [`LONGEST_PAUSE`]. An answered ring, or [`FORGET_AFTER`] without one, resets it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::contact::ContactId;

/// The shortest time from one ring of a contact to the next.
pub const RING_EVERY: Duration = Duration::from_secs(30);
/// The longest pause after unanswered rings.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// After this time without a ring, a contact's history is dropped.
pub const FORGET_AFTER: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug)]
struct Rings {
    last: Instant,
    next: Instant,
    unanswered: u32,
}

/// The recent rings of each contact. Only sealed messages of contacts reach it, so it has at most one entry per
/// contact.
#[derive(Debug, Default)]
pub struct RingLimiter {
    contacts: HashMap<ContactId, Rings>,
}

impl RingLimiter {
    /// Returns whether the contact may ring now, and records the ring if so.
    pub fn try_ring(&mut self, contact: ContactId, now: Instant) -> bool {
        self.contacts.retain(|_, rings| now.saturating_duration_since(rings.last) < FORGET_AFTER);
        let rings = self.contacts.entry(contact).or_insert(Rings { last: now, next: now, unanswered: 0 });
        let may_ring = rings.next <= now;
        if may_ring {
            (rings.last, rings.next) = (now, now + RING_EVERY);
        }
        may_ring
    }

    /// Records that the contact's ring was answered.
    pub fn answered(&mut self, contact: ContactId) {
        self.contacts.remove(&contact);
    }

    /// Records that the contact's ring was declined, cancelled or not answered.
    pub fn unanswered(&mut self, contact: ContactId, now: Instant) {
        if let Some(rings) = self.contacts.get_mut(&contact) {
            let pause = RING_EVERY.saturating_mul(2_u32.saturating_pow(rings.unanswered)).min(LONGEST_PAUSE);
            rings.next = rings.next.max(now + pause);
            rings.unanswered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: ContactId = ContactId::new([1; 32]);
    const BOB: ContactId = ContactId::new([2; 32]);

    #[test]
    fn a_contact_rings_once_in_half_a_minute_and_others_are_not_held_back() {
        let (mut limiter, start) = (RingLimiter::default(), Instant::now());
        assert!(limiter.try_ring(ADA, start));
        assert!(!limiter.try_ring(ADA, start + RING_EVERY - Duration::from_secs(1)));
        assert!(limiter.try_ring(BOB, start));
        assert!(limiter.try_ring(ADA, start + RING_EVERY));
    }

    #[test]
    fn unanswered_rings_become_rare_and_an_answer_resets_the_rate() {
        let (mut limiter, mut now) = (RingLimiter::default(), Instant::now());
        let mut rings = 0;
        let end = now + Duration::from_secs(24 * 3600);
        // It tries each second, and each ring lasts for its longest.
        while now < end {
            if limiter.try_ring(ADA, now) {
                rings += 1;
                now += crate::call::RINGING;
                limiter.unanswered(ADA, now);
            }
            now += Duration::from_secs(1);
        }
        assert!((20..40).contains(&rings), "{rings} in a day");
        limiter.answered(ADA);
        assert!(limiter.try_ring(ADA, now));
    }

    #[test]
    fn hours_of_silence_reset_a_contacts_rate() {
        let (mut limiter, start) = (RingLimiter::default(), Instant::now());
        for n in 0..5 {
            let now = start + LONGEST_PAUSE * n;
            assert!(limiter.try_ring(ADA, now));
            limiter.unanswered(ADA, now);
        }
        let later = start + LONGEST_PAUSE * 5 + FORGET_AFTER;
        assert!(limiter.try_ring(ADA, later));
        limiter.unanswered(ADA, later);
        assert!(limiter.try_ring(ADA, later + RING_EVERY));
    }
}
