//! How this node is reached from outside: members try its addresses when it asks them, and it tries theirs.
//!
//! A member tries only the address from which it was asked, at ports that the asker's signed record or its request names. So
//! a record that names somebody else's address sends nobody a packet. `docs/decisions/0047` has the reasons.

pub(crate) mod asker;
pub(crate) mod message;
pub(crate) mod observer;
pub(crate) mod report;
pub(crate) mod rounds;
mod stun;
mod targets;
