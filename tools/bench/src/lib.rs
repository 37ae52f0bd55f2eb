//! Measures the CPU, latency and memory of messages, sessions and connections on real processes, beside floors.
//!
//! A floor is a minimal relay that does the same job with the same libraries: it forwards frames by id. Servers have
//! one core and generators the other, so that each figure is of one core.

pub mod contender;
pub mod driver;
pub mod floors;
pub mod generator;
pub mod rows;
pub mod server;
