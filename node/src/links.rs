//! The QUIC links to other nodes: dialling, accepting, and the table of open links.
//!
//! Does not interpret what is sent over a link. Each new link, and each
//! request for a check, is sent to a receiver that [`Links::new`] returns.

mod accept;
mod admission;
mod dial;
pub(crate) mod endpoint;
pub(crate) mod hello;
pub(crate) mod link;
mod outcomes;
pub(crate) mod probe;
mod seen_addrs;
mod table;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chappe_common::keys::NodeId;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quinn::{Connection, Endpoint, ServerConfig, VarInt};
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::TrySendError},
};

pub(crate) use self::dial::DialError;
use self::{
    dial::Dial,
    hello::Hello,
    link::{CloseReason, Link, Queues},
    probe::{CHECKS, CheckAsked},
    seen_addrs::SeenAddrs,
    table::LinkTable,
};
use crate::{
    config::HANDSHAKES_PART, context::Context, health::Health, limits::connection_limiter::ConnectionLimiter,
    members::Members, membership::event::Event, placement::Network,
};

/// Burst of handshakes, as a multiple of the rate per second.
const HANDSHAKES_BURST: u32 = 10;
/// Maximum time between two dials that cross: the duration of the hellos over the longest paths.
const CROSSING: Duration = Duration::from_secs(1);
/// Rate of new runs of one node. Each one ends all registrations of the former run, in tables of hundreds of thousands.
/// A node that is being set up may start about thirty times in a row.
const NEW_RUNS: Quota =
    Quota::per_minute(NonZeroU32::new(6).expect("not zero")).allow_burst(NonZeroU32::new(30).expect("not zero"));
/// Capacity of the channel of new links. The router spawns a task for each and is never far behind. If the channel is
/// full, a new link is counted, and waits until the timeout of its dial or hello.
const LINKS_UP: usize = 64;

#[derive(Debug)]
pub(crate) struct LinkUp {
    pub(crate) link: Arc<Link>,
    pub(crate) queues: Queues,
}

/// What arrives over incoming connections.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// New links, dialled ones too.
    pub(crate) links: mpsc::Receiver<LinkUp>,
    /// Members that ask to be tried.
    pub(crate) checks: mpsc::Receiver<CheckAsked>,
}

#[derive(Debug)]
pub(crate) struct Links {
    context: Arc<Context>,
    members: Arc<Members>,
    health: Arc<Health>,
    /// The membership task, which decides on admission.
    membership: mpsc::Sender<Event>,
    up: mpsc::Sender<LinkUp>,
    checks: mpsc::Sender<CheckAsked>,
    endpoint: Endpoint,
    server_config: ServerConfig,
    table: LinkTable,
    seen: SeenAddrs,
    dials: Mutex<HashMap<NodeId, Dial>>,
    handshakes: DefaultKeyedRateLimiter<Network>,
    /// Permits for incoming handshakes and hellos.
    incoming: Arc<ConnectionLimiter<Network>>,
    dial_backs: DefaultKeyedRateLimiter<Network>,
    dialling_back: Semaphore,
    new_runs: DefaultKeyedRateLimiter<NodeId>,
}

impl Links {
    /// Creates the links of a node over a bound endpoint. Returns what arrives over them.
    pub(crate) fn new(
        (endpoint, server_config): (Endpoint, ServerConfig),
        context: Arc<Context>,
        members: Arc<Members>,
        health: Arc<Health>,
        membership: mpsc::Sender<Event>,
    ) -> (Self, Arrivals) {
        let config = &context.config.federation;
        let rate = |rate| NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let per_second = rate(config.handshakes_per_second);
        let burst = rate(config.handshakes_per_second.saturating_mul(HANDSHAKES_BURST));
        let (up, ups) = mpsc::channel(LINKS_UP);
        let (checks, checks_asked) = mpsc::channel(CHECKS);
        let links = Self {
            table: LinkTable::new(config.max_links),
            seen: SeenAddrs::default(),
            dials: Mutex::default(),
            handshakes: RateLimiter::dashmap(Quota::per_second(per_second).allow_burst(burst)),
            incoming: ConnectionLimiter::new(config.max_handshakes, config.max_handshakes / HANDSHAKES_PART),
            dial_backs: RateLimiter::dashmap(Quota::per_minute(rate(config.dial_backs_per_minute))),
            dialling_back: Semaphore::new(config.max_dial_backs),
            new_runs: RateLimiter::dashmap(NEW_RUNS),
            context,
            members,
            health,
            membership,
            up,
            checks,
            endpoint,
            server_config,
        };
        (links, Arrivals { links: ups, checks: checks_asked })
    }

