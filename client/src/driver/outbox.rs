//! The messages that one call still has to send: in order, one at a time, each until it is delivered.
//!
//! Pure. One message at a time keeps the order across retries and nodes. Candidates that arrive meanwhile are merged
//! into one message, so waiting costs at most a round trip.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chappe_common::client::RelayKind;

use crate::seal::Padding;

/// The most candidates in one message, and their total size. A call has about ten candidates.
const MAX_CANDIDATES: usize = 64;
const MAX_CANDIDATE_BYTES: usize = 16 * 1024;
/// The most queued messages: an offer or answer, candidates, and the end.
const MAX_QUEUE: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutboxMessage {
    Offer,
    Answer,
    Ice(Vec<String>),
    Reject { busy: bool },
    Hangup,
}

impl OutboxMessage {
    pub(crate) const fn kind(&self) -> RelayKind {
        match self {
            Self::Offer => RelayKind::CallOffer,
            Self::Answer => RelayKind::CallAnswer,
            Self::Ice(_) => RelayKind::CallIce,
            Self::Reject { .. } => RelayKind::CallReject,
            Self::Hangup => RelayKind::CallHangup,
        }
    }

    pub(crate) const fn padding(&self) -> Padding {
        match self {
            Self::Offer | Self::Answer => Padding::Description,
            Self::Ice(_) | Self::Reject { .. } | Self::Hangup => Padding::Smallest,
        }
    }

    const fn is_end(&self) -> bool {
        matches!(self, Self::Reject { .. } | Self::Hangup)
    }
}

/// The queue is full, or a candidate is too long. The message was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be sent")]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<OutboxMessage>,
    /// The candidates that were delivered. The peer's session may end before it reads them, so they follow every
    /// further offer or answer. Duplicates do no harm.
    delivered_candidates: Vec<String>,
    /// The request that carries the first message of the queue.
    in_flight: Option<u64>,
    retry_at: Option<Instant>,
    backoff: ExponentialBackoff,
}

/// From 200 ms to 3 s, with jitter: a callee that changes its node is back within two seconds.
fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(3))
        .with_factor(1.7)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            delivered_candidates: Vec::new(),
            in_flight: None,
            retry_at: None,
            backoff: backoff(),
        }
    }
}

impl Outbox {
    /// Adds a message. An end clears the queue. An offer or answer is not queued twice. Candidates join a queued
    /// message of candidates.
    pub(crate) fn push(&mut self, item: OutboxMessage) -> Result<(), Full> {
        if item.is_end() {
            self.queue.clear();
            self.retry_now();
        }
        let waiting = usize::from(self.in_flight.is_some())..self.queue.len();
        if matches!(item, OutboxMessage::Offer | OutboxMessage::Answer)
            && self.queue.range(waiting.clone()).any(|known| *known == item)
        {
            return Ok(());
        }
        let item = match (item, if waiting.is_empty() { None } else { self.queue.back_mut() }) {
            (OutboxMessage::Ice(more), Some(OutboxMessage::Ice(known))) if fits(known.iter().chain(&more)) => {
                known.extend(more);
                return Ok(());
            }
            (item, _) => item,
        };
        if self.queue.len() >= MAX_QUEUE || matches!(&item, OutboxMessage::Ice(candidates) if !fits(candidates.iter()))
        {
            return Err(Full);
        }
        let describes = matches!(item, OutboxMessage::Offer | OutboxMessage::Answer);
        self.queue.push_back(item);
        if describes && !self.delivered_candidates.is_empty() && self.queue.len() < MAX_QUEUE {
            self.queue.push_back(OutboxMessage::Ice(std::mem::take(&mut self.delivered_candidates)));
        }
        Ok(())
    }

    /// The message to send at `now`.
    pub(crate) fn due(&self, now: Instant) -> Option<&OutboxMessage> {
        if self.in_flight.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.queue.front()
    }

    /// Marks the first message as sent with this request.
    pub(crate) fn mark_in_flight(&mut self, request: u64) {
        self.in_flight = Some(request);
    }

    /// Marks the first message as not in flight, to send the next request for it. Returns `None` if `request` is not
    /// the one in flight.
    pub(crate) fn clear_in_flight(&mut self, request: u64) -> Option<&OutboxMessage> {
        if self.in_flight != Some(request) {
            return None;
        }
        self.in_flight = None;
        self.queue.front()
    }

    /// Removes the message that this request has delivered.
    pub(crate) fn delivered(&mut self, request: u64) -> Option<OutboxMessage> {
        self.clear_in_flight(request)?;
        self.retry_now();
        let item = self.queue.pop_front();
        if let Some(OutboxMessage::Ice(candidates)) = &item
            && fits(self.delivered_candidates.iter().chain(candidates))
        {
            self.delivered_candidates.extend_from_slice(candidates);
        }
        item
    }

    /// Schedules a retry of the message of this request, after a pause.
    pub(crate) fn failed(&mut self, request: u64, now: Instant) -> Option<&OutboxMessage> {
        self.clear_in_flight(request)?;
        self.retry_at = self.backoff.next().map(|pause| now + pause);
        self.queue.front()
    }

