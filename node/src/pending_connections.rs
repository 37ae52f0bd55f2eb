//! Connections without a session: in handshake, before the first request, or serving HTTP. At the limit, the oldest is
//! evicted. An honest client needs a few round trips, so idle connections cannot starve new clients.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Divisor of all connections that gives the limit of pending ones. When another node fails, its ten thousand clients
/// arrive at once.
const PART: usize = 2;

/// The queue of pending connections, owned by the accept loop.
#[derive(Debug)]
pub(crate) struct PendingConnections {
    /// The oldest first. Finished connections stay until they are cleaned up.
    waiting: VecDeque<oneshot::Sender<()>>,
    limit: usize,
}

/// Marks a connection as pending until it is dropped.
#[derive(Debug)]
pub(crate) struct PendingGuard(oneshot::Receiver<()>);

impl PendingConnections {
    /// Creates the queue for a listener with at most `connections` connections.
    pub(crate) fn for_listener(connections: usize) -> Self {
        Self::at_most((connections / PART).max(1))
    }

    /// Creates a queue of at most `limit` pending connections.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), limit }
    }

    /// Adds a pending connection. At the limit, evicts the oldest.
    pub(crate) fn add(&mut self) -> PendingGuard {
        // Most connections finish in the order of their arrival.
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.limit {
            self.waiting.retain(|one| !one.is_closed());
            if self.waiting.len() >= self.limit {
                self.evict_oldest();
            }
        }
        let (drop, dropped) = oneshot::channel();
        self.waiting.push_back(drop);
        PendingGuard(dropped)
    }

    /// Evicts the oldest pending connection. Returns whether there was one.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        while let Some(oldest) = self.waiting.pop_front() {
            if oldest.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

impl PendingGuard {
    /// Runs `opening`. Returns `None` if the connection is evicted first.
    pub(crate) async fn finish<T>(self, opening: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            // If the queue is gone, nothing is evicted any more.
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
    async fn the_oldest_is_evicted_and_finished_connections_do_not_count() {
        let mut pending = PendingConnections::for_listener(3 * PART);
        let first = pending.add();
        for _ in 0..100 {
            assert_eq!(pending.add().finish(ready(7)).await, Some(7));
        }
        let (second, third) = (pending.add(), pending.add());
        let fourth = pending.add();
        assert_eq!(first.finish(future::pending::<()>()).await, None);
        assert!(pending.evict_oldest());
        assert_eq!(second.finish(future::pending::<()>()).await, None);
        assert_eq!(third.finish(ready(7)).await, Some(7));
        drop(pending);
        assert_eq!(fourth.finish(ready(7)).await, Some(7), "the queue is gone");
    }

    #[test]
    fn nothing_is_evicted_if_nothing_is_pending() {
        let mut pending = PendingConnections::for_listener(4);
        drop(pending.add());
        assert!(!pending.evict_oldest());
    }
}
