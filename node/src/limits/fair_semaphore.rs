//! Turns at what keeps a processor busy: signatures, of which anybody may show as many as fit a message.
//!
//! Whoever has something to verify takes a turn for each, in the order in which they came, so that one signature waits for
//! one of each other, and not for all of theirs; and messages come in between, since half of the processors at most take
//! turns of one kind, and none for longer than one.

use std::{num::NonZeroUsize, thread::available_parallelism};

use tokio::{sync::Semaphore, task::yield_now};

/// The turns that may be under way.
#[derive(Debug)]
pub(crate) struct FairSemaphore(Semaphore);

impl Default for FairSemaphore {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Semaphore::new(processors.div_ceil(2)))
    }
}

impl FairSemaphore {
    /// Does `work` when it is its turn.
    pub(crate) async fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        // Nobody closes it.
        let _turn = self.0.acquire().await;
        let done = work();
        // What is ready meanwhile comes before the next turn, which begins when this one is over.
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
    async fn one_of_each_comes_before_the_second_of_any() {
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
