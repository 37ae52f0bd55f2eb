//! A budget for memory that clients cause: write queues, incomplete messages, and payloads of pair requests. Each
//! client has its own bounds; the budget bounds the total of thousands of clients.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of each client and direction that are not counted, so that an offer and a few candidates always fit.
pub(crate) const FREE_DIRECTION: usize = 8 * 1024;
/// Bytes of each stored payload that are not counted: enough for keys.
pub(crate) const FREE_PAYLOAD: usize = 1024;

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetExceeded;

/// The bytes reserved for all clients, and their maximum.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bytes: AtomicUsize,
    limit: AtomicUsize,
    /// Limits how many sessions write out buffered data at once.
    writing: Arc<Semaphore>,
}

/// A permit for writing out buffered data, released on drop.
#[derive(Debug)]
pub(crate) struct WriteTurn(#[expect(dead_code, reason = "releases the permit on drop")] Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// Creates a budget of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        // Half of the processors, as for signature checks, so that other ready tasks run in between.
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        let writing = Arc::new(Semaphore::new(processors.div_ceil(2)));
        Arc::new(Self { bytes: AtomicUsize::new(0), limit: AtomicUsize::new(limit), writing })
    }

    /// Replaces the limit. Reserved bytes stay, even if they exceed it.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// A reservation for one buffer, such as one direction of a client. The first `FREE` bytes are not counted.
pub(crate) struct Reservation<const FREE: usize> {
    budget: Arc<MemoryBudget>,
    counted: usize,
}

impl<const FREE: usize> fmt::Debug for Reservation<FREE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.counted).finish()
    }
}

impl<const FREE: usize> Reservation<FREE> {
    /// Reserves `bytes`.
    pub(crate) fn reserve(budget: Arc<MemoryBudget>, bytes: usize) -> Result<Self, BudgetExceeded> {
        let mut reservation = Self::new(budget);
        reservation.resize(bytes)?;
        Ok(reservation)
    }

    /// Creates an empty reservation.
    pub(crate) const fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, counted: 0 }
    }

    /// Waits for a write permit, in the order of the calls.
    pub(crate) fn write_turn(&self) -> impl Future<Output = WriteTurn> + Send + use<FREE> {
        let writing = self.budget.writing.clone();
        // The semaphore is never closed.
        async move { WriteTurn(writing.acquire_owned().await.ok()) }
    }

    /// Returns whether the reservation can be resized to `bytes`.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(FREE).saturating_sub(self.counted);
        more == 0 || self.budget.bytes.load(Ordering::Relaxed) + more <= self.budget.limit.load(Ordering::Relaxed)
    }

    /// Resizes the reservation to `bytes`. On error it is unchanged and the caller must drop the data.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let counted = bytes.saturating_sub(FREE);
        if counted > self.counted {
            let more = counted - self.counted;
            let limit = self.budget.limit.load(Ordering::Relaxed);
            let add = |bytes: usize| bytes.checked_add(more).filter(|all| *all <= limit);
            self.budget.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| BudgetExceeded)?;
        } else if counted < self.counted {
            self.budget.bytes.fetch_sub(self.counted - counted, Ordering::Relaxed);
        }
        self.counted = counted;
        Ok(())
    }
}

impl<const FREE: usize> Drop for Reservation<FREE> {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_bounded_and_each_reservation_has_its_free_bytes() {
        let budget = MemoryBudget::new(100);
        let reservation = || Reservation::<FREE_DIRECTION>::new(budget.clone());
        let (mut one, mut other, mut third) = (reservation(), reservation(), reservation());
        assert_eq!(one.resize(FREE_DIRECTION + 60), Ok(()));
        assert_eq!(other.resize(FREE_DIRECTION + 41), Err(BudgetExceeded));
        assert!(!other.has_room(FREE_DIRECTION + 41) && other.has_room(FREE_DIRECTION + 40));
        assert_eq!(other.resize(FREE_DIRECTION + 40), Ok(()));
        assert_eq!(third.resize(FREE_DIRECTION), Ok(()));
        assert_eq!(third.resize(FREE_DIRECTION + 1), Err(BudgetExceeded));
        assert_eq!(one.resize(FREE_DIRECTION + 50), Ok(()));
        assert_eq!(third.resize(FREE_DIRECTION + 10), Ok(()));
        drop((other, third));
        assert_eq!(one.resize(FREE_DIRECTION + 100), Ok(()));
        budget.set_limit(50);
        assert_eq!(one.resize(FREE_DIRECTION + 101), Err(BudgetExceeded), "what is reserved stays");
        assert_eq!(one.resize(FREE_DIRECTION + 50), Ok(()));
        drop(one);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
    }
}
