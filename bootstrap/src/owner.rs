//! The task that owns the registry's state: stores every change before it applies it, and publishes what follows.
//!
//! Invariant: a published directory's `seq` was stored before, so that it never goes back, whatever kills the process.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use chappe_common::{
    directory::FRESH,
    record::{MAX_CLOCK_SKEW, NodeLeave, SignedRecord},
    signed::{SignError, Signed},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    directory::{OnlineKey, ServerList, sign_directory, sign_servers},
    metrics::Metrics,
    rules::{Change, Millis, Refusal, Registry},
    storage::{CommitError, Snapshot, Store},
};

/// Requests that wait for the owner: as many as a disk commits in a second or so. More wait in their own tasks, which
/// the bound on connections bounds.
const WAITING: usize = 64;
/// How often expired listings are looked for and the list of servers gets a new timestamp.
const TICK: Duration = Duration::from_secs(5);
/// How long before its end a delegation is spoken of in the log.
const DELEGATION_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// What is served: replaced as a whole, so that a reader never waits.
#[derive(Debug)]
pub(crate) struct Published {
    /// The signed directory.
    pub(crate) directory: Bytes,
    /// The signed list of servers.
    pub(crate) servers: ServerList,
    /// How many nodes are listed.
    pub(crate) nodes: usize,
}

/// Why a record or a leave was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    /// The rules are against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It did not reach the disk.
    #[error(transparent)]
    Store(#[from] CommitError),
    /// The new directory could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The registry is stopping.
    #[error("the registry is stopping")]
    Stopping,
}

enum Request {
    Judge(SignedRecord, oneshot::Sender<Result<(), OwnerError>>),
    Admit(SignedRecord, oneshot::Sender<Result<(), OwnerError>>),
    Leave(Signed<NodeLeave>, oneshot::Sender<Result<(), OwnerError>>),
}

/// The way to the owner.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Whether the record could be listed, were its node to prove its key.
    pub(crate) async fn judge(&self, record: SignedRecord) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Judge(record, reply)).await
    }

    /// Lists the record of a node that has proved its key; returns once that is on disk and published.
    pub(crate) async fn admit(&self, record: SignedRecord) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Admit(record, reply)).await
    }

    /// Ends a listing; returns once that is on disk and published.
    pub(crate) async fn leave(&self, leave: Signed<NodeLeave>) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Leave(leave, reply)).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), OwnerError>>) -> Request,
    ) -> Result<(), OwnerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| OwnerError::Stopping)?;
        answer.await.map_err(|_| OwnerError::Stopping)?
    }
}

/// The state and what it takes to change it.
pub(crate) struct Owner<S> {
    registry: Registry,
    store: S,
    online: OnlineKey,
    lifetime: Duration,
    directory_seq: u64,
    signed_at: Millis,
    published: Arc<ArcSwap<Published>>,
    metrics: Arc<Metrics>,
}

