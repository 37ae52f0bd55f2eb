//! The task that owns the registry's state. It stores each change before it applies it, and publishes the result.
//!
//! Invariant: everything published was stored before. So no `seq` goes back or has two contents, even if the process is
//! killed. With a shared store, the owner reads the other registries' updates before it decides, and decides again if
//! one of them has committed in the meantime.

mod handle;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use chappe_common::{
    directory::{DirectoryBundle, DirectoryError, FRESH},
    keys::{NodeId, PublicKey},
    list_request::ListRequest,
    record::{MAX_CLOCK_SKEW, SignedRecord},
    signed::{SignError, Signed},
    time::UnixTime,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use self::handle::Request;
pub(crate) use self::handle::{OwnerHandle, ProbeResult};
use crate::{
    directory::OnlineKey,
    metrics::Metrics,
    pools::{PoolKey, Slot},
    published::Published,
    rules::{Change, Listing, Millis, RegistryState, RuleRejection},
    storage::{CommitError, ReadError, SignedDirectory, Store, StoreUpdate, Version},
};

/// Capacity of the request queue: about what a disk commits in a second. Further requests wait in their own tasks,
/// which the connection limit bounds.
const REQUEST_QUEUE: usize = 64;
/// How often the owner reads other registries' commits. So a node that registers at one registry can soon leave or
/// request the list at another.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often listings expire and the list of servers gets a new timestamp. Also the minimal interval between
/// directories that differ only in the nodes' records. SigningConfig, storing and sending the full directory of a large
/// federation is expensive, and one node can register 120 times a minute.
const TICK: Duration = Duration::from_secs(5);
/// If ticks are this far apart, the process was suspended or its store was stuck, and nodes could not prove their keys.
const MAX_TICK_PAUSE: Duration = Duration::from_secs(60);
/// How often a change is decided again after a commit conflict. In each conflict another registry makes progress, so
/// this is enough.
const MAX_COMMIT_ATTEMPTS: u32 = 16;
/// How long before a delegation expires the log warns.
const DELEGATION_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// Why the owner rejected a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    /// The rules reject it.
    #[error(transparent)]
    Rejected(#[from] RuleRejection),
    /// The other registries' updates cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change was not committed.
    #[error(transparent)]
    Store(#[from] CommitError),
    /// The new directory cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The registry is shutting down.
    #[error("the registry is shutting down")]
    Stopping,
}

/// How directories are signed.
pub(crate) struct SigningConfig {
    pub(crate) online: Arc<OnlineKey>,
    /// The lifetime of a directory.
    pub(crate) lifetime: Duration,
}

/// The owner's state.
pub(crate) struct Owner {
    /// The state before anything was read. A complete read starts from it.
    initial: RegistryState,
    registry: RegistryState,
    version: Option<Version>,
    store: Box<dyn Store>,
    signing: SigningConfig,
    pools: PoolKey,
    published: Arc<ArcSwap<Published>>,
    /// The highest directory number in the store, even if that directory could not be served.
    newest: u64,
    /// The last list requests of operators' keys. They are few, and kept in memory only.
    operators_asked: BTreeMap<PublicKey, u64>,
    /// Why the store failed when it was last used. The log has reported it.
    store_failure: StoreFailure,
    /// Since when nodes could prove their keys: not while this process was not running, suspended, or cut off.
    watching_since: UnixTime,
    last_tick: Millis,
    /// The registry blames its own network for doors that fail. The log has reported it.
    doubts_own_network: bool,
    metrics: Arc<Metrics>,
}

/// The current failure of the store, for `/health`.
pub(crate) type StoreFailure = Arc<ArcSwapOption<String>>;

/// The system's time.
pub(crate) fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Owner {
    /// Reads the store and signs a new directory.
    pub(crate) async fn start(
        registry: RegistryState,
        store: Box<dyn Store>,
        signing: SigningConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OwnerError> {
        let now = clock();
        let pools = PoolKey::derive(&signing.online.key);
        let head = signing.online.sign_directory([], 0, Duration::ZERO, Millis(0))?;
        let published =
            Published::new(Arc::clone(&signing.online), pools.clone(), head, Vec::new(), BTreeMap::new(), now);
        let mut owner = Self {
            initial: registry.clone(),
            registry,
            version: None,
            store,
            signing,
            pools,
            published: Arc::new(ArcSwap::from_pointee(published)),
            newest: 0,
            operators_asked: BTreeMap::new(),
            store_failure: Arc::default(),
            watching_since: now.secs(),
            last_tick: now,
            doubts_own_network: false,
            metrics,
        };
        // Sign with this process's key and delegation, which may be new.
        let since = owner.watching_since;
        owner.change(now, true, |registry| Ok(registry.expire(now.secs(), since))).await?;
        Ok(owner)
    }

    /// The published state, for readers.
    pub(crate) fn published(&self) -> Arc<ArcSwap<Published>> {
        Arc::clone(&self.published)
    }

    /// The current failure of the store, for readers.
    pub(crate) fn store_failure(&self) -> StoreFailure {
        Arc::clone(&self.store_failure)
    }

    /// Returns a handle and the owner's future, which ends after `stop`.
    pub(crate) fn run(self, stop: CancellationToken) -> (OwnerHandle, impl Future<Output = ()> + Send) {
        let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
        (OwnerHandle { requests }, self.work(inbox, stop))
    }

    async fn work(mut self, mut inbox: mpsc::Receiver<Request>, stop: CancellationToken) {
        let [mut tick, mut catch_up] = [TICK, CATCH_UP].map(|every| interval_at(Instant::now() + every, every));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        catch_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => self.handle_tick(clock()).await,
                _ = catch_up.tick() => self.handle_catch_up(clock()).await,
                request = inbox.recv() => match request {
                    Some(request) => self.handle_request(request, clock()).await,
                    None => return,
                },
            }
        }
    }

    async fn handle_request(&mut self, request: Request, now: Millis) {
        let secs = now.secs();
        // The requester may be gone. The decision holds anyway.
        let _ = match request {
            Request::CheckRecord(record, reply) => {
                reply.send(self.registry.check_record(&record, secs).map_err(OwnerError::from))
            }
            Request::Admit(record, proved, reply) => {
                reply.send(self.change(now, false, |registry| registry.admit(record.clone(), proved, now)).await)
            }
            Request::Leave(leave, reply) => {
                reply.send(self.change(now, false, |registry| registry.leave(leave.clone(), secs)).await)
            }
            Request::Remove(removal, reply) => {
                reply.send(self.change(now, false, |registry| registry.remove(removal.clone(), secs)).await)
            }
            Request::FullList(request, reply) => reply.send(self.handle_list_request(&request, now).await),
            Request::DueProbes(reply) => {
                let _ = reply.send(self.registry.due_probes(now));
                return;
            }
            Request::Listing(node, reply) => {
                let _ = reply.send(self.registry.listing(&node).cloned());
                return;
            }
            Request::ProbeResults(probed, reply) => {
                let decide = |registry: &RegistryState| {
                    let change =
                        |one: &ProbeResult| registry.record_probe(one.node, one.answered, one.door, one.jitter, now);
                    Ok(probed.iter().filter_map(change).collect())
                };
                reply.send(self.change(now, false, decide).await)
            }
            Request::Overrule(node, reply) => {
                let decide = |registry: &RegistryState| Ok(registry.overrule(node, now).into_iter().collect());
                reply.send(self.change(now, false, decide).await)
            }
        };
    }

    async fn handle_list_request(&mut self, request: &ListRequest, now: Millis) -> Result<(), OwnerError> {
        if !self.registry.is_operator(&request.key, now.secs()) {
            return self.change(now, false, |registry| registry.accept_list_request(request, now.secs())).await;
        }
        self.registry.check_list_request(request, now.secs())?;
        let last = self.operators_asked.entry(request.key).or_default();
        if *last >= request.seq {
            return Err(RuleRejection::Stale.into());
        }
        *last = request.seq;
        Ok(())
    }

    async fn handle_catch_up(&mut self, now: Millis) {
        // The failure is recorded, and requests that need the store fail.
        let _ = self.catch_up(now).await;
    }

    /// Records whether the store works, for `/health`. Logs only changes.
    fn record_store_status(&self, failure: Option<&(dyn std::error::Error + 'static)>) {
        match (failure, self.store_failure.load().is_some()) {
            (Some(error), false) => {
                tracing::error!(error, "the store fails: served content gets old, and changes are rejected");
                let reasons = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
                self.store_failure.store(Some(Arc::new(reasons.collect::<Vec<_>>().join(": "))));
                self.metrics.store_failing.set(1);
            }
            (None, true) => {
                tracing::info!("the store works again");
                self.store_failure.store(None);
                self.metrics.store_failing.set(0);
            }
            _ => {}
        }
    }

    async fn handle_tick(&mut self, now: Millis) {
        let pause = Duration::from_millis(now.0.saturating_sub(self.last_tick.0));
        self.last_tick = now;
        // A clock that was set back must not let a time in the future stand.
        if pause > MAX_TICK_PAUSE || self.registry.is_cut_off(now) || self.watching_since > now.secs() {
            self.watching_since = now.secs();
        }
        let signed_at = self.published.load().head().issued_at;
        let aged = now.secs().saturating_since(signed_at) >= (self.signing.lifetime / 4).min(FRESH / 4);
        // Compare with `<`: if two clocks differ, the slower registry would otherwise sign against the faster one for
        // minutes.
        let rotates = Slot::containing(signed_at) < Slot::containing(now.secs());
        // Only one registry has to renew. The others find the new directory in the store, and check again.
        let renewed_from = self.published.load().head().seq;
        if let Err(error) = self.catch_up(now).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot read the other registries' commits");
        }
        let is_of_old_root = self.signing.online.replaces_root_of(&self.published.load().head().bundle, now.secs());
        let renew = (aged || rotates || is_of_old_root) && self.published.load().head().seq == renewed_from;
        // Only a commit shows whether a failed store accepts commits again.
        let renew = renew || self.store_failure.load().is_some();
        // Only compare records here, because changes of the set of nodes were published with the change. Otherwise two
        // registries with different configurations would sign against each other endlessly.
        let (public, published) =
            (|| self.registry.public_nodes().map(|listing| &listing.record), self.published.load_full());
        let renew = renew || (published.lists_nodes(public()) && !published.lists_records(public()));
        let since = self.watching_since;
        let expired = self.change(now, renew, |registry| Ok(registry.expire(now.secs(), since))).await;
        match expired {
            // The store's failures are logged when they start and end.
            Ok(()) | Err(OwnerError::Read(_) | OwnerError::Store(_)) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the directory; retrying");
            }
        }
        self.note_doubt();
        let refreshed = self.published.load().refreshed(self.listings(), now);
        self.published.store(Arc::new(refreshed));
        self.metrics.observe(&self.registry);
    }

