//! Discovery against censors, broken networks and lying servers, over real sockets.
//!
//! Nodes, the registry and DNS over HTTPS are real servers. Faults are made at the socket in front of a server
//! ([`gate`]), or are false answers of such a server ([`web`], [`dns`], [`issuer`]).

pub mod cells;
pub mod dns;
pub mod fault;
pub mod gate;
pub mod hostile;
pub mod issuer;
pub mod ladder;
pub mod times;
pub mod web;
pub mod world;
