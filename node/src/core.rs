//! The parts of a running node. Top-level tasks receive all of them; each part receives only its own dependencies.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chappe_discovery::trust::Trust;
use chappe_turn::source::Source;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    budget::traffic::TrafficBudget,
    call_page::CallPage,
    context::Context,
    health::Health,
    homes::Homes,
    limits::{
        connection_limiter::ConnectionLimiter, fair_semaphore::FairSemaphore, memory_budget::MemoryBudget,
        rates::SourceRates,
    },
    links::Links,
    media_relay::MediaRelay,
    members::Members,
    membership::event::Event,
    publisher::command::Command,
    reachability::rounds::Rounds,
    sessions::Sessions,
    tasks::Tasks,
    websocket::tls::Tls,
};

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) context: Arc<Context>,
    pub(crate) members: Arc<Members>,
    pub(crate) health: Arc<Health>,
    pub(crate) links: Arc<Links>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) homes: Homes,
    /// The certificate for clients.
    pub(crate) tls: Option<Arc<Tls>>,
    /// The node's own STUN and TURN server.
    pub(crate) media_relay: Option<Arc<MediaRelay>>,
    /// The page with which people call, if this node serves it.
    pub(crate) call_page: Option<CallPage>,
    /// The traffic of this machine, if it has a budget.
    pub(crate) budget: Option<Arc<TrafficBudget>>,
    /// The federation's roots, and the revoked online keys of registries. A node without configured roots is its own root.
    pub(crate) trust: Trust,
    /// How members reach this node.
    pub(crate) reachability: Rounds,
    /// Events for the membership task.
    pub(crate) membership: mpsc::Sender<Event>,
    /// Commands for the publisher task.
    pub(crate) publisher: mpsc::Sender<Command>,
    /// Tasks of client connections. They end before the node's own tasks.
    pub(crate) connections: Tasks,
    pub(crate) clients: ClientLimits,
}

/// Limits that all clients share.
#[derive(Debug)]
pub(crate) struct ClientLimits {
    /// Schedules the verification of attached leases.
    pub(crate) attach_turns: FairSemaphore,
    /// Permits for attached leases that are not verified yet.
    pub(crate) attaching: Arc<Semaphore>,
    /// Bounds the memory that client data takes.
    pub(crate) memory_budget: Arc<MemoryBudget>,
    /// Rate limits for each source network.
    pub(crate) sources: ArcSwap<SourceRates>,
    /// Limits the concurrent connections of each source.
    pub(crate) source_connections: Arc<ConnectionLimiter<Source>>,
}
