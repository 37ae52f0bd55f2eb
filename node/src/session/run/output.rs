//! The output of a session to its own client.

use crate::{
    sessions::handle::{Batch, SessionHandle},
    websocket::writer::{Backlog, WriteError},
};

/// The divisor of `limits.max_queued` for a client's unread output. Beyond this part the client is not read, and its
/// session refuses pair requests. The rest of the queue is for output from other tasks.
const READ_PAUSE_FRACTION: usize = 4;

/// The session's own output to its client. Other tasks write to the client through the handle.
#[derive(Default)]
pub(super) struct Output {
    /// Buffers output while one read is handled.
    pub(super) batch: Batch,
    /// The unwritten output at the last poll.
    pub(super) backlog: Backlog,
    /// The number of bytes written since the last poll.
    written: usize,
}

impl Output {
    /// Updates the backlog.
    pub(super) const fn set_backlog(&mut self, backlog: Backlog) {
        (self.backlog, self.written) = (backlog, 0);
    }

    pub(super) fn write(&mut self, handle: &SessionHandle, text: &str) {
        self.written += text.len();
        let written = handle.write(&mut self.batch, &[text.as_bytes()]);
        log_write_error(written);
    }

    /// Returns whether the client's unread output exceeds its part of `max_queued` bytes.
    pub(super) const fn is_backpressured(&self, max_queued: usize) -> bool {
        self.backlog.bytes + self.written > max_queued / READ_PAUSE_FRACTION
    }
}

/// Logs a failed write. The session itself ends by a signal of the handle.
pub(super) fn log_write_error(written: Result<(), WriteError>) {
    if let Err(error) = written {
        tracing::trace!(%error, "could not write to the client");
    }
}
