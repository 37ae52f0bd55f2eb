//! The simulator: real membership engines, placement and leases, on virtual time.
//!
//! A [`World`](world::World) holds the nodes, the network between them and a queue of events. Everything random comes
//! from one seed, so that a run that went wrong can be run again. What is simulated is what lies around the engine: the
//! task that drives it, QUIC links with their handshakes and greetings, datagrams that are lost, streams that are late.

pub mod attack;
mod carry;
mod dial;
mod event;
mod exchange;
mod greet;
mod links;
mod look;
mod network;
mod node;
mod process;
pub mod scenario;
pub mod time;
pub mod usage;
mod watch;
pub mod world;
