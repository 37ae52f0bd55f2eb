//! The frames and ids that nodes send each other. Depends on no subsystem.

pub(crate) mod breach;
pub(crate) mod frame;
pub(crate) mod ids;