/// The clock of this process.
pub(crate) fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl<S: Store> Owner<S> {
    /// Takes over what the store held and signs the first directory.
    pub(crate) async fn start(
        mut registry: Registry,
        (store, snapshot): (S, Snapshot),
        online: OnlineKey,
        lifetime: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OwnerError> {
        let now = clock();
        if snapshot.damaged > 0 {
            tracing::warn!(entries = snapshot.damaged, "the store holds entries that do not decode; they are ignored");
        }
        if Millis(snapshot.directory_seq).secs() > now.secs() + MAX_CLOCK_SKEW {
            tracing::warn!("the last directory is from the future: clients refuse new ones until the clock gets there");
        }
        snapshot.listings.into_iter().map(Change::List).for_each(|change| registry.apply(change));
        snapshot.leaves.into_iter().map(Change::KeepLeave).for_each(|change| registry.apply(change));
        let servers = sign_servers(&registry, &online, now);
        let published = Published { directory: Bytes::new(), servers, nodes: 0 };
        let mut owner = Self {
            registry,
            store,
            online,
            lifetime,
            directory_seq: snapshot.directory_seq,
            signed_at: Millis(0),
            published: Arc::new(ArcSwap::from_pointee(published)),
            metrics,
        };
        let expired = owner.registry.expire(now.secs());
        owner.commit_and_publish(expired, now).await?;
        Ok(owner)
    }

    /// Where to read what is served.
    pub(crate) fn published(&self) -> Arc<ArcSwap<Published>> {
        Arc::clone(&self.published)
    }

    /// The way to this owner, and its work, which ends when `stop` is cancelled.
    pub(crate) fn run(self, stop: CancellationToken) -> (Handle, impl Future<Output = ()> + Send) {
        let (requests, inbox) = mpsc::channel(WAITING);
        (Handle { requests }, self.work(inbox, stop))
    }

    async fn work(mut self, mut inbox: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => self.handle_tick(clock()).await,
                request = inbox.recv() => match request {
                    Some(request) => self.handle_request(request, clock()).await,
                    None => return,
                },
            }
        }
    }

    async fn handle_request(&mut self, request: Request, now: Millis) {
        // Whoever asked may have gone; what was decided holds all the same.
        let _ = match request {
            Request::Judge(record, reply) => {
                reply.send(self.registry.judge(&record, now.secs()).map_err(OwnerError::from))
            }
            Request::Admit(record, reply) => reply.send(self.handle_admit(record, now).await),
            Request::Leave(leave, reply) => reply.send(self.handle_leave(leave, now).await),
        };
    }

    async fn handle_admit(&mut self, record: SignedRecord, now: Millis) -> Result<(), OwnerError> {
        let same = self.registry.lists(&record);
        let change = self.registry.admit(record, now)?;
        if same {
            // Only the time at which it was seen changes: the directory stays as it is.
            self.commit(vec![change], self.directory_seq).await
        } else {
            self.commit_and_publish(vec![change], now).await
        }
    }

    async fn handle_leave(&mut self, leave: Signed<NodeLeave>, now: Millis) -> Result<(), OwnerError> {
        let changes = self.registry.leave(leave, now.secs())?;
        if changes.is_empty() {
            return Ok(());
        }
        self.commit_and_publish(changes, now).await
    }

    async fn handle_tick(&mut self, now: Millis) {
        let changes = self.registry.expire(now.secs());
        let aged = now.secs().saturating_since(self.signed_at.secs()) >= (self.lifetime / 4).min(FRESH / 4);
        if aged || !changes.is_empty() {
            if let Err(error) = self.commit_and_publish(changes, now).await {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the directory; trying again");
            }
        } else {
            let last = self.published.load();
            let servers = sign_servers(&self.registry, &self.online, now);
            self.published.store(Arc::new(Published { directory: last.directory.clone(), servers, ..**last }));
        }
    }

    async fn commit(&mut self, changes: Vec<Change>, directory_seq: u64) -> Result<(), OwnerError> {
        if let Err(error) = self.store.commit(changes.clone(), directory_seq).await {
            self.metrics.failed_commits.inc();
            return Err(error.into());
        }
        self.directory_seq = directory_seq;
        changes.into_iter().for_each(|change| self.registry.apply(change));
        Ok(())
    }

    async fn commit_and_publish(&mut self, changes: Vec<Change>, now: Millis) -> Result<(), OwnerError> {
        // The clock may stand still or go back; the number does neither.
        self.commit(changes, now.0.max(self.directory_seq + 1)).await?;
        let directory = sign_directory(&self.registry, &self.online, self.directory_seq, self.lifetime, now)?;
        let servers = sign_servers(&self.registry, &self.online, now);
        let nodes = self.registry.listings().len();
        self.published.store(Arc::new(Published { directory, servers, nodes }));
        self.signed_at = now;
        self.metrics.directories_signed.inc();
        self.metrics.listed.set(i64::try_from(nodes).unwrap_or(i64::MAX));
        let rest = self.online.delegation.expires_at.saturating_since(now.secs());
        if rest <= DELEGATION_WARNING {
            let days = rest.as_secs() / (24 * 3600);
            tracing::warn!(days, "the delegation to the online key ends soon; have the root sign a new one");
        }
        Ok(())
    }
}
