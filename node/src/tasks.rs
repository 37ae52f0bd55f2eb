//! Tasks with an owner: what a node spawns ends when the node does.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns tasks and ends them. Clones share one set; a task ends at its next `.await` once the set is cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// Runs `future` until it ends or the set is cancelled.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            token.run_until_cancelled_owned(future).await;
        });
    }

    /// How many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all tasks have ended by themselves, at most for `limit`; says whether they have.
    pub(crate) async fn wait(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    /// Ends all tasks, and waits for none.
    pub(crate) fn stop(&self) {
        self.token.cancel();
    }

    /// Ends all tasks and waits until they are gone.
    pub(crate) async fn cancel(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
