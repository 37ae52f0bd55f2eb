//! Finding a node that works: sources, verification and the cache.
//!
//! A *source* names candidates, a *dial* has one of them prove its key, and a [`Discovery`] runs both by the schedule of a
//! [`race`] until one has. No source is trusted: whatever it says of a node is either signed or pinned, and is proved
//! again at the handshake. There are six, behind one trait, [`source::Source`]: registries and mirrors over HTTPS, DNS over
//! HTTPS, the cache, what contacts pass on, links and QR codes, and what a person types in; and a directory that was built
//! into the program, for a first start.

mod answers;
mod background_search;
pub mod cache;
pub mod connection;
pub mod dial;
mod discover;
pub mod dns;
pub mod doh;
pub mod federation;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
pub mod link;
pub mod manual;
pub mod members;
pub mod names;
pub mod net;
pub mod network;
mod node_http;
pub mod private_file;
pub mod proxy;
pub mod race;
pub mod reach;
pub mod referral;
pub mod registry;
pub mod replaced_file;
pub mod report;
pub mod revocations;
mod search;
mod setup_error;
pub mod snapshot;
pub mod source;
mod this_machine;
pub mod tls;

pub use background_search::{BackgroundSearch, SearchSummary};
pub use connection::Connection;
pub use discover::{Discovery, DiscoveryBuilder, Found, Outcome};
pub use report::{Cause, CauseError, DiscoverError, Report};
pub use setup_error::SetupError;