    /// Returns the open link to a node.
    pub(crate) fn find(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.table.find(node)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Closes the link to a node that does not answer.
    pub(crate) fn close(&self, node: &NodeId) {
        self.table.close(node);
    }

    pub(crate) fn close_former(&self, node: &NodeId, epoch: u64) {
        self.table.close_former(node, epoch);
    }

    /// Removes a link that has ended, unless another to the same peer has replaced it.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        self.table.remove(link);
    }

    /// Closes all links and accepts no more. A dial is then unanswered, as if the node had stopped.
    pub(crate) fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
        self.table.close_all();
    }

    /// Accepts links again.
    pub(crate) fn resume_accepting(&self) {
        self.endpoint.set_server_config(Some(self.server_config.clone()));
    }

    /// Closes all links, and waits until the peers were notified.
    pub(crate) async fn shutdown(&self) {
        self.endpoint.close(VarInt::from_u32(CloseReason::Shutdown as u32), b"");
        self.endpoint.wait_idle().await;
    }

    /// Removes the rates of networks and nodes that were not seen recently, and the addresses of unknown nodes.
    pub(crate) fn expire(&self) {
        self.handshakes.retain_recent();
        self.dial_backs.retain_recent();
        self.new_runs.retain_recent();
        self.seen.retain(|node| self.members.records.any(node).is_some());
    }

    /// Returns whether an incoming dial from `peer` must give way to this node's own dial. If two nodes dial each other
    /// at once, the dial of the lower key stays. A dial older than [`CROSSING`] may never complete, and a link to a
    /// former run is dead, so neither counts.
    fn must_give_way(&self, peer: NodeId, epoch: u64) -> bool {
        let dialling = self.dials().get(&peer).is_some_and(|dial| dial.since.elapsed() < CROSSING);
        self.context.me < peer && (dialling || self.table.has_dialled_within(CROSSING, &peer, epoch))
    }

    fn hello(&self) -> Hello {
        Hello::Record {
            record: self.members.own_record.load().as_bytes().clone(),
            ticket: self.context.config.federation.ticket.as_ref().map(|ticket| ticket.to_bytes().into()),
            clock: self.context.clock.now(),
        }
    }

    /// Adds a link to the table after both hellos succeeded, and sends it to the router. Closes it and returns `None` if the
    /// router has ended.
    async fn link_up(&self, peer: NodeId, epoch: u64, dialled: bool, connection: Connection) -> Option<Arc<Link>> {
        self.seen.add(peer, connection.remote_address());
        let (link, queues) = Link::new(peer, epoch, dialled, connection, &self.context.config);
        // Reserve first: a cancelled caller must not leave a link in the table that nobody serves.
        let up = match self.up.try_reserve() {
            Err(TrySendError::Full(())) => {
                self.context.metrics.links_delayed.inc();
                self.up.reserve().await.ok()
            }
            up => up.ok(),
        };
        let Some(up) = up else {
            link.close(CloseReason::Shutdown);
            return None;
        };
        self.table.insert(&link);
        up.send(LinkUp { link: link.clone(), queues });
        Some(link)
    }

    fn dials(&self) -> MutexGuard<'_, HashMap<NodeId, Dial>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
