//! What comes in from one client: read into a buffer that all sessions of a thread share, and heard frame by frame.

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

/// What is read at once: the largest message, so that most frames are parsed where they were read.
const BUFFER: usize = 64 * 1024;
/// Reads in one turn: a client that sends without end leaves the others theirs.
const READS: usize = 4;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why nothing more is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The connection is over.
    Closed,
    /// The client broke the rules.
    Violation(Violation),
    /// What has come of a message that is not whole can't be kept, as too much of all clients is.
    BudgetExceeded,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// With the next frame.
    Read,
    /// Not now: what was read is kept.
    Wait,
}

/// How much was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discarded {
    /// All that came, to the end of the connection.
    All,
    /// As much as was allowed.
    Enough,
}

/// The way in.
pub(crate) struct Reader {
    reader: OwnedReadHalf,
    decoder: Decoder,
    /// What was read and is to be heard later; at most one buffer.
    unheard: Vec<u8>,
    /// That, and what is not whole yet.
    held: Reservation<FREE_DIRECTION>,
    /// Nothing comes behind that: the client has ended its side of TLS.
    ended: bool,
}

impl Reader {
    /// From a connection, of which `unheard` was read already; messages of at most `max_message` bytes, and no
    /// more than all clients may have `held`.
    pub(crate) fn new(reader: OwnedReadHalf, unheard: Vec<u8>, max_message: usize, held: Arc<MemoryBudget>) -> Self {
        Self { reader, decoder: Decoder::new(max_message), unheard, held: Reservation::new(held), ended: false }
    }

    /// Hears what is there: gives each frame to `hear`, with whether more was read behind it. `decrypt` makes what was
    /// read what was said, where that differs. Ready when nothing more can be heard, or `hear` says so.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        is_tls: bool,
        mut decrypt: impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool, WriteError>,
        mut hear: impl FnMut(Incoming<'_>, bool) -> Next,
    ) -> Poll<Result<(), Ended>> {
        if !self.unheard.is_empty() {
            let mut unheard = std::mem::take(&mut self.unheard);
            let (used, next) = hear_all(&mut self.decoder, &mut unheard, &mut hear)?;
            if next == Next::Wait {
                unheard.drain(..used);
                self.unheard = unheard;
                return Poll::Ready(Ok(()));
            }
            self.count_held()?;
        }
        if self.ended {
            return Poll::Ready(Err(Ended::Closed));
        }
        for _ in 0..READS {
            let next = READ.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                let end = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut read)).map_err(|_| Ended::Closed);
                let count = read.filled().len();
                end?;
                if count == 0 {
                    return Poll::Ready(Err(Ended::Closed));
                }
                if !is_tls {
                    return Poll::Ready(self.hear_buffer(&mut buffer[..count], &mut hear));
                }
                PLAIN.with_borrow_mut(|plain| {
                    plain.clear();
                    let open = decrypt(&buffer[..count], plain).map_err(|_| Ended::Closed)?;
                    let next = self.hear_buffer(plain, &mut hear)?;
                    self.ended = !open;
                    // What waits is heard before the end.
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

    /// Reads what comes and throws it away, at most `left` bytes of it. Ready at the end of either.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Discarded> {
        for _ in 0..READS {
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

    /// Whether the beginning of a message is here whose rest has not come.
    pub(crate) fn has_unfinished(&self) -> bool {
        self.decoder.unfinished() > 0
    }

    fn hear_buffer(
        &mut self,
        buffer: &mut [u8],
        hear: &mut impl FnMut(Incoming<'_>, bool) -> Next,
    ) -> Result<Next, Ended> {
        let (used, next) = hear_all(&mut self.decoder, buffer, hear)?;
        self.unheard = buffer[used..].to_vec();
        self.count_held()?;
        Ok(next)
    }

    fn count_held(&mut self) -> Result<(), Ended> {
        self.held.resize(self.unheard.len() + self.decoder.unfinished()).map_err(|_| {
            self.unheard = Vec::new();
            self.decoder.forget_unfinished();
            Ended::BudgetExceeded
        })
    }
}

/// Gives all whole frames of `buffer` to `hear`, until that wants to wait; says how much of it is used up.
///
/// What the decoder gave is let go of at the end, as a session that hears no more for now would keep it.
fn hear_all(
    decoder: &mut Decoder,
    buffer: &mut [u8],
    hear: &mut impl FnMut(Incoming<'_>, bool) -> Next,
) -> Result<(usize, Next), Ended> {
    let (mut at, len, mut next) = (0, buffer.len(), Next::Read);
    while at < len && next == Next::Read {
        let Some(heard) = decoder.decode(buffer, &mut at).map_err(Ended::Violation)? else { break };
        next = hear(heard, at < len);
    }
    decoder.forget_given();
    Ok((at, next))
}
