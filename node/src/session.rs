//! The session of one client: its task, pairing by code, and the inboxes that it has attached.

pub(crate) mod attach;
mod kept_payload;
pub(crate) mod pair_requests;
pub(crate) mod pairing;
pub(crate) mod run;
