//! Twenty hosts on one machine: a network namespace for each, latency, loss and partitions between them, and a real
//! node process in each.
//!
//! All of it stands in namespaces of its own (network, mounts, processes), so whatever ends this program ends them.

pub mod calls;
pub mod firewall;
pub mod fleet;
pub mod relay;
pub mod sandbox;
pub mod scenarios;
pub mod simulated;
pub mod topology;
pub mod views;
