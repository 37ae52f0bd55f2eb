//! The certificate for clients, obtained and renewed by ACME (RFC 8555).
//!
//! `identifiers` and `schedule` are pure: what the certificate is for, by which challenge, and when something is due.
//! `store` has the files. `order` is one conversation with the authority, over `http`. `challenges` and `http_listener` answer
//! when the authority validates a host. `runtime` drives all of it.

mod challenges;
mod http;
pub(crate) mod http_listener;
mod identifiers;
mod order;
mod order_error;
pub(crate) mod runtime;
mod schedule;
mod store;
mod usable;
