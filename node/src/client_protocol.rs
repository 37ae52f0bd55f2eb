//! The client protocol's messages as JSON: reading requests, writing replies. Pure.

pub(crate) mod depth;
pub(crate) mod plain;
pub(crate) mod reply;
pub(crate) mod request;
