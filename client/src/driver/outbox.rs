//! What one call still has to send: in order, one at a time, each until it is delivered.
//!
//! Pure. One at a time keeps the order across retries and nodes; candidates that come meanwhile travel together, so
//! waiting costs no more than a round trip.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chappe_common::client::RelayKind;

/// The most candidates in one message, and how many bytes of them; a session has about ten.
const MAX_CANDIDATES: usize = 64;
const MAX_CANDIDATE_BYTES: usize = 16 * 1024;
/// The most messages that wait: an offer or answer, candidates, and the end.
const MAX_QUEUE: usize = 8;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Offer,
    Answer,
    Ice(Vec<String>),
    Reject { busy: bool },
    Hangup,
}

impl Item {
    pub(crate) const fn kind(&self) -> RelayKind {
        match self {
            Self::Offer => RelayKind::CallOffer,
            Self::Answer => RelayKind::CallAnswer,
            Self::Ice(_) => RelayKind::CallIce,
            Self::Reject { .. } => RelayKind::CallReject,
            Self::Hangup => RelayKind::CallHangup,
        }
    }

    const fn is_end(&self) -> bool {
        matches!(self, Self::Reject { .. } | Self::Hangup)
    }
}

/// The queue is full, or a candidate is longer than a message may be. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting to be sent")]
pub(crate) struct Full;

/// The messages of one call that are not delivered so far.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Item>,
    /// The candidates that were delivered. A connection may die with them, so they follow every further offer or answer;
    /// to have one twice does no harm.
    told: Vec<String>,
    /// The request that carries the first of the queue.
    in_flight: Option<u64>,
    retry_at: Option<Instant>,
    backoff: ExponentialBackoff,
}

/// From 200 ms to 3 s, with jitter: a callee that changes its node is back within a second or two.
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
        Self { queue: VecDeque::new(), told: Vec::new(), in_flight: None, retry_at: None, backoff: backoff() }
    }
}

impl Outbox {
    /// Adds a message. The end of a call makes everything before it pointless; a second offer or answer takes the place
    /// of one that still waits; candidates join those that wait.
    pub(crate) fn push(&mut self, item: Item) -> Result<(), Full> {
        if item.is_end() {
            self.queue.clear();
            self.restart();
        }
        let waiting = usize::from(self.in_flight.is_some())..self.queue.len();
        if matches!(item, Item::Offer | Item::Answer) && self.queue.range(waiting.clone()).any(|known| *known == item) {
            return Ok(());
        }
        let item = match (item, if waiting.is_empty() { None } else { self.queue.back_mut() }) {
            (Item::Ice(more), Some(Item::Ice(known))) if fits(known.iter().chain(&more)) => {
                known.extend(more);
                return Ok(());
            }
            (item, _) => item,
        };
        if self.queue.len() >= MAX_QUEUE || matches!(&item, Item::Ice(candidates) if !fits(candidates.iter())) {
            return Err(Full);
        }
        let describes = matches!(item, Item::Offer | Item::Answer);
        self.queue.push_back(item);
        if describes && !self.told.is_empty() && self.queue.len() < MAX_QUEUE {
            self.queue.push_back(Item::Ice(std::mem::take(&mut self.told)));
        }
        Ok(())
    }

    /// The message that is to be sent at `now`.
    pub(crate) fn due(&self, now: Instant) -> Option<&Item> {
        if self.in_flight.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.queue.front()
    }

    /// The first message is under way by this request.
    pub(crate) fn begin(&mut self, request: u64) {
        self.in_flight = Some(request);
    }

    /// The request is answered and another one follows for the same message; `None` where the request is none of this
    /// outbox any more.
    pub(crate) fn proceed(&mut self, request: u64) -> Option<&Item> {
        if self.in_flight != Some(request) {
            return None;
        }
        self.in_flight = None;
        self.queue.front()
    }

    /// The message of this request has arrived.
    pub(crate) fn delivered(&mut self, request: u64) -> Option<Item> {
        self.proceed(request)?;
        self.restart();
        let item = self.queue.pop_front();
        if let Some(Item::Ice(candidates)) = &item
            && fits(self.told.iter().chain(candidates))
        {
            self.told.extend_from_slice(candidates);
        }
        item
    }

    /// It has not, and is tried again after a pause.
    pub(crate) fn failed(&mut self, request: u64, now: Instant) -> Option<&Item> {
        self.proceed(request)?;
        self.retry_at = self.backoff.next().map(|pause| now + pause);
        self.queue.front()
    }

