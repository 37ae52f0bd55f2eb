//! Tasks with an owner: what a node spawns ends when the node does.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::task::JoinSet;

/// Spawns tasks and ends them. Clones share one set. A running task costs nothing for being in it: nothing is looked at when it
/// is woken, where a token would be locked by all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(Arc<Mutex<Set>>);

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

impl Tasks {
    /// Runs `future` until it ends or the set is ended: then it is dropped at its next `.await`. What it holds must not use
    /// this set when it is dropped: on a runtime that stops, that happens in here.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut set = self.set();
        if set.ended {
            return;
        }
        let tasks = self.clone();
        set.running.spawn(async move {
            future.await;
            // Those that have ended before: they hold a little memory until then.
            tasks.set().reap();
        });
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

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
}
