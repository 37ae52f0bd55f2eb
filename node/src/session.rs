//! The session of one client: its task, pairing by code, and the inboxes that it has attached.

pub(crate) mod ask_book;
pub(crate) mod attach;
pub(crate) mod code_door;
pub(crate) mod inbox_door;
mod kept_payload;
pub(crate) mod run;
