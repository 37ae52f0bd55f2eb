//! The input of one client. It is read into a buffer that all sessions of a thread share, and handled frame by frame.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::tcp::OwnedReadHalf,
};

use super::{
    codec::{Decoder, Incoming, Violation},
    writer::WriteError,
};
use crate::limits::memory_budget::{FREE_DIRECTION, MemoryBudget, Reservation};

/// The size of the read buffer: the largest message, so that most frames are parsed in place.
const BUFFER_LEN: usize = 64 * 1024;
/// The maximum number of reads in one poll, so that a client that sends continuously leaves time to others.
const MAX_READS: usize = 4;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_LEN]);
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why no more input is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The connection has ended.
    Closed,
    /// The client violated the protocol.
    Violation(Violation),
    /// The memory budget of all clients has no room for an incomplete message.
    BudgetExceeded,
}

/// Whether to continue with the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Continue.
    Read,
    /// Stop for now, and keep the unhandled input.
    Wait,
}

/// Why discarding has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discarded {
    /// All input was discarded, to the end of the connection.
    All,
    /// The limit was reached.
    Enough,
}

/// Reads and decodes a client's input.
pub(crate) struct Reader {
    reader: OwnedReadHalf,
    decoder: Decoder,
    /// Input to handle later, at most one buffer.
    unhandled: Vec<u8>,
    /// Accounts for `unhandled` and the decoder's incomplete message.
    reservation: Reservation<FREE_DIRECTION>,
    /// Whether the client has ended its side of TLS, so that no input follows.
    ended: bool,
}

impl Reader {
    /// Creates a reader. `unhandled` is input that was read already. Messages have at most `max_message` bytes, and
    /// memory is reserved in `budget`.
    pub(crate) fn new(
        reader: OwnedReadHalf,
        unhandled: Vec<u8>,
        max_message: usize,
        budget: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            reader,
            decoder: Decoder::new(max_message),
            unhandled,
            reservation: Reservation::new(budget),
            ended: false,
        }
    }

    /// Passes each available frame to `handle`, and whether more input follows it. With TLS, `decrypt` decrypts the
    /// input.
    ///
    /// Ready on an error, or after `handle` has returned [`Next::Wait`].
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        is_tls: bool,
        mut decrypt: impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool, WriteError>,
        mut handle: impl FnMut(Incoming<'_>, bool) -> Next,
    ) -> Poll<Result<(), Ended>> {
        if !self.unhandled.is_empty() {
            let mut unhandled = std::mem::take(&mut self.unhandled);
            let (used, next) = handle_all(&mut self.decoder, &mut unhandled, &mut handle)?;
            if next == Next::Wait {
                unhandled.drain(..used);
                self.unhandled = unhandled;
                return Poll::Ready(Ok(()));
            }
            self.update_reservation()?;
        }
        if self.ended {
            return Poll::Ready(Err(Ended::Closed));
        }
        for _ in 0..MAX_READS {
            let next = READ.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                let end = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut read)).map_err(|_| Ended::Closed);
                let count = read.filled().len();
                end?;
                if count == 0 {
                    return Poll::Ready(Err(Ended::Closed));
                }
                if !is_tls {
                    return Poll::Ready(self.handle_buffer(&mut buffer[..count], &mut handle));
                }
                PLAIN.with_borrow_mut(|plain| {
                    plain.clear();
                    let open = decrypt(&buffer[..count], plain).map_err(|_| Ended::Closed)?;
                    let next = self.handle_buffer(plain, &mut handle)?;
                    self.ended = !open;
                    // Unhandled input is handled before the end.
                    Poll::Ready(if open || next == Next::Wait { Ok(next) } else { Err(Ended::Closed) })
                })
            });
            if ready!(next)? == Next::Wait {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads and discards up to `left` bytes. Ready at the limit, or at the end of the connection.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Discarded> {
        for _ in 0..MAX_READS {
            let count = READ.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                let end = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut read));
                Poll::Ready(end.map_or(0, |()| read.filled().len()))
            });
            match ready!(count) {
                0 => return Poll::Ready(Discarded::All),
                count if count > *left => return Poll::Ready(Discarded::Enough),
                count => *left -= count,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns whether a message is incomplete.
    pub(crate) fn has_unfinished(&self) -> bool {
        self.decoder.unfinished() > 0
    }

    fn handle_buffer(
        &mut self,
        buffer: &mut [u8],
        handle: &mut impl FnMut(Incoming<'_>, bool) -> Next,
    ) -> Result<Next, Ended> {
        let (used, next) = handle_all(&mut self.decoder, buffer, handle)?;
        self.unhandled = buffer[used..].to_vec();
        self.update_reservation()?;
        Ok(next)
    }

    fn update_reservation(&mut self) -> Result<(), Ended> {
        self.reservation.resize(self.unhandled.len() + self.decoder.unfinished()).map_err(|_| {
            self.unhandled = Vec::new();
            self.decoder.drop_unfinished();
            Ended::BudgetExceeded
        })
    }
}

/// Passes all complete frames in `buffer` to `handle`, until it returns [`Next::Wait`]. Returns the number of bytes
/// used.
///
/// Frees the decoder's output buffer at the end, since the session may not read again for a long time.
fn handle_all(
    decoder: &mut Decoder,
    buffer: &mut [u8],
    handle: &mut impl FnMut(Incoming<'_>, bool) -> Next,
) -> Result<(usize, Next), Ended> {
    let (mut at, len, mut next) = (0, buffer.len(), Next::Read);
    while at < len && next == Next::Read {
        let Some(incoming) = decoder.decode(buffer, &mut at).map_err(Ended::Violation)? else { break };
        next = handle(incoming, at < len);
    }
    decoder.drop_output();
    Ok((at, next))
}
