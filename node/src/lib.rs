//! The relay: client sessions, federation, leases.
//!
//! A node takes WebSockets from clients and QUIC links from other nodes, and forwards sealed messages between them. It
//! keeps sessions, leases and counters in memory, and its key, its epoch and its known members on disk.

mod answer;
mod bounded;
pub mod clock;
mod clock_watch;
pub mod config;
mod core;
mod dispatch;
mod federation;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod held;
mod homes;
mod ice;
pub mod identity;
pub mod leases;
mod levels;
mod listener;
mod local;
mod locate;
pub mod membership;
mod metrics;
mod node;
mod own_addrs;
pub mod placement;
mod places;
mod publish;
mod register;
mod room;
mod session;
mod shares;
mod socket;
mod tasks;
mod turns;
mod unfinished;
#[cfg(test)]
mod vectors;
mod wire;

pub use config::NodeConfig;
pub use node::{Node, NodeAddrs, NodeStats, StartError};
pub use own_addrs::ResolveError;
pub use socket::tls::TlsError;
