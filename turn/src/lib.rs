//! A STUN and TURN server (RFC 8489, RFC 8656) without I/O.
//!
//! [`server::Server`] receives packets and the time, and returns what to send. It opens no sockets itself: its driver
//! implements [`server::RelaySockets`]. Its safety rules:
//!
//! - An unverified source gets no state, and responses of at most 1.5 times its request's bytes on the wire ([`response`]).
//! - A peer address is checked where it is used, and in every spelling ([`peer_filter`]).
//! - Allocations, permissions, channels and bytes are bounded ([`limits`], [`traffic`], [`budget`]).

pub mod allocation;
pub mod attributes;
pub mod budget;
pub mod channel_data;
pub mod client;
pub mod counters;
pub mod credentials;
pub mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod limits;
pub mod nonce;
pub mod packet;
pub mod peer_filter;
pub mod ports;
pub mod response;
pub mod runtime;
pub mod server;
pub mod source;
pub mod source_limiter;
pub mod table;
pub mod time;
pub mod traffic;
