//! Hostile clients against a real node while honest people call: what the honest notice, and what it costs the node.
//!
//! The node has a core of its own, and attackers and the honest share the other: each attack is a process with the lowest
//! priority, the honest are one with real-time priority. So what the honest notice is what the node does, and not how
//! processes share a processor. An attack is bounded in time and rate. The honest come from other addresses than
//! attackers, and are as limited as any client: nothing is exempt.

pub mod attack;
pub mod baseline;
pub mod client;
pub mod codes;
pub mod connections;
pub mod floods;
pub mod hostile;
pub mod leases;
pub mod ledger;
pub mod messages;
pub mod node;
pub mod notes;
pub mod plan;
pub mod run;
pub mod slow;
pub mod unfinished;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr};

/// How many addresses attackers have, where an attack comes from many.
pub const MANY: u32 = 4_000;

/// One of the attackers' addresses: 127.2.0.1 and on.
pub fn hostile_source(number: u32) -> IpAddr {
    source(0x7F02_0000, number)
}

/// One of the addresses of the honest: 127.1.0.1 and on, one for each person.
pub fn baseline_source(number: u32) -> IpAddr {
    source(0x7F01_0000, number)
}

fn source(first: u32, number: u32) -> IpAddr {
    // Neither .0 nor .255 of any block.
    Ipv4Addr::from_bits(first + (number / 250) * 256 + number % 250 + 1).into()
}
