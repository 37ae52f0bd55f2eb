//! Discovery against everything that a censor, a broken network or a lying server does, over real sockets.
//!
//! Every server is real: nodes, a registry, DNS over HTTPS. What goes wrong is made at the socket in front of it
//! ([`gate`]), or is what a server of that kind would say ([`web`], [`dns`], [`issuer`]).

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
