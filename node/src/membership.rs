//! Membership without I/O: who is a member of the federation, and which statements about other members count.
//!
//! The input of [`Engine`] is packets, greetings and the time. Its output is packets to send and nodes to dial. The
//! node drives it with a task and real links. The simulator drives a thousand engines on virtual time.

pub mod accusation;
pub mod admission;
mod ages;
pub mod beacons;
mod checks;
pub mod counts;
pub mod engine;
pub(crate) mod event;
pub mod exchange;
mod exchange_schedule;
pub mod gossip;
pub mod member;
mod member_age;
mod member_table;
pub mod news;
mod now;
pub(crate) mod overtaken;
pub mod packet;
mod record_expiry;
pub mod records;
mod reputation;
mod swim;
pub mod view;

pub use engine::{Engine, Greeting, OpenCounts, Output, Settings, Verdict};
pub use now::Now;
