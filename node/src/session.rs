//! The session of one client: its task, pairing by code, and attached inboxes.

pub(crate) mod attach;
pub(crate) mod pair_requests;
pub(crate) mod pairing;
mod payload_reservation;
pub(crate) mod run;
