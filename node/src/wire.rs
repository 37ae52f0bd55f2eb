//! What nodes send each other, as bytes and as values. Knows nobody else.

pub(crate) mod breach;
pub(crate) mod frame;
pub(crate) mod ids;
