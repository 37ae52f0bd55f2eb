//! A queue that is bounded in items and in bytes. Sending never waits: the sender handles a full queue.
//!
//! Both bounds are needed: an item can have 64 KiB, or be empty.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

/// The size of an item in a queue.
pub(crate) trait Weigh {
    /// Returns the item's heap size in bytes.
    fn weight(&self) -> usize;
}

impl Weigh for bytes::Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

/// Why an item was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrySendError {
    /// The queue is at one of its bounds.
    Full,
    /// The receiver is gone.
    Closed,
}

/// The sending half. Clones share the bounds.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    queue: mpsc::Sender<T>,
    queued: Arc<AtomicUsize>,
    max_bytes: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), queued: self.queued.clone(), max_bytes: self.max_bytes }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    queued: Arc<AtomicUsize>,
}

/// Creates a queue of at most `max_items` items and `max_bytes` bytes.
pub(crate) fn channel<T: Weigh>(max_items: usize, max_bytes: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(max_items);
    let queued = Arc::new(AtomicUsize::new(0));
    (Sender { queue: sender, queued: queued.clone(), max_bytes }, Receiver { queue: receiver, queued })
}

impl<T: Weigh> Sender<T> {
    /// Queues `item`, or returns an error at once.
    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError> {
        let weight = item.weight();
        if self.queued.fetch_add(weight, Ordering::Relaxed) + weight > self.max_bytes {
            self.queued.fetch_sub(weight, Ordering::Relaxed);
            return Err(TrySendError::Full);
        }
        self.queue.try_send(item).map_err(|error| {
            self.queued.fetch_sub(weight, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => TrySendError::Full,
                mpsc::error::TrySendError::Closed(_) => TrySendError::Closed,
            }
        })
    }
}

impl<T: Weigh> Receiver<T> {
    /// Waits for an item and takes up to `limit` ready items. Returns 0 once all senders are gone. Taken items count
    /// towards the bound until [`Receiver::done`].
    pub(crate) async fn recv_many(&mut self, items: &mut Vec<T>, limit: usize) -> usize {
        self.queue.recv_many(items, limit).await
    }

    /// Takes up to `limit` items that are ready now.
    pub(crate) fn take_ready(&mut self, items: &mut Vec<T>, limit: usize) {
        // Not `try_recv`, which may block the thread for a sender that is about to add its item.
        let _ = self.queue.recv_many(items, limit).now_or_never();
    }

    /// Releases the bytes of taken items that were processed.
    pub(crate) fn done(&self, weight: usize) {
        self.queued.fetch_sub(weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_queue_is_full_at_its_bytes_and_at_its_items_and_takes_more_after_a_receive() {
        let (sender, mut receiver) = channel::<Bytes>(2, 10);
        assert_eq!(sender.try_send(Bytes::from_static(b"12345678")), Ok(()));
        assert_eq!(sender.try_send(Bytes::from_static(b"123")), Err(TrySendError::Full));
        assert_eq!(sender.try_send(Bytes::from_static(b"12")), Ok(()));
        assert_eq!(sender.try_send(Bytes::new()), Err(TrySendError::Full));
        let mut taken = Vec::new();
        assert_eq!(receiver.recv_many(&mut taken, 1).await, 1);
        assert_eq!(taken, [Bytes::from_static(b"12345678")]);
        assert_eq!(sender.try_send(Bytes::from_static(b"1")), Err(TrySendError::Full), "it is still held");
        receiver.done(8);
        assert_eq!(sender.try_send(Bytes::from_static(b"12345678")), Ok(()));
        receiver.take_ready(&mut taken, 1);
        assert_eq!(taken.pop(), Some(Bytes::from_static(b"12")));
        receiver.done(2);
        assert_eq!(sender.try_send(Bytes::from_static(b"34")), Ok(()), "its bytes are free again");
        drop(receiver);
        assert_eq!(sender.try_send(Bytes::new()), Err(TrySendError::Closed));
    }
}
