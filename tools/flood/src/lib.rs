//! Attacks on a real node while honest clients, the baseline, call through it. Measures what the baseline loses, and
//! what the attack costs the node.
//!
//! The node has one core. The attacker, a process with the lowest priority, and the baseline, a process with real-time
//! priority, share the other. So the baseline's delays are the node's, and not those of a shared processor. An attack
//! is bounded in time and rate. Baseline clients connect from other addresses than attackers. No address is exempt from
//! the node's limits.

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

/// The number of addresses of an attack from many addresses.
pub const MANY: u32 = 4_000;

/// An address of attackers, from 127.2.0.1 on.
pub fn hostile_source(number: u32) -> IpAddr {
    source(0x7F02_0000, number)
}

/// An address of the baseline, from 127.1.0.1 on: one for each client.
pub fn baseline_source(number: u32) -> IpAddr {
    source(0x7F01_0000, number)
}

fn source(first: u32, number: u32) -> IpAddr {
    // Skips .0 and .255 of each block.
    Ipv4Addr::from_bits(first + (number / 250) * 256 + number % 250 + 1).into()
}
