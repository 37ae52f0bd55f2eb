//! The bench: what a message, a session and a connection cost, measured on real processes beside floors.
//!
//! A floor is the least that does the same job with the same parts: it forwards frames by id and knows nothing else. Servers
//! have one core and what drives them the other, so that each figure is of one core.

pub mod accept_queue;
pub mod contender;
pub mod cores;
pub mod cpu;
pub mod driver;
pub mod floors;
pub mod generator;
pub mod members;
pub mod rows;
pub mod server;
pub mod tls;
