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

use crate::{message::Description, seal::Padding};

/// The most candidates in one message, and their total size. A call has about ten candidates.
const MAX_CANDIDATES: usize = 64;
const MAX_CANDIDATE_BYTES: usize = 16 * 1024;
/// The most queued messages: an offer or answer, candidates, a further description, and the end.
const MAX_QUEUE: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutboxMessage {
    Offer,
    Answer,
    Ice {
        /// The round of the candidates.
        round: u32,
        candidates: Vec<String>,
    },
    /// A description of a renegotiation.
    Description {
        round: u32,
        description: Description,
    },
    Reject {
        busy: bool,
    },
    Hangup,
}

impl OutboxMessage {
    pub(crate) const fn kind(&self) -> RelayKind {
        match self {
            Self::Offer => RelayKind::CallOffer,
            Self::Answer => RelayKind::CallAnswer,
            Self::Ice { .. } | Self::Description { .. } => RelayKind::CallIce,
            Self::Reject { .. } => RelayKind::CallReject,
            Self::Hangup => RelayKind::CallHangup,
        }
    }

    pub(crate) const fn padding(&self) -> Padding {
        match self {
            Self::Offer | Self::Answer | Self::Description { .. } => Padding::Description,
            Self::Ice { .. } | Self::Reject { .. } | Self::Hangup => Padding::Smallest,
        }
    }

    const fn is_end(&self) -> bool {
        matches!(self, Self::Reject { .. } | Self::Hangup)
    }

    /// The round that the message describes.
    const fn described_round(&self) -> Option<u32> {
        match self {
            Self::Offer | Self::Answer => Some(0),
            Self::Description { round, .. } => Some(*round),
            _ => None,
        }
    }

    /// Whether a description of `round` replaces the message: the receiver would ignore it.
    const fn is_replaced_by(&self, round: u32) -> bool {
        match self {
            Self::Description { round: own, .. } => *own <= round,
            Self::Ice { round: own, .. } => *own < round,
            _ => false,
        }
    }
}

/// The queue is full, or a candidate is too long. The message was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be sent")]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<OutboxMessage>,
    /// The delivered candidates of the newest round. The peer's session may end before it reads them, so they follow
    /// every repeated description. Duplicates do no harm.
    delivered_candidates: Vec<String>,
    /// Their round.
    delivered_round: u32,
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
            delivered_round: 0,
            in_flight: None,
            retry_at: None,
            backoff: backoff(),
        }
    }
}

impl Outbox {
    /// Adds a message. An end clears the queue. A description is not queued twice, and replaces those of earlier rounds.
    /// Candidates join a queued message of candidates.
    pub(crate) fn push(&mut self, item: OutboxMessage) -> Result<(), Full> {
        if item.is_end() {
            self.queue.clear();
            self.retry_now();
        }
        let first = usize::from(self.in_flight.is_some());
        let described = item.described_round();
        if described.is_some() && self.queue.range(first.min(self.queue.len())..).any(|known| *known == item) {
            return Ok(());
        }
        if let OutboxMessage::Description { round, .. } = &item {
            let mut index = 0;
            self.queue.retain(|known| {
                index += 1;
                index <= first || !known.is_replaced_by(*round)
            });
        }
        let item = match (item, if self.queue.len() <= first { None } else { self.queue.back_mut() }) {
            (
                OutboxMessage::Ice { round, candidates: more },
                Some(OutboxMessage::Ice { round: known_round, candidates: known }),
            ) if round == *known_round && fits(known.iter().chain(&more)) => {
                known.extend(more);
                return Ok(());
            }
            (item, _) => item,
        };
        let is_long = matches!(&item, OutboxMessage::Ice { candidates, .. } if !fits(candidates.iter()));
        if self.queue.len() >= MAX_QUEUE || is_long {
            return Err(Full);
        }
        self.queue.push_back(item);
        if described.is_some_and(|round| round == self.delivered_round || round == 0)
            && !self.delivered_candidates.is_empty()
            && self.queue.len() < MAX_QUEUE
        {
            let candidates = std::mem::take(&mut self.delivered_candidates);
            self.queue.push_back(OutboxMessage::Ice { round: self.delivered_round, candidates });
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
        if let Some(OutboxMessage::Ice { round, candidates }) = &item {
            self.keep_delivered(*round, candidates);
        }
        item
    }

    fn keep_delivered(&mut self, round: u32, candidates: &[String]) {
        if round > self.delivered_round {
            self.delivered_round = round;
            self.delivered_candidates.clear();
        }
        if round == self.delivered_round && fits(self.delivered_candidates.iter().chain(candidates)) {
            self.delivered_candidates.extend_from_slice(candidates);
        }
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
    use chappe_common::redacted::Redacted;

    use super::*;
    use crate::message::DescriptionKind;

    fn ice(n: u32) -> OutboxMessage {
        ice_of(0, &[n])
    }

    fn ice_of(round: u32, numbers: &[u32]) -> OutboxMessage {
        OutboxMessage::Ice { round, candidates: numbers.iter().map(u32::to_string).collect() }
    }

    fn description(round: u32, kind: DescriptionKind) -> OutboxMessage {
        OutboxMessage::Description { round, description: Description { kind, sdp: Redacted::new("v=0".to_owned()) } }
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
        assert_eq!(outbox.due(now), Some(&ice_of(0, &[2, 3])));
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
        let long = |bytes| OutboxMessage::Ice { round: 0, candidates: vec!["x".repeat(bytes)] };
        for n in 2..MAX_QUEUE {
            assert_eq!(outbox.push(long(9000)), Ok(()), "{n}");
        }
        assert_eq!(outbox.push(long(9000)), Err(Full));
        assert_eq!(Outbox::default().push(long(20_000)), Err(Full));
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
        assert_eq!(outbox.due(now), Some(&ice_of(0, &[1, 2])));
        outbox.mark_in_flight(5);
        outbox.delivered(5);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_description_replaces_what_waits_of_earlier_rounds() {
        let now = Instant::now();
        let (offer, answer) = (description(1, DescriptionKind::Offer), description(1, DescriptionKind::Answer));
        let mut outbox = Outbox::default();
        for item in [ice(1), ice_of(1, &[2]), offer] {
            outbox.push(item).expect("room");
        }
        // The other side's offer of the same round counts.
        outbox.push(answer.clone()).expect("room");
        outbox.push(answer.clone()).expect("it waits already");
        assert_eq!(outbox.queue, [ice_of(1, &[2]), answer.clone()]);
        outbox.mark_in_flight(1);
        let next = description(2, DescriptionKind::Offer);
        outbox.push(next.clone()).expect("room");
        assert_eq!(outbox.queue, [ice_of(1, &[2]), next.clone()], "the message under way is left alone");
        outbox.delivered(1);
        assert_eq!(outbox.due(now), Some(&next));
    }

    #[test]
    fn only_the_candidates_of_its_round_follow_a_repeated_description() {
        let mut outbox = Outbox::default();
        let (first, next) = (description(1, DescriptionKind::Offer), description(2, DescriptionKind::Offer));
        for (request, item) in [(1, ice(1)), (2, first.clone()), (3, ice_of(1, &[2]))] {
            outbox.push(item.clone()).expect("room");
            outbox.mark_in_flight(request);
            assert_eq!(outbox.delivered(request), Some(item));
        }
        outbox.push(first.clone()).expect("room");
        assert_eq!(outbox.queue, [first, ice_of(1, &[2])]);
        outbox.push(next.clone()).expect("room");
        assert_eq!(outbox.queue, [next]);
    }
}
