//! The task that owns the registry's state: stores every change before it applies it, and publishes what follows.
//!
//! Invariant: what is published was stored before, so that no `seq` goes back or is seen with two contents, whatever
//! kills the process. Where others share the store, the owner catches up with them before it decides, and decides anew
//! where one of them was faster.

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
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use self::handle::Request;
pub(crate) use self::handle::{Handle, Probed};
use crate::{
    directory::OnlineKey,
    metrics::Metrics,
    pools::{PoolKey, Slot},
    published::Published,
    rules::{Change, Listing, Millis, Refusal, Registry},
    storage::{CommitError, Head, News, ReadError, Store, Version},
};

/// Requests that wait for the owner: as many as a disk commits in a second or so. More wait in their own tasks, which
/// the bound on connections bounds.
const WAITING: usize = 64;
/// How often the owner looks for what others have committed: a node that registers with one registry and then leaves or
/// asks at another is known there.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often expired listings are looked for and the list of servers gets a new timestamp. Also how soon after a
/// directory the next one is signed that only has newer records of the same nodes: to sign, store and send out all of a
/// large federation takes much, and one node can register 120 times a minute.
const TICK: Duration = Duration::from_secs(5);
/// How often a change is decided anew because another registry was faster. Each time somebody got ahead, so it ends.
const TRIES: u32 = 16;
/// How long before its end a delegation is spoken of in the log.
const DELEGATION_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// Why a record or a note was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerError {
    /// The rules are against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What others have changed can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
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

/// What directories are signed with, and for how long.
pub(crate) struct Signing {
    /// The key.
    pub(crate) online: Arc<OnlineKey>,
    /// The federation's roots.
    pub(crate) roots: Vec<PublicKey>,
    /// How long a directory counts.
    pub(crate) lifetime: Duration,
}

/// The state and what it takes to change it.
pub(crate) struct Owner {
    /// As it was before anything was read: what a complete reading starts from.
    blank: Registry,
    registry: Registry,
    version: Option<Version>,
    store: Box<dyn Store>,
    signing: Signing,
    pools: PoolKey,
    published: Arc<ArcSwap<Published>>,
    /// The highest number of a directory in the store, whether it could be served or not.
    newest: u64,
    /// The last requests of operators' keys for the list. They are few, and forgotten with the process.
    operators_asked: BTreeMap<PublicKey, u64>,
    /// Why the store failed when it was last used; the log has said so then.
    store_failure: StoreFailure,
    metrics: Arc<Metrics>,
}

/// Why the store fails at the moment, for `/health`.
pub(crate) type StoreFailure = Arc<ArcSwapOption<String>>;

