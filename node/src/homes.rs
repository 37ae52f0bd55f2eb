//! Homes: the nodes at which leases and codes are looked up. This node asks them, and is one of them.

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

pub(crate) use self::client::{ClaimError, Registered};
use self::table::HomeTable;
use crate::{
    context::Context, limits::fair_semaphore::FairSemaphore, links::Links, members::Members,
    publisher::command::Command, sessions::Sessions,
};

/// What this node keeps as a home, and what it has learned from others.
#[derive(Debug)]
pub(crate) struct Homes {
    context: Arc<Context>,
    members: Arc<Members>,
    links: Arc<Links>,
    sessions: Arc<Sessions>,
    publisher: mpsc::Sender<Command>,
    /// What is kept for others. Changed by requests of any node. Never locked over an `.await`.
    table: Mutex<HomeTable>,
    /// Leases that were looked up, for the next message. Checked against time and view when used.
    cache: Cache<Inbox, SignedLease>,
    /// How many leases that have to be verified each node may register.
    new_leases: DefaultKeyedRateLimiter<NodeId>,
    /// Turns at verifying what others register here.
    turns: FairSemaphore,
}

impl Homes {
    /// A home that keeps nothing yet.
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

    /// How many leases and how many codes are kept for others.
    pub(crate) fn len(&self) -> (usize, usize) {
        self.table().len()
    }

    /// Says among how many members the tables are shared, so that none of them fills one.
    pub(crate) fn share_among(&self, members: usize) {
        self.table().share_among(members, self.context.me);
    }

    /// Forgets the codes of a node that doesn't answer.
    pub(crate) fn forget_codes_of(&self, node: NodeId) {
        self.table().drop_codes_of(node);
    }

    /// Forgets all that a node registered here before `epoch`: it went down, or has started anew.
    pub(crate) fn forget_before(&self, node: NodeId, epoch: u64) {
        self.table().drop_before(node, epoch);
        self.cache.retain(|_, lease| lease.node != node);
    }

    /// Forgets what was not registered again, and the rates of nodes that were not seen recently.
    pub(crate) fn expire(&self) {
        self.table().expire(Instant::now());
        self.new_leases.retain_recent();
    }

    fn table(&self) -> MutexGuard<'_, HomeTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
