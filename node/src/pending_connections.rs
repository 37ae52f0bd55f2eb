//! Connections that are no sessions (yet): handshakes, first requests, and HTTP. Where too many wait, the oldest makes room: whoever opens connections
//! and says nothing keeps nobody else out, who is done within a few round trips.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// The part of all connections that may be unfinished: when another node dies, its ten thousand clients come at once.
const PART: usize = 2;

/// Owned by who accepts.
#[derive(Debug)]
pub(crate) struct PendingConnections {
    /// The oldest first. Those that have finished since are still among them.
    waiting: VecDeque<oneshot::Sender<()>>,
    most: usize,
}

/// A connection's own side of it. Dropped, the connection counts as finished.
#[derive(Debug)]
pub(crate) struct PendingGuard(oneshot::Receiver<()>);

impl PendingConnections {
    /// Of at most `connections` at once.
    pub(crate) fn of(connections: usize) -> Self {
        Self::at_most((connections / PART).max(1))
    }

    /// Up to `most`.
    pub(crate) fn at_most(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most }
    }

    /// Counts one more in, at the cost of the oldest where there are too many.
    pub(crate) fn count_in(&mut self) -> PendingGuard {
        // Most are finished in the order in which they came.
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.most {
            self.waiting.retain(|one| !one.is_closed());
            if self.waiting.len() >= self.most {
                self.drop_oldest();
            }
        }
        let (drop, dropped) = oneshot::channel();
        self.waiting.push_back(drop);
        PendingGuard(dropped)
    }

    /// Drops the oldest; whether there was one.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        while let Some(oldest) = self.waiting.pop_front() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

impl PendingGuard {
    /// Does what finishes the connection; `None` where it had to make room first.
    pub(crate) async fn finish<T>(self, opening: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            // The other half is gone where nobody accepts any more: then nobody has to make room.
            Ok(()) = self.0 => None,
            opened = opening => Some(opened),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{self, ready};

    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_and_the_finished_are_not_counted() {
        let mut pending = PendingConnections::of(3 * PART);
        let first = pending.count_in();
        for _ in 0..100 {
            assert_eq!(pending.count_in().finish(ready(7)).await, Some(7));
        }
        let (second, third) = (pending.count_in(), pending.count_in());
        let fourth = pending.count_in();
        assert_eq!(first.finish(future::pending::<()>()).await, None);
        assert!(pending.drop_oldest());
        assert_eq!(second.finish(future::pending::<()>()).await, None);
        assert_eq!(third.finish(ready(7)).await, Some(7));
        drop(pending);
        assert_eq!(fourth.finish(ready(7)).await, Some(7), "nobody accepts any more");
    }

    #[test]
    fn where_nobody_waits_nobody_is_dropped() {
        let mut pending = PendingConnections::of(4);
        drop(pending.count_in());
        assert!(!pending.drop_oldest());
    }
}