    /// Logs when the registry begins to blame its own network, and when it stops.
    fn note_doubt(&mut self) {
        let doubts = self.registry.doubts_own_network();
        if doubts != std::mem::replace(&mut self.doubts_own_network, doubts) {
            if doubts {
                tracing::warn!(
                    "the client URLs of too many nodes fail, so this registry's own network or clock is the likely cause: no \
                     node leaves the directory for that"
                );
            } else {
                tracing::info!("the client URLs of most nodes work again");
            }
        }
    }

    fn listings(&self) -> BTreeMap<NodeId, Arc<Listing>> {
        self.registry.listings().map(|listing| (listing.record.node, Arc::clone(listing))).collect()
    }

    /// Decides on a change, commits and applies it. Decides again after a conflict with another registry.
    ///
    /// A new directory is signed if `renew` is set or the set of public nodes changes. If only records change, it is
    /// signed now or with the next tick.
    async fn change(
        &mut self,
        now: Millis,
        renew: bool,
        decide: impl Fn(&RegistryState) -> Result<Vec<Change>, RuleRejection>,
    ) -> Result<(), OwnerError> {
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let version = self.catch_up(now).await?;
            let changes = decide(&self.registry)?;
            if changes.is_empty() && !renew {
                return Ok(());
            }
            match self.commit(version, changes, renew, now).await {
                Err(OwnerError::Store(CommitError::Conflict)) => self.metrics.commit_conflicts.inc(),
                done => return done,
            };
        }
        Err(CommitError::Conflict.into())
    }

    async fn commit(
        &mut self,
        version: Version,
        changes: Vec<Change>,
        renew: bool,
        now: Millis,
    ) -> Result<(), OwnerError> {
        let mut next = self.registry.clone();
        changes.iter().cloned().for_each(|change| next.apply(change));
        let public = || next.public_nodes().map(|listing| &listing.record);
        let last = self.published.load_full();
        let age = now.secs().saturating_since(last.head().issued_at);
        let head = if renew || !last.lists_nodes(public()) || (age >= TICK && !last.lists_records(public())) {
            // The clock may stand still or go back, but the number must increase.
            let seq = now.0.max(self.newest.saturating_add(1));
            Some(self.signing.online.sign_directory(public(), seq, self.signing.lifetime, now)?)
        } else {
            None
        };
        match self.store.commit(version, &changes, head.as_ref()).await {
            Ok(version) => {
                self.version = Some(version);
                self.record_store_status(None);
            }
            Err(error) => {
                if let CommitError::Failed(_) = error {
                    self.metrics.failed_commits.inc();
                    self.record_store_status(Some(&error));
                }
                return Err(error.into());
            }
        }
        let nodes = public().cloned().collect();
        self.registry = next;
        if let Some(head) = head {
            self.newest = head.seq;
            self.metrics.directories_signed.inc();
            self.publish(head, nodes, now);
            self.warn_about_delegation_expiry(now);
        }
        Ok(())
    }

    /// Reads and applies the other registries' commits.
    async fn catch_up(&mut self, now: Millis) -> Result<Version, OwnerError> {
        let update = self.store.read_updates(self.version).await;
        // A successful read does not clear a failure: the disk may still be full. Only a commit does.
        if let Err(error) = &update {
            self.record_store_status(Some(error));
        }
        match (update?, self.version) {
            (Some(update), _) => Ok(self.apply_update(update, now)),
            (None, Some(version)) => Ok(version),
            (None, None) => Err(ReadError("the store has no version".into()).into()),
        }
    }

    fn apply_update(&mut self, update: StoreUpdate, now: Millis) -> Version {
        if update.damaged > 0 {
            tracing::warn!(
                store = self.store.name(),
                entries = update.damaged,
                "ignoring damaged entries in the store"
            );
        }
        if update.lost_door_histories > 0 {
            tracing::warn!(
                store = self.store.name(),
                entries = update.lost_door_histories,
                "the store's memory of these nodes' doors is damaged, or of an earlier version: it starts again"
            );
        }
        if update.complete {
            self.registry = self.initial.clone();
        }
        update.changes.into_iter().for_each(|change| self.registry.apply(change));
        self.version = Some(update.version);
        if let Some(head) = update.head.filter(|head| head.seq > self.newest) {
            if Millis(head.seq).secs() > now.secs() + MAX_CLOCK_SKEW {
                tracing::warn!(
                    "the directory is from the future: either this clock is slow, or clients will reject the next directories"
                );
            }
            self.newest = head.seq;
            match self.records_of(&head, now) {
                Ok(nodes) => self.publish(head, nodes, now),
                // Parts cannot be made from it. The previous directory is served until a registry signs the next one.
                // This is logged once for each directory.
                Err(error) => tracing::error!(%error, "the store's directory is invalid and not served"),
            }
        }
        update.version
    }

    /// The records in a directory that another registry, or an earlier process, has signed.
    ///
    /// Expiry is not checked, so that a registry with a slow clock serves the same as the others. Without the nodes, it
    /// would take a long list for an empty one and show it to everybody.
    ///
    /// # Errors
    /// The directory is not valid under the roots.
    fn records_of(&self, head: &SignedDirectory, now: Millis) -> Result<Vec<SignedRecord>, DirectoryError> {
        let latest = now.secs().max(head.issued_at).max(Millis(head.seq).secs());
        let bundle = match DirectoryBundle::decode_old(head.bundle.clone(), &self.signing.online.trust.roots(), latest)
        {
            Ok(bundle) => bundle,
            Err(DirectoryError::Empty) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let known = self.listings();
        let known: BTreeMap<&[u8], &SignedRecord> =
            known.values().map(|listing| (listing.record.as_bytes().as_ref(), &listing.record)).collect();
        let record = |bytes: &bytes::Bytes| match known.get(bytes.as_ref()) {
            // A map lookup is about 100 times cheaper than verifying the signature again.
            Some(record) => Some((*record).clone()),
            None => Signed::decode(bytes.clone()).ok(),
        };
        Ok(bundle.directory().nodes.iter().filter_map(record).collect())
    }

    fn publish(&self, head: SignedDirectory, nodes: Vec<SignedRecord>, now: Millis) {
        let (online, pools) = (Arc::clone(&self.signing.online), self.pools.clone());
        let published = Published::new(online, pools, head, nodes, self.listings(), now);
        self.published.store(Arc::new(published));
        self.metrics.observe(&self.registry);
    }

    fn warn_about_delegation_expiry(&self, now: Millis) {
        let rest = self.signing.online.ends_at().saturating_since(now.secs());
        if rest <= DELEGATION_WARNING {
            let days = rest.as_secs() / (24 * 3600);
            tracing::warn!(days, "the delegation of the online key expires soon; sign a new one with the root key");
        }
    }
}

#[cfg(test)]
mod tests;