/// The clock of this process.
pub(crate) fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Owner {
    /// Takes over what the store held and signs a new directory.
    pub(crate) async fn start(
        registry: Registry,
        store: Box<dyn Store>,
        signing: Signing,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OwnerError> {
        let now = clock();
        let pools = PoolKey::of(&signing.online.key);
        let head = signing.online.sign_directory([], 0, Duration::ZERO, Millis(0))?;
        let published =
            Published::new(Arc::clone(&signing.online), pools.clone(), head, Vec::new(), BTreeMap::new(), now);
        let mut owner = Self {
            blank: registry.clone(),
            registry,
            version: None,
            store,
            signing,
            pools,
            published: Arc::new(ArcSwap::from_pointee(published)),
            newest: 0,
            operators_asked: BTreeMap::new(),
            store_failure: Arc::default(),
            metrics,
        };
        // With this process's key and delegation, which may be new ones.
        owner.change(now, true, |registry| Ok(registry.expire(now.secs()))).await?;
        Ok(owner)
    }

    /// Where to read what is served.
    pub(crate) fn published(&self) -> Arc<ArcSwap<Published>> {
        Arc::clone(&self.published)
    }

    /// Where to read why the store fails, if it does.
    pub(crate) fn store_failure(&self) -> StoreFailure {
        Arc::clone(&self.store_failure)
    }

    /// The way to this owner, and its work, which ends when `stop` is cancelled.
    pub(crate) fn run(self, stop: CancellationToken) -> (Handle, impl Future<Output = ()> + Send) {
        let (requests, inbox) = mpsc::channel(WAITING);
        (Handle { requests }, self.work(inbox, stop))
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
        // Whoever asked may have gone; what was decided holds all the same.
        let _ = match request {
            Request::Judge(record, reply) => reply.send(self.registry.judge(&record, secs).map_err(OwnerError::from)),
            Request::Admit(record, proved, reply) => {
                reply.send(self.change(now, false, |registry| registry.admit(record.clone(), proved, now)).await)
            }
            Request::Leave(leave, reply) => {
                reply.send(self.change(now, false, |registry| registry.leave(leave.clone(), secs)).await)
            }
            Request::Remove(removal, reply) => {
                reply.send(self.change(now, false, |registry| registry.remove(removal.clone(), secs)).await)
            }
            Request::Ask(request, reply) => reply.send(self.handle_ask(&request, now).await),
            Request::Due(reply) => {
                let _ = reply.send(self.registry.due(now));
                return;
            }
            Request::Probed(probed, reply) => {
                let decide = |registry: &Registry| {
                    let change = |one: &Probed| registry.probed(one.node, one.answered, one.jitter, now);
                    Ok(probed.iter().filter_map(change).collect())
                };
                reply.send(self.change(now, false, decide).await)
            }
        };
    }

    async fn handle_ask(&mut self, request: &ListRequest, now: Millis) -> Result<(), OwnerError> {
        if !self.registry.is_operator(&request.key) {
            return self.change(now, false, |registry| registry.ask(request, now.secs())).await;
        }
        self.registry.check_request(request, now.secs())?;
        let last = self.operators_asked.entry(request.key).or_default();
        if *last >= request.seq {
            return Err(Refusal::Stale.into());
        }
        *last = request.seq;
        Ok(())
    }

    async fn handle_catch_up(&mut self, now: Millis) {
        // The failure is noted, and who depends on the store hears of it.
        let _ = self.catch_up(now).await;
    }

    /// Notes whether the store works, for `/health`; the log says when that changes.
    fn note_store(&self, failure: Option<&(dyn std::error::Error + 'static)>) {
        match (failure, self.store_failure.load().is_some()) {
            (Some(error), false) => {
                tracing::error!(error, "the store fails: what is served gets old, and nothing is taken in");
                let reasons = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
                self.store_failure.store(Some(Arc::new(reasons.collect::<Vec<_>>().join(": "))));
                self.metrics.store_failing.set(1);
            }
            (None, true) => {
                tracing::info!("the store is back");
                self.store_failure.store(None);
                self.metrics.store_failing.set(0);
            }
            _ => {}
        }
    }

    async fn handle_tick(&mut self, now: Millis) {
        let signed_at = self.published.load().head().issued_at;
        let aged = now.secs().saturating_since(signed_at) >= (self.signing.lifetime / 4).min(FRESH / 4);
        // Later, and not just another: where two clocks differ, the one behind would sign against the other for minutes.
        let rotates = Slot::of(signed_at) < Slot::of(now.secs());
        // One registry renews, and the others find that it did: what is decided anew has to be true still.
        let renewed_from = self.published.load().head().seq;
        if let Err(error) = self.catch_up(now).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "not caught up");
        }
        let renew = (aged || rotates) && self.published.load().head().seq == renewed_from;
        // Whether a store that has failed takes commits again shows by one.
        let renew = renew || self.store_failure.load().is_some();
        // Who comes or goes was decided with its change: were it looked at here as well, two registries whose configs differ
        // would sign against each other without an end.
        let (public, published) =
            (|| self.registry.public().map(|listing| &listing.record), self.published.load_full());
        let renew = renew || (published.names(public()) && !published.lists(public()));
        let expired = self.change(now, renew, |registry| Ok(registry.expire(now.secs()))).await;
        match expired {
            // The log says when the store fails and when it is back.
            Ok(()) | Err(OwnerError::Read(_) | OwnerError::Store(_)) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the directory; trying again");
            }
        }
        let refreshed = self.published.load().refreshed(self.listings(), now);
        self.published.store(Arc::new(refreshed));
        self.metrics.observe(&self.registry);
    }

    fn listings(&self) -> BTreeMap<NodeId, Arc<Listing>> {
        self.registry.listings().map(|listing| (listing.record.node, Arc::clone(listing))).collect()
    }

    /// Decides on a change, stores it, and puts it into force; again where another registry was faster. Signs a new
    /// directory where nodes come or go, or where one is to be signed in any case; where only their records are newer,
    /// now or with the next tick.
    async fn change(
        &mut self,
        now: Millis,
        renew: bool,
        decide: impl Fn(&Registry) -> Result<Vec<Change>, Refusal>,
    ) -> Result<(), OwnerError> {
        for _ in 0..TRIES {
            let version = self.catch_up(now).await?;
            let changes = decide(&self.registry)?;
            if changes.is_empty() && !renew {
                return Ok(());
            }
            match self.commit(version, changes, renew, now).await {
                Err(OwnerError::Store(CommitError::Overtaken)) => self.metrics.overtaken_commits.inc(),
                done => return done,
            };
        }
        Err(CommitError::Overtaken.into())
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
        let public = || next.public().map(|listing| &listing.record);
        let last = self.published.load_full();
        let age = now.secs().saturating_since(last.head().issued_at);
        let head = if renew || !last.names(public()) || (age >= TICK && !last.lists(public())) {
            // The clock may stand still or go back; the number does neither.
            let seq = now.0.max(self.newest.saturating_add(1));
            Some(self.signing.online.sign_directory(public(), seq, self.signing.lifetime, now)?)
        } else {
            None
        };
        match self.store.commit(version, &changes, head.as_ref()).await {
            Ok(version) => {
                self.version = Some(version);
                self.note_store(None);
            }
            Err(error) => {
                if let CommitError::Failed(_) = error {
                    self.metrics.failed_commits.inc();
                    self.note_store(Some(&error));
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
            self.warn_of_delegation(now);
        }
        Ok(())
    }

    /// Takes in what others have committed.
    async fn catch_up(&mut self, now: Millis) -> Result<Version, OwnerError> {
        let news = self.store.news(self.version).await;
        // That it can be read says nothing of a full disk: it is back with the next commit.
        if let Err(error) = &news {
            self.note_store(Some(error));
        }
        match (news?, self.version) {
            (Some(news), _) => Ok(self.take_in(news, now)),
            (None, Some(version)) => Ok(version),
            (None, None) => Err(ReadError("the store has no version".into()).into()),
        }
    }

    fn take_in(&mut self, news: News, now: Millis) -> Version {
        if news.damaged > 0 {
            tracing::warn!(entries = news.damaged, "the store holds entries that do not decode; they are ignored");
        }
        if news.complete {
            self.registry = self.blank.clone();
        }
        news.changes.into_iter().for_each(|change| self.registry.apply(change));
        self.version = Some(news.version);
        if let Some(head) = news.head.filter(|head| head.seq > self.newest) {
            if Millis(head.seq).secs() > now.secs() + MAX_CLOCK_SKEW {
                tracing::warn!(
                    "the directory is from the future: this clock is behind, or clients will refuse the next ones"
                );
            }
            self.newest = head.seq;
            match self.nodes_of(&head, now) {
                Ok(nodes) => self.publish(head, nodes, now),
                // What strangers are shown can't follow from it. The last one is served until one of the registries
                // signs the next, and the log says this once for each.
                Err(error) => tracing::error!(%error, "the store's directory does not count, and is not served"),
            }
        }
        news.version
    }

    /// The records in a directory that another registry, or this one before it started, has signed.
    ///
    /// Whether it counts now isn't asked: a registry whose clock is behind serves the same as the others, and to the same
    /// people. Without the nodes it would take a long list for an empty one, which everybody is shown.
    ///
    /// # Errors
    /// It is none by the roots.
    fn nodes_of(&self, head: &Head, now: Millis) -> Result<Vec<SignedRecord>, DirectoryError> {
        let latest = now.secs().max(head.issued_at).max(Millis(head.seq).secs());
        let bundle = match DirectoryBundle::decode_old(head.bundle.clone(), &self.signing.roots, latest) {
            Ok(bundle) => bundle,
            Err(DirectoryError::Empty) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let known = self.listings();
        let known: BTreeMap<&[u8], &SignedRecord> =
            known.values().map(|listing| (listing.record.as_bytes().as_ref(), &listing.record)).collect();
        let record = |bytes: &bytes::Bytes| match known.get(bytes.as_ref()) {
            // To verify a signature costs a hundred times as much as to find that one holds it.
            Some(record) => Some((*record).clone()),
            None => Signed::decode(bytes.clone()).ok(),
        };
        Ok(bundle.directory().nodes.iter().filter_map(record).collect())
    }

    fn publish(&self, head: Head, nodes: Vec<SignedRecord>, now: Millis) {
        let (online, pools) = (Arc::clone(&self.signing.online), self.pools.clone());
        let published = Published::new(online, pools, head, nodes, self.listings(), now);
        self.published.store(Arc::new(published));
        self.metrics.observe(&self.registry);
    }

    fn warn_of_delegation(&self, now: Millis) {
        let rest = self.signing.online.delegation.expires_at.saturating_since(now.secs());
        if rest <= DELEGATION_WARNING {
            let days = rest.as_secs() / (24 * 3600);
            tracing::warn!(days, "the delegation to the online key ends soon; have the root sign a new one");
        }
    }
}

#[cfg(test)]
mod tests;