    /// It never will: it is dropped.
    pub(crate) fn drop_first(&mut self, request: u64) -> Option<Item> {
        self.proceed(request)?;
        self.restart();
        self.queue.pop_front()
    }

    /// There is a new session: whatever waits is tried at once.
    pub(crate) fn restart(&mut self) {
        self.in_flight = None;
        self.retry_at = None;
        self.backoff = backoff();
    }

    /// The call is over: only the farewell, if there is one, is still worth sending.
    pub(crate) fn keep_farewell(&mut self) {
        if !self.queue.front().is_some_and(Item::is_end) {
            self.queue.clear();
            self.restart();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When [`Self::due`] may have something again.
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

    fn ice(n: u32) -> Item {
        Item::Ice(vec![n.to_string()])
    }

    #[test]
    fn messages_leave_in_order_and_one_at_a_time() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(Item::Offer).expect("room");
        outbox.push(ice(1)).expect("room");
        assert_eq!(outbox.due(now), Some(&Item::Offer));
        outbox.begin(7);
        assert_eq!(outbox.due(now), None);
        assert_eq!(outbox.delivered(6), None, "the answer to another request changes nothing");
        assert_eq!(outbox.delivered(7), Some(Item::Offer));
        assert_eq!(outbox.due(now), Some(&ice(1)));
    }

    #[test]
    fn candidates_that_wait_travel_together_and_those_under_way_are_left_alone() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(ice(1)).expect("room");
        outbox.begin(1);
        outbox.push(ice(2)).expect("room");
        outbox.push(ice(3)).expect("room");
        assert_eq!(outbox.delivered(1), Some(ice(1)));
        assert_eq!(outbox.due(now), Some(&Item::Ice(vec!["2".to_owned(), "3".to_owned()])));
    }

    #[test]
    fn a_failed_message_is_tried_again_after_a_growing_pause_and_at_once_with_a_new_session() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(Item::Answer).expect("room");
        for request in 0..20 {
            outbox.begin(request);
            assert_eq!(outbox.failed(request, now), Some(&Item::Answer));
            let again = outbox.next_deadline().expect("it is tried again");
            assert!(again > now && again <= now + Duration::from_secs(6));
            assert_eq!(outbox.due(now), None);
            outbox.restart();
            assert_eq!(outbox.due(now), Some(&Item::Answer));
        }
    }

    #[test]
    fn the_end_of_a_call_overtakes_what_waits() {
        let mut outbox = Outbox::default();
        outbox.push(Item::Offer).expect("room");
        outbox.begin(1);
        outbox.push(ice(1)).expect("room");
        outbox.push(Item::Hangup).expect("room");
        assert_eq!(outbox.delivered(1), None, "nobody waits for the offer any more");
        assert_eq!(outbox.due(Instant::now()), Some(&Item::Hangup));
    }

    #[test]
    fn an_offer_waits_only_once_and_the_queue_is_bounded() {
        let mut outbox = Outbox::default();
        outbox.push(Item::Offer).expect("room");
        outbox.push(Item::Offer).expect("room");
        outbox.begin(1);
        outbox.push(Item::Offer).expect("a second one behind the one that is under way");
        assert_eq!(outbox.queue.len(), 2);
        let long = Item::Ice(vec!["x".repeat(9000)]);
        for n in 2..MAX_QUEUE {
            assert_eq!(outbox.push(long.clone()), Ok(()), "{n}");
        }
        assert_eq!(outbox.push(long), Err(Full));
        assert_eq!(Outbox::default().push(Item::Ice(vec!["x".repeat(20_000)])), Err(Full));
    }

    #[test]
    fn candidates_that_were_delivered_follow_a_further_offer() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for (request, item) in [(1, Item::Offer), (2, ice(1)), (3, ice(2))] {
            outbox.push(item.clone()).expect("room");
            outbox.begin(request);
            assert_eq!(outbox.delivered(request), Some(item));
        }
        // The other side asks from another node: its former connection may have died with all of it.
        outbox.push(Item::Offer).expect("room");
        outbox.begin(4);
        assert_eq!(outbox.delivered(4), Some(Item::Offer));
        assert_eq!(outbox.due(now), Some(&Item::Ice(vec!["1".to_owned(), "2".to_owned()])));
        outbox.begin(5);
        outbox.delivered(5);
        assert!(outbox.is_empty());
    }
}
