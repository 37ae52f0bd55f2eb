//! Fair scheduling of signature checks, which a peer can request in bulk.
//!
//! Each check takes a turn, in the order of arrival. So one check waits for one of each other peer, and not for all of
//! theirs. At most half of the processors run checks of one kind, and each yields after every check, so that messages
//! are processed in between.

use std::{num::NonZeroUsize, thread::available_parallelism};

use tokio::{sync::Semaphore, task::yield_now};

/// A semaphore for CPU-bound work, with permits for half of the processors.
#[derive(Debug)]
pub(crate) struct FairSemaphore(Semaphore);

impl Default for FairSemaphore {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Semaphore::new(processors.div_ceil(2)))
    }
}

impl FairSemaphore {
    /// Waits for a turn and runs `work`.
    pub(crate) async fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        // The semaphore is never closed.
        let _turn = self.0.acquire().await;
        let done = work();
        // Let ready tasks run before the next turn, which starts when this permit is dropped.
        yield_now().await;
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn each_caller_gets_its_first_turn_before_any_gets_a_second() {
        let turns = FairSemaphore(Semaphore::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let take = |who: usize, count: usize| {
            let (turns, order) = (&turns, order.clone());
            async move {
                for _ in 0..count {
                    turns.take(|| order.lock().expect("not poisoned").push(who)).await;
                }
            }
        };
        join_all([take(0, 4), take(1, 4), take(2, 1)]).await;
        assert_eq!(*order.lock().expect("not poisoned"), [0, 1, 2, 0, 1, 0, 1, 0, 1]);
    }
}
