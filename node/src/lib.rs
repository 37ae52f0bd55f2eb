//! The relay: client sessions, federation, leases.
//!
//! A node accepts WebSockets from clients and QUIC links from other nodes, and forwards sealed messages between them.
//! It keeps sessions, leases and counters in memory. Its key, its epoch and its known members are on disk.
//!
//! Modules import downwards. `node` and `admin` may use everything. Below them are the listener, the session tasks, the
//! publisher and the router for peer frames; then homes and federation; then `sessions` and `links`; then the pure
//! modules.

mod acme;
mod admin;
mod budget;
mod budget_runtime;
mod call_page;
mod client_protocol;
pub mod clock;
pub mod config;
mod context;
mod core;
mod federation;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod health;
mod homes;
mod ice;
pub mod identity;
pub mod leases;
mod levels;
mod limits;
mod links;
mod listener;
mod media_relay;
mod members;
pub mod membership;
mod metrics;
mod node;
mod peer_router;
mod pending_connections;
pub mod placement;
mod presence;
mod publisher;
mod reachability;
mod reload;
mod session;
mod sessions;
mod sockets;
mod state_file;
mod tasks;
mod upkeep;
#[cfg(test)]
mod vectors;
mod websocket;
mod wire;

pub use acme::runtime::AcmeSetupError;
pub use config::NodeConfig;
pub use federation::{own_addrs::ResolveError, root_statements::known_roots};
pub use node::{Node, NodeAddrs, NodeStats, StartError, check_client_files};
pub use reload::ReloadError;
pub use sockets::PassedSockets;
pub use websocket::tls::{TlsError, check_certificate};