    /// Drops the message of this request.
    pub(crate) fn drop_first(&mut self, request: u64) -> Option<OutboxMessage> {
        self.clear_in_flight(request)?;
        self.retry_now();
        self.queue.pop_front()
    }

    /// Makes the first message due at once, as after a new session.
    pub(crate) fn retry_now(&mut self) {
        self.in_flight = None;
        self.retry_at = None;
        self.backoff = backoff();
    }

    /// Drops the queue, unless its first message is an end.
    pub(crate) fn keep_only_end(&mut self) {
        if !self.queue.front().is_some_and(OutboxMessage::is_end) {
            self.queue.clear();
            self.retry_now();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When a retry is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.in_flight.is_some() || self.queue.is_empty() { None } else { self.retry_at }
    }
}

fn fits<'a>(candidates: impl Iterator<Item = &'a String>) -> bool {
    let (count, bytes) = candidates.fold((0, 0), |(count, bytes), text| (count + 1, bytes + text.len() + 3));
    count <= MAX_CANDIDATES && bytes <= MAX_CANDIDATE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ice(n: u32) -> OutboxMessage {
        OutboxMessage::Ice(vec![n.to_string()])
    }

    #[test]
    fn messages_leave_in_order_and_one_at_a_time() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(OutboxMessage::Offer).expect("room");
        outbox.push(ice(1)).expect("room");
        assert_eq!(outbox.due(now), Some(&OutboxMessage::Offer));
        outbox.mark_in_flight(7);
        assert_eq!(outbox.due(now), None);
        assert_eq!(outbox.delivered(6), None, "the answer to another request changes nothing");
        assert_eq!(outbox.delivered(7), Some(OutboxMessage::Offer));
        assert_eq!(outbox.due(now), Some(&ice(1)));
    }

    #[test]
    fn candidates_that_wait_travel_together_and_those_under_way_are_left_alone() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(ice(1)).expect("room");
        outbox.mark_in_flight(1);
        outbox.push(ice(2)).expect("room");
        outbox.push(ice(3)).expect("room");
        assert_eq!(outbox.delivered(1), Some(ice(1)));
        assert_eq!(outbox.due(now), Some(&OutboxMessage::Ice(vec!["2".to_owned(), "3".to_owned()])));
    }

    #[test]
    fn a_failed_message_is_tried_again_after_a_growing_pause_and_at_once_with_a_new_session() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(OutboxMessage::Answer).expect("room");
        for request in 0..20 {
            outbox.mark_in_flight(request);
            assert_eq!(outbox.failed(request, now), Some(&OutboxMessage::Answer));
            let again = outbox.next_deadline().expect("it is tried again");
            assert!(again > now && again <= now + Duration::from_secs(6));
            assert_eq!(outbox.due(now), None);
            outbox.retry_now();
            assert_eq!(outbox.due(now), Some(&OutboxMessage::Answer));
        }
    }

    #[test]
    fn the_end_of_a_call_overtakes_queued_messages() {
        let mut outbox = Outbox::default();
        outbox.push(OutboxMessage::Offer).expect("room");
        outbox.mark_in_flight(1);
        outbox.push(ice(1)).expect("room");
        outbox.push(OutboxMessage::Hangup).expect("room");
        assert_eq!(outbox.delivered(1), None, "nobody waits for the offer any more");
        assert_eq!(outbox.due(Instant::now()), Some(&OutboxMessage::Hangup));
    }

    #[test]
    fn an_offer_waits_only_once_and_the_queue_is_bounded() {
        let mut outbox = Outbox::default();
        outbox.push(OutboxMessage::Offer).expect("room");
        outbox.push(OutboxMessage::Offer).expect("room");
        outbox.mark_in_flight(1);
        outbox.push(OutboxMessage::Offer).expect("a second one behind the one that is under way");
        assert_eq!(outbox.queue.len(), 2);
        let long = OutboxMessage::Ice(vec!["x".repeat(9000)]);
        for n in 2..MAX_QUEUE {
            assert_eq!(outbox.push(long.clone()), Ok(()), "{n}");
        }
        assert_eq!(outbox.push(long), Err(Full));
        assert_eq!(Outbox::default().push(OutboxMessage::Ice(vec!["x".repeat(20_000)])), Err(Full));
    }

    #[test]
    fn candidates_that_were_delivered_follow_a_further_offer() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for (request, item) in [(1, OutboxMessage::Offer), (2, ice(1)), (3, ice(2))] {
            outbox.push(item.clone()).expect("room");
            outbox.mark_in_flight(request);
            assert_eq!(outbox.delivered(request), Some(item));
        }
        // The other side sends a request from another node: its earlier session may have ended before it read the
        // candidates.
        outbox.push(OutboxMessage::Offer).expect("room");
        outbox.mark_in_flight(4);
        assert_eq!(outbox.delivered(4), Some(OutboxMessage::Offer));
        assert_eq!(outbox.due(now), Some(&OutboxMessage::Ice(vec!["1".to_owned(), "2".to_owned()])));
        outbox.mark_in_flight(5);
        outbox.delivered(5);
        assert!(outbox.is_empty());
    }
}
