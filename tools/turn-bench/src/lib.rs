//! Measures what relayed packets and allocations cost on real processes, beside other TURN servers.
//!
//! Servers have one core and the load generator the other, so that each figure is of one core.

mod addresses;
mod contender;
mod datagrams;
mod generator;
pub mod rows;
pub mod servers;
pub mod signalling;

pub use generator::{Faults, Generator, Load, Loaded, Route};
