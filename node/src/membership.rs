//! Membership without I/O: who is in the federation, and what members may say of each other.
//!
//! [`Engine`] takes packets, greetings and the time, and gives back what is to be sent and dialled. The node drives it
//! with a task and real links; a simulation drives a thousand of them on virtual time.

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

pub use engine::{Engine, Greeting, Output, Settings, Verdict};
pub use now::Now;
