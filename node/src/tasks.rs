//! Tasks with an owner. The tasks of a node end with it, and the unexpected end of an essential task is reported.

use std::{
    future::{pending, poll_fn},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use chappe_common::task_failure::TaskFailure;
use futures_util::FutureExt as _;
use tokio::{sync::Notify, task::JoinSet};

/// A set of tasks. Clones share the set. Membership costs a running task nothing: no state is checked when it is woken,
/// while a cancellation token's lock would be shared by all tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    set: Arc<Mutex<Set>>,
    watch: Arc<Watch>,
}

#[derive(Debug, Default)]
struct Set {
    running: JoinSet<()>,
    ended: bool,
}

impl Set {
    /// Removes finished tasks.
    fn reap(&mut self) {
        while self.running.try_join_next().is_some() {}
    }
}

/// Failures and panics of a node's tasks, in all of its sets.
#[derive(Debug, Default)]
struct Watch {
    failure: OnceLock<TaskFailure>,
    failed: Notify,
    /// The node is stopping, so tasks may lose what they depend on and end.
    stopping: AtomicBool,
    panics: AtomicU64,
}

impl Watch {
    fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, failure: TaskFailure) {
        // Only the first failure is the cause; others follow from it.
        if !self.stopping.load(Ordering::Relaxed) && self.failure.set(failure).is_ok() {
            tracing::error!(%failure, "an essential task failed; this node cannot continue");
            self.failed.notify_waiters();
        }
    }
}

impl Tasks {
    /// Creates an empty set whose failures are reported together with this set's.
    pub(crate) fn sibling(&self) -> Self {
        Self { set: Arc::default(), watch: self.watch.clone() }
    }

    /// Runs `future` until it ends or the set is stopped, which drops it at its next `.await`. Its destructors must not
    /// use this set: if the runtime stops, they run inside this call. A panic ends only the task, and is counted.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let outcome = AssertUnwindSafe(future).catch_unwind();
        self.start(async move {
            if outcome.await.is_err() {
                tasks.watch.count_panic();
            }
            // Finished tasks hold some memory until they are removed.
            tasks.set().reap();
        });
    }

    /// Like [`Tasks::spawn`], for an essential task. If it ends before the set is stopped, [`Tasks::failed`] reports
    /// it.
    pub(crate) fn spawn_essential<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let outcome = AssertUnwindSafe(future).catch_unwind();
        self.start(async move {
            let failure = match outcome.await {
                Ok(()) => TaskFailure::Ended(task),
                Err(_) => {
                    tasks.watch.count_panic();
                    TaskFailure::Panicked(task)
                }
            };
            if !tasks.set().ended {
                tasks.watch.fail(failure);
            }
        });
    }

    /// Runs a part of a task. Returns `None` if it panics, which is counted, so that the rest of the task can end too.
    pub(crate) async fn catch_panic<T>(&self, part: impl Future<Output = T>) -> Option<T> {
        let done = AssertUnwindSafe(part).catch_unwind().await;
        if done.is_err() {
            self.watch.count_panic();
        }
        done.ok()
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set();
        if !set.ended {
            set.running.spawn(task);
        }
    }

    /// Allows the essential tasks of this set and its siblings to end from now on.
    pub(crate) fn expect_ends(&self) {
        self.watch.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits until an essential task of this set or a sibling ends unexpectedly. Never returns if none does.
    pub(crate) async fn failed(&self) -> TaskFailure {
        let mut failed = std::pin::pin!(self.watch.failed.notified());
        failed.as_mut().enable();
        if let Some(failure) = self.failure() {
            return failure;
        }
        failed.await;
        match self.failure() {
            Some(failure) => failure,
            None => pending().await,
        }
    }

    /// Returns the first essential task that ended unexpectedly.
    pub(crate) fn failure(&self) -> Option<TaskFailure> {
        self.watch.failure.get().copied()
    }

    /// Returns the number of panics in this set and its siblings.
    pub(crate) fn panics(&self) -> u64 {
        self.watch.panics.load(Ordering::Relaxed)
    }

    /// Returns the number of running tasks.
    pub(crate) fn len(&self) -> usize {
        let mut set = self.set();
        set.reap();
        set.running.len()
    }

    /// Waits until all tasks have ended by themselves, at most for `limit`.
    pub(crate) async fn wait(&self, limit: Duration) {
        // `cancel` ends the rest.
        let _ = tokio::time::timeout(limit, poll_fn(|cx| self.poll_ended(cx))).await;
    }

    /// Aborts all tasks without waiting for their end.
    pub(crate) fn stop(&self) {
        let mut set = self.set();
        set.ended = true;
        set.running.abort_all();
    }

    /// Aborts all tasks and waits until they are dropped. Must not be called by a task of this set, nor concurrently.
    pub(crate) async fn cancel(&self) {
        self.stop();
        poll_fn(|cx| self.poll_ended(cx)).await;
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut set = self.set();
        loop {
            match set.running.poll_join_next(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn tasks_end_with_their_set_and_drop_their_state() {
        let tasks = Tasks::default();
        let (guard, dropped) = oneshot::channel::<()>();
        tasks.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        assert_eq!(tasks.len(), 1);
        tasks.cancel().await;
        assert!(dropped.await.is_err());
        assert_eq!(tasks.len(), 0);
        let (guard, dropped) = oneshot::channel::<()>();
        tasks.spawn(async move { drop(guard) });
        assert!(dropped.await.is_err(), "an ended set runs nothing");
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn finished_tasks_are_removed() {
        let tasks = Tasks::default();
        let (end, ended) = oneshot::channel::<()>();
        tasks.spawn(async { drop(ended.await) });
        tasks.spawn(pending());
        assert_eq!(tasks.len(), 2);
        drop(end);
        tasks.wait(Duration::from_millis(50)).await;
        assert_eq!(tasks.len(), 1);
        tasks.stop();
        tasks.wait(Duration::from_secs(10)).await;
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn a_task_may_spawn_into_its_own_set() {
        let tasks = Tasks::default();
        let (end, ended) = oneshot::channel::<()>();
        let own = tasks.clone();
        tasks.spawn(async move { own.spawn(async move { drop(end) }) });
        assert!(ended.await.is_err());
        tasks.wait(Duration::from_secs(10)).await;
        assert_eq!(tasks.len(), 0);
    }
    #[tokio::test]
    async fn an_essential_task_that_panics_or_returns_fails_all_sets_of_its_node_and_an_aborted_one_does_not() {
        let ends: [(fn(), TaskFailure); 2] =
            [(|| panic!("on purpose"), TaskFailure::Panicked("one")), (|| {}, TaskFailure::Ended("one"))];
        for (end, expected) in ends {
            let tasks = Tasks::default();
            let sibling = tasks.sibling();
            tasks.spawn_essential("another", pending());
            sibling.spawn_essential("one", async move { end() });
            assert_eq!(tasks.failed().await, expected);
            assert_eq!(tasks.failure(), Some(expected), "it stays known");
        }
        let tasks = Tasks::default();
        tasks.spawn_essential("one", pending());
        tasks.expect_ends();
        tasks.sibling().spawn_essential("another", async {});
        tasks.cancel().await;
        assert_eq!(tasks.failure(), None);
    }

    #[tokio::test]
    async fn a_short_task_that_panics_is_counted_and_removed() {
        let tasks = Tasks::default();
        tasks.spawn(async { panic!("on purpose") });
        tasks.wait(Duration::from_secs(10)).await;
        assert_eq!((tasks.len(), tasks.panics(), tasks.failure()), (0, 1, None));
    }
}
