//! Homes: the nodes that store leases and codes. This node queries them, and is a home for others.

mod client;
mod server;
mod table;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chappe_common::{
    keys::NodeId,
    lease::{Inbox, SignedLease},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::sync::mpsc;

use self::table::HomeTable;
pub(crate) use self::{
    client::{ClaimError, LeaseStatus},
    table::StoredCounts,
};
use crate::{
    context::Context, limits::fair_semaphore::FairSemaphore, links::Links, members::Members,
    publisher::command::Command, sessions::Sessions,
};

/// The leases and codes that this node stores as a home, and a cache of leases found at other homes.
#[derive(Debug)]
pub(crate) struct Homes {
    context: Arc<Context>,
    members: Arc<Members>,
    links: Arc<Links>,
    sessions: Arc<Sessions>,
    publisher: mpsc::Sender<Command>,
    /// What this node stores as a home, on request of any node. Never locked across an `.await`.
    table: Mutex<HomeTable>,
    /// Leases found by lookups, for the next messages. Checked against time and view on use.
    cache: Cache<Inbox, SignedLease>,
    /// Rate at which each node may register leases that have to be verified.
    new_leases: DefaultKeyedRateLimiter<NodeId>,
    /// Schedules the verification of registered leases.
    turns: FairSemaphore,
}

impl Homes {
    pub(crate) fn new(
        context: Arc<Context>,
        members: Arc<Members>,
        links: Arc<Links>,
        sessions: Arc<Sessions>,
        publisher: mpsc::Sender<Command>,
    ) -> Self {
        let config = &context.config.federation;
        let new_leases = NonZeroU32::new(config.new_leases_per_minute).unwrap_or(NonZeroU32::MIN);
        Self {
            table: Mutex::new(HomeTable::new(config.max_leases, context.config.times.registration)),
            cache: Cache::new(config.max_cached_leases),
            new_leases: RateLimiter::dashmap(Quota::per_minute(new_leases)),
            turns: FairSemaphore::default(),
            context,
            members,
            links,
            sessions,
            publisher,
        }
    }

    pub(crate) fn counts(&self) -> StoredCounts {
        self.table().counts()
    }

    /// Sets the number of members, from which each member's quota of the tables follows.
    pub(crate) fn share_among(&self, members: usize) {
        self.table().share_among(members, self.context.me);
    }

    /// Removes the codes of a node that does not answer.
    pub(crate) fn forget_codes_of(&self, node: NodeId) {
        self.table().drop_codes_of(node);
    }

    /// Removes everything that a node registered before `epoch`, because it went down or restarted.
    pub(crate) fn forget_before(&self, node: NodeId, epoch: u64) {
        self.table().drop_before(node, epoch);
        self.cache.retain(|_, lease| lease.node != node);
    }

    /// Removes expired registrations, and the rates of nodes that were not seen recently.
    pub(crate) fn expire(&self) {
        self.table().expire(Instant::now());
        self.new_leases.retain_recent();
    }

    fn table(&self) -> MutexGuard<'_, HomeTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
