//! How a node breaks the protocol of links.

use super::frame::FrameError;

/// How a node breaks the protocol of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// It sends what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It shows a lease that does not verify, which it has checked before.
    #[error("a lease that does not verify")]
    Lease,
    /// It says for a client what no client could have said.
    #[error("a note out of its bounds")]
    Note,
    /// It says that messages were delivered which nobody has sent.
    #[error(transparent)]
    Delivered(#[from] NotOpen),
}

/// No outcome is open for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not in flight")]
pub(crate) struct NotOpen;
