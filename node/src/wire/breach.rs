//! Violations of the link protocol.

use super::frame::FrameError;

/// A violation of the link protocol. The link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// The bytes are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A lease does not verify, although its node must have checked it.
    #[error("a lease does not verify")]
    Lease,
    /// A note has fields that no client can have sent.
    #[error("a note is out of bounds")]
    Note,
    /// The delivery of a message that is not in flight.
    #[error(transparent)]
    Delivered(#[from] NotOpen),
}

/// The token has no open outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not in flight")]
pub(crate) struct NotOpen;
