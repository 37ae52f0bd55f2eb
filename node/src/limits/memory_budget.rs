//! The memory that clients make a node hold: what waits for those that don't read, what has come of messages that are not
//! whole, and payloads by which people pair. Each client's is bounded by itself; this bounds that of all, of whom there are
//! thousands.

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

/// What a client may have held besides in each direction, in bytes: nobody is refused for an offer or a few candidates,
/// whatever others do.
pub(crate) const FREE_DIRECTION: usize = 8 * 1024;
/// What may be kept besides of each payload: keys.
pub(crate) const FREE_PAYLOAD: usize = 1024;

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetExceeded;

/// What is held for all clients, and how much of it there may be.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bytes: AtomicUsize,
    most: usize,
    /// Turns at writing it on to clients that take it again.
    writing: Arc<Semaphore>,
}

/// A turn at writing on; over when it is dropped.
#[derive(Debug)]
pub(crate) struct WriteTurn(#[expect(dead_code, reason = "kept until it is dropped")] Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// Of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        // Half of the processors, as for signatures: whatever else is ready comes in between.
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        let writing = Arc::new(Semaphore::new(processors.div_ceil(2)));
        Arc::new(Self { bytes: AtomicUsize::new(0), most, writing })
    }
}

/// What is held of one thing, such as one direction of one client; up to `FREE` bytes aren't counted.
pub(crate) struct Reservation<const FREE: usize> {
    held: Arc<MemoryBudget>,
    counted: usize,
}

impl<const FREE: usize> fmt::Debug for Reservation<FREE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&self.counted).finish()
    }
}

impl<const FREE: usize> Reservation<FREE> {
    /// So many bytes.
    pub(crate) fn reserve(held: Arc<MemoryBudget>, bytes: usize) -> Result<Self, BudgetExceeded> {
        let mut part = Self::new(held);
        part.resize(bytes)?;
        Ok(part)
    }

    /// Nothing yet.
    pub(crate) const fn new(held: Arc<MemoryBudget>) -> Self {
        Self { held, counted: 0 }
    }

    /// A turn at writing some of it on, in the order in which turns are asked for.
    pub(crate) fn write_turn(&self) -> impl Future<Output = WriteTurn> + Send + use<FREE> {
        let writing = self.held.writing.clone();
        // Nobody closes it.
        async move { WriteTurn(writing.acquire_owned().await.ok()) }
    }

    /// Whether it may become `bytes`.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(FREE).saturating_sub(self.counted);
        more == 0 || self.held.bytes.load(Ordering::Relaxed) + more <= self.held.most
    }

    /// It has become `bytes`. Where there is no room for them it is counted as what it was, and has to be let go of.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let counted = bytes.saturating_sub(FREE);
        if counted > self.counted {
            let more = counted - self.counted;
            let add = |held: usize| held.checked_add(more).filter(|all| *all <= self.held.most);
            self.held.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| BudgetExceeded)?;
        } else if counted < self.counted {
            self.held.bytes.fetch_sub(self.counted - counted, Ordering::Relaxed);
        }
        self.counted = counted;
        Ok(())
    }
}

impl<const FREE: usize> Drop for Reservation<FREE> {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_hold_no_more_than_allowed_and_each_a_little_at_any_time() {
        let held = MemoryBudget::new(100);
        let part = || Reservation::<FREE_DIRECTION>::new(held.clone());
        let (mut one, mut other, mut third) = (part(), part(), part());
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
        drop(one);
        assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
    }
}
