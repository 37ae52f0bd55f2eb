//! Tasks with an owner: what a node spawns ends when the node does, and a node whose lasting task ends is told.

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

/// Spawns tasks and ends them. Clones share one set. A running task costs nothing for being in it: nothing is looked at when it
/// is woken, where a token would be locked by all of them.
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
    /// Forgets the tasks that have ended.
    fn reap(&mut self) {
        while self.running.try_join_next().is_some() {}
    }
}

/// What went wrong with the tasks of a node, in all of its sets.
#[derive(Debug, Default)]
struct Watch {
    failure: OnceLock<TaskFailure>,
    failed: Notify,
    /// The node stops: what its tasks depend on goes before they do.
    stopping: AtomicBool,
    panics: AtomicU64,
}

impl Watch {
    fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, failure: TaskFailure) {
        // The first one is the cause: others end because of it.
        if !self.stopping.load(Ordering::Relaxed) && self.failure.set(failure).is_ok() {
            tracing::error!(%failure, "this node can't go on");
            self.failed.notify_waiters();
        }
    }
}

impl Tasks {
    /// An empty set, whose failures count as this one's.
    pub(crate) fn sibling(&self) -> Self {
        Self { set: Arc::default(), watch: self.watch.clone() }
    }

    /// Runs `future` until it ends or the set is ended: then it is dropped at its next `.await`. What it holds must not use
    /// this set when it is dropped: on a runtime that stops, that happens in here. A panic ends the task alone, and is counted.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let caught = AssertUnwindSafe(future).catch_unwind();
        self.start(async move {
            if caught.await.is_err() {
                tasks.watch.count_panic();
            }
            // Those that have ended before: they hold a little memory until then.
            tasks.set().reap();
        });
    }

    /// The same for a task without which the node is none. If it ends before the set does, whoever waits in
    /// [`Tasks::failed`] is told.
    pub(crate) fn spawn_lasting<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let caught = AssertUnwindSafe(future).catch_unwind();
        self.start(async move {
            let failure = match caught.await {
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

    /// What `part` of a task gives, or `None` where it panics, which is counted: so that what depends on the part can end, too.
    pub(crate) async fn caught<T>(&self, part: impl Future<Output = T>) -> Option<T> {
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

    /// From now on, lasting tasks of this set and its siblings may end by themselves.
    pub(crate) fn expect_ends(&self) {
        self.watch.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits until a lasting task of this set or a sibling has ended by itself; for ever if none does.
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

    /// The first lasting task that has ended by itself.
    pub(crate) fn failure(&self) -> Option<TaskFailure> {
        self.watch.failure.get().copied()
    }

    /// How many tasks have panicked, in this set and its siblings.
    pub(crate) fn panics(&self) -> u64 {
        self.watch.panics.load(Ordering::Relaxed)
    }

    /// How many tasks there are. Forgets those that have ended.
    pub(crate) fn len(&self) -> usize {
        let mut set = self.set();
        set.reap();
        set.running.len()
    }

    /// Waits until all tasks have ended by themselves, at most for `limit`.
    pub(crate) async fn wait(&self, limit: Duration) {
        // Whoever takes longer is ended by `cancel`.
        let _ = tokio::time::timeout(limit, poll_fn(|cx| self.poll_ended(cx))).await;
    }

    /// Ends all tasks, and waits for none.
    pub(crate) fn stop(&self) {
        let mut set = self.set();
        set.ended = true;
        set.running.abort_all();
    }

    /// Ends all tasks and waits until they are gone. Not for a task of this set, nor while another waits.
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
    async fn tasks_end_with_their_set_and_what_they_hold_is_dropped() {
        let tasks = Tasks::default();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        assert_eq!(tasks.len(), 1);
        tasks.cancel().await;
        assert!(dropped.await.is_err());
        assert_eq!(tasks.len(), 0);
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn(async move { drop(held) });
        assert!(dropped.await.is_err(), "an ended set runs nothing");
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn tasks_that_have_ended_are_forgotten() {
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
    async fn a_lasting_task_that_panics_or_returns_fails_all_sets_of_its_node_and_one_that_is_ended_does_not() {
        let lasting: [(fn(), TaskFailure); 2] =
            [(|| panic!("on purpose"), TaskFailure::Panicked("one")), (|| {}, TaskFailure::Ended("one"))];
        for (end, expected) in lasting {
            let tasks = Tasks::default();
            let sibling = tasks.sibling();
            tasks.spawn_lasting("another", pending());
            sibling.spawn_lasting("one", async move { end() });
            assert_eq!(tasks.failed().await, expected);
            assert_eq!(tasks.failure(), Some(expected), "it stays known");
        }
        let tasks = Tasks::default();
        tasks.spawn_lasting("one", pending());
        tasks.expect_ends();
        tasks.sibling().spawn_lasting("another", async {});
        tasks.cancel().await;
        assert_eq!(tasks.failure(), None);
    }

    #[tokio::test]
    async fn a_short_task_that_panics_is_counted_and_forgotten() {
        let tasks = Tasks::default();
        tasks.spawn(async { panic!("on purpose") });
        tasks.wait(Duration::from_secs(10)).await;
        assert_eq!((tasks.len(), tasks.panics(), tasks.failure()), (0, 1, None));
    }
}
