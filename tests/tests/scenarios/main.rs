//! Scenarios across several crates, with federations in this process. Each topic is a module.
//!
//! They run beside each other: what counts something of the whole process, such as its memory, is a program of its own.

mod budget;
mod client;
mod clock;
mod code_door;
mod contacts;
mod doors;
mod inbox_door;
mod lifetime;
mod lying_homes;
mod membership;
mod pairing;
mod reachability;
mod registry;
mod socket;
mod turn;
mod turn_browsers;
mod turn_life;
mod turn_nat;
