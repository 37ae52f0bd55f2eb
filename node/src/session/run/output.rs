//! What a session writes to its own client.

use crate::{
    sessions::handle::{Batch, SessionHandle},
    websocket::writer::{Backlog, WriteError},
};

/// The part of `limits.max_queued` that a client may leave unread. Beyond it the client is not read, and strangers can't
/// send it pair requests: the rest is for what others send.
const READ_PAUSE_FRACTION: usize = 4;

/// The session's side of the way to its client. Others write to it too, by the handle.
#[derive(Default)]
pub(super) struct Output {
    /// Buffers what is written while one read is handled.
    pub(super) batch: Batch,
    /// What the client had not taken when that was last looked at.
    pub(super) backlog: Backlog,
    /// Bytes written since then.
    written: usize,
}

impl Output {
    /// Takes over what the client has not taken yet.
    pub(super) const fn set_backlog(&mut self, backlog: Backlog) {
        (self.backlog, self.written) = (backlog, 0);
    }

    /// Writes a text message.
    pub(super) fn write(&mut self, handle: &SessionHandle, text: &str) {
        self.written += text.len();
        let written = handle.write(&mut self.batch, &[text.as_bytes()]);
        log_lost(written);
    }

    /// Whether the client has yet to take much of what was written to it. `max_queued` in bytes.
    pub(super) const fn is_backpressured(&self, max_queued: usize) -> bool {
        self.backlog.bytes + self.written > max_queued / READ_PAUSE_FRACTION
    }
}

/// A client to which nothing can be written has a session that ends by a signal of the handle.
pub(super) fn log_lost(written: Result<(), WriteError>) {
    if let Err(error) = written {
        tracing::trace!(%error, "not written");
    }
}
