//! The node's presence in the federation: it joins and registers, and it leaves, to stop or to sleep.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chappe_discovery::registry::RegistryClient;
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::{
    core::Core,
    federation::{
        join, own_addrs,
        registration::{self, Registries},
        root_statements,
    },
    membership::event::Event,
    sessions::event::{EndReason, SessionEvent},
    tasks::Tasks,
};

/// Time limit for each step of leaving: the registries' answers, storing the members, the leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a node joins, and what runs while it is present.
#[derive(Debug)]
pub(crate) struct Presence {
    core: Arc<Core>,
    registries: Option<Registries>,
    directory: Option<RegistryClient>,
    members_file: PathBuf,
    /// Whether clients can connect, if the node obtains its certificate itself.
    has_certificate: Option<watch::Receiver<bool>>,
    /// Held while the node joins or leaves, across all steps, so that a stop during another change begins after it.
    changing: AsyncMutex<()>,
    present: Mutex<Option<Present>>,
}

#[derive(Clone, Debug)]
struct Present {
    /// Joins and registers. Ends before the node leaves.
    tasks: Tasks,
    registries: Option<Registries>,
}

impl Presence {
    pub(crate) fn new(
        core: Arc<Core>,
        registries: Option<Registries>,
        directory: Option<RegistryClient>,
        has_certificate: Option<watch::Receiver<bool>>,
    ) -> Self {
        let members_file = core.context.config.node.data_dir.join("members");
        let (changing, present) = (AsyncMutex::default(), Mutex::default());
        Self { core, registries, directory, members_file, has_certificate, changing, present }
    }

    /// Joins the federation in the background, unless the node stops.
    pub(crate) async fn join(&self) {
        let _changing = self.changing.lock().await;
        if !self.core.health.is_draining() {
            self.start();
        }
    }

    fn start(&self) {
        let core = &self.core;
        let tasks = core.context.tasks.sibling();
        let statements_file = core.context.config.node.data_dir.join(root_statements::FILE);
        let statements = root_statements::run(core.clone(), self.directory.clone(), statements_file);
        tasks.spawn_essential("root statements", statements);
        let joining = join::run(core.clone(), self.directory.clone(), self.members_file.clone());
        tasks.spawn_essential("joining", once_reachable(self.has_certificate.clone(), joining));
        tasks.spawn_essential("addresses", own_addrs::watch(core.clone()));
        tasks.spawn_essential("records", registration::renew_records(core.clone()));
        let registries = self.registries.as_ref().map(Registries::restarted);
        if let Some(registries) = registries.clone() {
            let running = registries.run(core.clone());
            tasks.spawn_essential("registries", once_reachable(self.has_certificate.clone(), running));
        }
        *self.present() = Some(Present { tasks, registries });
    }

    /// Leaves the federation: asks the clients to connect elsewhere, gives them `drain` to do so, and sends members and
    /// registries a signed leave. If the node is leaving already, waits for that. Does nothing if the node is not present.
    pub(crate) async fn leave(&self, drain: Duration) {
        let _changing = self.changing.lock().await;
        self.end(drain).await;
    }

    async fn end(&self, drain: Duration) {
        let core = &self.core;
        // It stays present until its tasks have ended, so that `stop` finds them.
        let Some(Present { tasks, registries }) = self.present().clone() else { return };
        if let Some(registries) = &registries {
            // Wait for a pending registration: the leave has to arrive after it.
            let _ = tokio::time::timeout(GOODBYE, registries.stop()).await;
        }
        tasks.cancel().await;
        self.present().take();
        core.sessions.for_each(|session| {
            // A full queue ends the session.
            let _ = session.try_send(SessionEvent::GoingAway);
        });
        // Store before leaving: afterwards the member table is empty.
        let _ = tokio::time::timeout(GOODBYE, join::store(core, self.members_file.clone())).await;
        let leave = tokio::time::timeout(GOODBYE, registration::leave_members(core)).await.ok().flatten();
        let leave_registries = async {
            if let (Some(registries), Some(leave)) = (&registries, &leave) {
                registries.leave(leave).await;
            }
        };
        tokio::join!(self.drain(drain), async {
            let _ = tokio::time::timeout(GOODBYE, leave_registries).await;
        });
    }

    /// Leaves the federation, and stays unreachable for other nodes.
    pub(crate) async fn sleep(&self, drain: Duration) {
        let _changing = self.changing.lock().await;
        self.end(drain).await;
        self.core.links.stop_accepting();
    }

    /// Returns to the federation, in a new run, unless the node stops.
    pub(crate) async fn wake(&self) {
        let _changing = self.changing.lock().await;
        if self.core.health.is_draining() {
            return;
        }
        self.core.links.resume_accepting();
        // The membership task ends only with the node.
        let _ = self.core.membership.send(Event::Returned).await;
        self.start();
    }

    /// Waits until the clients have left and their media has ended, then closes the remaining sessions. The relay must have
    /// been asked before to make no new allocations.
    async fn drain(&self, limit: Duration) {
        let core = &self.core;
        let deadline = Instant::now() + limit;
        let has_media = || core.media_relay.as_ref().is_some_and(|relay| relay.may_have_allocations());
        while (core.sessions.sessions() > 0 || has_media()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        core.sessions.for_each(|session| session.end(EndReason::GoingAway));
    }

    /// Ends joining and registering at once, and notifies nobody.
    pub(crate) fn stop(&self) {
        if let Some(present) = self.present().take() {
            present.tasks.stop();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_present(&self) -> bool {
        self.present().is_some()
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Option<Present>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `task` once clients can connect: a node without its first certificate must not be offered to them.
async fn once_reachable(has_certificate: Option<watch::Receiver<bool>>, task: impl Future<Output = ()>) {
    if let Some(mut has_certificate) = has_certificate
        && has_certificate.wait_for(|is_there| *is_there).await.is_err()
    {
        // The task of the certificate has ended, which is reported by itself.
        return std::future::pending().await;
    }
    task.await;
}
