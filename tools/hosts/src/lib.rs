//! Twenty hosts on one machine: a network namespace for each, latency, loss and partitions between them, and a real
//! node process in each.
//!
//! All of it runs in its own namespaces (network, mounts, processes), which end with this program.

pub mod calls;
pub mod firewall;
pub mod fleet;
pub mod relay;
pub mod sandbox;
pub mod scenarios;
pub mod simulated;
pub mod topology;
pub mod views;
