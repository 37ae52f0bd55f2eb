//! Node discovery: sources, verification and the cache.
//!
//! A *source* names candidates. A *dial* connects to a candidate and makes it prove its key. A [`Discovery`] runs both
//! by the schedule of a [`race`] until a node has proved its key.
//!
//! No source is trusted: what it says about a node is signed or pinned, and the node proves its key again in the
//! handshake. The sources implement [`source::Source`]:
//!
//! - registries and mirrors over HTTPS;
//! - DNS over HTTPS;
//! - the cache;
//! - referrals by contacts;
//! - links and QR codes;
//! - nodes that a person enters;
//! - a directory built into the program, for the first start.

mod answers;
mod background_search;
pub mod cache;
pub mod connection;
pub mod dial;
mod discover;
pub mod dns;
pub mod doh;
pub mod door;
pub mod federation;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
pub mod invite;
pub mod join_link;
mod link_format;
pub mod manual;
pub mod members;
pub mod names;
pub mod net;
pub mod network;
mod node_http;
pub mod operator;
pub mod outside;
pub mod private_file;
pub mod proxy;
pub mod race;
pub mod reach;
pub mod referral;
pub mod registry;
pub mod replaced_file;
pub mod report;
mod search;
pub mod server_time;
mod setup_error;
pub mod snapshot;
pub mod source;
mod this_machine;
pub mod tls;
pub mod trust;

pub use background_search::{BackgroundSearch, SearchSummary};
pub use connection::Connection;
pub use discover::{Discovery, DiscoveryBuilder, FoundNode, SearchOutcome};
pub use link_format::LinkFormatError;
pub use report::{Cause, CauseError, DiscoverError, Report};
pub use setup_error::SetupError;
