//! The parts of a running node. Tasks at the top are given all of them; the parts themselves are given what they need.

use std::sync::Arc;

use chappe_discovery::revocations::KnownRevocations;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    context::Context,
    health::Health,
    homes::Homes,
    limits::{fair_semaphore::FairSemaphore, memory_budget::MemoryBudget, rates::SourceRates},
    links::Links,
    members::Members,
    membership::event::Event,
    publisher::command::Command,
    sessions::Sessions,
    tasks::Tasks,
};

/// The parts of a running node.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) context: Arc<Context>,
    pub(crate) members: Arc<Members>,
    pub(crate) health: Arc<Health>,
    pub(crate) links: Arc<Links>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) homes: Homes,
    /// Which online keys of registries are revoked.
    pub(crate) revocations: KnownRevocations,
    /// The membership task.
    pub(crate) membership: mpsc::Sender<Event>,
    /// The task that keeps leases and codes registered.
    pub(crate) publisher: mpsc::Sender<Command>,
    /// Clients' connections: they end before the node's own tasks do.
    pub(crate) connections: Tasks,
    /// What clients can make this node do.
    pub(crate) clients: ClientLimits,
}

/// Bounds on what all clients together can make a node hold or do.
#[derive(Debug)]
pub(crate) struct ClientLimits {
    /// Turns at verifying what clients attach.
    pub(crate) attach_turns: FairSemaphore,
    /// Permits for leases that clients attach, until they are verified.
    pub(crate) attaching: Arc<Semaphore>,
    /// The memory that clients make this node hold.
    pub(crate) held: Arc<MemoryBudget>,
    /// The rates of clients' networks.
    pub(crate) sources: SourceRates,
}
