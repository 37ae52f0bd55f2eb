//! The JSON messages of the client protocol: parses requests and encodes replies. Pure.

pub(crate) mod depth;
pub(crate) mod plain;
pub(crate) mod reply;
pub(crate) mod request;
