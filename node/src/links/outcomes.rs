//! The messages of one link whose outcome is open.
//!
//! Tokens count up, and outcomes arrive in nearly the same order. So a queue indexed by token is enough: it needs no
//! hashing, and the oldest is always in front. Pure: the caller passes the time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::wire::breach::NotOpen;

/// The open outcomes of one link. `T` identifies the sender of a message.
#[derive(Debug)]
pub(crate) struct Outcomes<T> {
    /// The token of the first entry in the queue.
    first: u64,
    queue: VecDeque<Open<T>>,
    capacity: usize,
    /// How long an outcome may stay open.
    wait: Duration,
}

#[derive(Debug)]
struct Open<T> {
    sender: Option<T>,
    until: Instant,
}

impl<T> Outcomes<T> {
    /// Creates a queue of up to `capacity` outcomes, each open for at most `wait`.
    pub(crate) const fn new(capacity: usize, wait: Duration) -> Self {
        Self { first: 0, queue: VecDeque::new(), capacity, wait }
    }

    /// Returns the token of the next message. Returns `None` at the bound.
    pub(crate) fn next_token(&self) -> Option<u64> {
        (self.queue.len() < self.capacity).then(|| self.first + self.queue.len() as u64)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Opens the outcome of the message with the next token.
    pub(crate) fn open(&mut self, now: Instant, sender: T) {
        self.queue.push_back(Open { sender: Some(sender), until: now + self.wait });
    }

    /// Closes the outcome of `token`. Returns its sender, or `None` if it is not open.
    pub(crate) fn close(&mut self, token: u64) -> Option<T> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        let sender = self.queue.get_mut(index)?.sender.take();
        self.trim();
        sender
    }

    /// Closes the outcomes of `count` tokens from `first` on, and appends their senders to `senders`. Overdue ones that
    /// were already closed are skipped.
    ///
    /// # Errors
    /// Returns an error at the first token that is not open, and stops there. So repeating a row costs no more than
    /// closing it once.
    pub(crate) fn close_row(&mut self, first: u64, count: u32, senders: &mut Vec<T>) -> Result<(), NotOpen> {
        let end = first.checked_add(count.into()).ok_or(NotOpen)?;
        let from = first.max(self.first);
        let index_of = |token: u64| usize::try_from(token.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let (skipped, len) = (index_of(from), end.saturating_sub(from));
        let row = self.queue.iter_mut().skip(skipped).map_while(|open| open.sender.take());
        let before = senders.len();
        senders.extend(row.take(usize::try_from(len).unwrap_or(usize::MAX)));
        let closed = senders.len() - before;
        self.trim();
        if closed as u64 == len { Ok(()) } else { Err(NotOpen) }
    }

    /// Closes the oldest outcome if it is overdue. Returns its sender.
    pub(crate) fn close_overdue(&mut self, now: Instant) -> Option<T> {
        self.trim();
        if self.queue.front()?.until > now {
            return None;
        }
        self.first += 1;
        self.queue.pop_front()?.sender
    }

    /// Closes all open outcomes. Returns their senders.
    pub(crate) fn close_all(&mut self) -> Vec<T> {
        self.first += self.queue.len() as u64;
        self.queue.drain(..).filter_map(|open| open.sender).collect()
    }

    fn trim(&mut self) {
        while self.queue.front().is_some_and(|open| open.sender.is_none()) {
            self.queue.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(2);

    fn open(outcomes: &mut Outcomes<&'static str>, now: Instant, sender: &'static str) -> u64 {
        let token = outcomes.next_token().expect("room");
        outcomes.open(now, sender);
        token
    }

    #[test]
    fn every_outcome_closes_once_in_any_order() {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(10, WAIT);
        let (a, b, c) = (open(&mut outcomes, now, "a"), open(&mut outcomes, now, "b"), open(&mut outcomes, now, "c"));
        assert_eq!(outcomes.close(b), Some("b"));
        assert_eq!(outcomes.close(b), None);
        assert_eq!(outcomes.close(a), Some("a"));
        assert_eq!(outcomes.close(a), None);
        assert_eq!(outcomes.close(99), None);
        let d = open(&mut outcomes, now, "d");
        assert_eq!((outcomes.close(d), outcomes.close(c)), (Some("d"), Some("c")));
    }

    #[test]
    fn a_row_ends_at_the_first_that_is_not_open() {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(10, WAIT);
        let tokens = ["a", "b", "c", "d", "e"].map(|sender| open(&mut outcomes, now, sender));
        let mut close_row = |first, count| {
            let mut senders = Vec::new();
            (outcomes.close_row(first, count, &mut senders), senders)
        };
        assert_eq!(close_row(tokens[1], 2), (Ok(()), vec!["b", "c"]));
        assert_eq!(close_row(tokens[1], 3), (Err(NotOpen), vec![]), "closed before");
        assert_eq!(close_row(tokens[0], 5), (Err(NotOpen), vec!["a"]), "closed before, behind one that wasn't");
        assert_eq!(close_row(tokens[4] + 1, u32::MAX), (Err(NotOpen), vec![]), "never opened");
        assert_eq!(close_row(u64::MAX, u32::MAX), (Err(NotOpen), vec![]), "never opened");
        assert_eq!(close_row(tokens[3], u32::MAX), (Err(NotOpen), vec!["d", "e"]));
    }

    #[test]
    fn a_late_row_is_not_a_breach() {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(10, WAIT);
        let a = open(&mut outcomes, now, "a");
        open(&mut outcomes, now + WAIT, "b");
        assert_eq!(outcomes.close_overdue(now + WAIT), Some("a"));
        let mut senders = Vec::new();
        assert_eq!(outcomes.close_row(a, 1, &mut senders), Ok(()));
        assert_eq!(outcomes.close_row(a, 2, &mut senders), Ok(()));
        assert_eq!(senders, ["b"]);
    }

    #[test]
    fn overdue_outcomes_close_oldest_first() {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(10, WAIT);
        let a = open(&mut outcomes, now, "a");
        open(&mut outcomes, now, "b");
        open(&mut outcomes, now + WAIT, "c");
        outcomes.close(a);
        assert_eq!(outcomes.close_overdue(now), None);
        assert_eq!(outcomes.close_overdue(now + WAIT), Some("b"));
        assert_eq!(outcomes.close_overdue(now + WAIT), None);
        assert_eq!(outcomes.close_all(), vec!["c"]);
    }

    #[test]
    fn a_full_queue_opens_no_outcome_until_one_closes() {
        let now = Instant::now();
        let mut outcomes = Outcomes::new(1, WAIT);
        let a = open(&mut outcomes, now, "a");
        assert_eq!(outcomes.next_token(), None);
        outcomes.close(a);
        assert_eq!(outcomes.next_token(), Some(a + 1));
    }
}
