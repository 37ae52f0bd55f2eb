//! Finding a node that works: sources, verification and the cache.
//!
//! A *source* names candidates, a *dial* has one of them prove its key, and [`Discovery`] runs both until one has. No
//! source is trusted: whatever it says of a node is either signed or pinned, and is proved again at the handshake.
//! Four sources are here: the registry, the cache, links and manual entry. DNS and referrals are further
//! implementations of [`source::Source`]; staggering the sources is [`Discovery::connect`]'s own business.

pub mod cache;
pub mod connection;
pub mod dial;
mod discover;
pub mod link;
pub mod manual;
pub mod private_file;
pub mod registry;
pub mod source;
pub mod special;
pub mod tls;

pub use connection::Connection;
pub use discover::{Cause, CauseError, DiscoverError, Discovery, DiscoveryBuilder, SEARCH_TIMEOUT};
