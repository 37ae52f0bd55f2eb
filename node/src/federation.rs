//! Joining the federation and staying in it: the membership task, and its exchanges with other nodes and registries.

pub(crate) mod exchange;
pub(crate) mod external_address;
mod former_members;
pub(crate) mod join;
pub(crate) mod members_file;
pub(crate) mod membership_runtime;
pub(crate) mod own_addrs;
pub(crate) mod registration;
pub(crate) mod root_statements;
