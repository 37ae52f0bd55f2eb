//! The bench: what a message, a session and a connection cost, measured on real processes beside floors.
//!
//! A floor is the least that does the same job with the same parts: it forwards frames by id and knows nothing else. Servers
//! have one core and what drives them the other, so that each figure is of one core.

pub mod contender;
pub mod driver;
pub mod floors;
pub mod generator;
pub mod rows;
pub mod server;
