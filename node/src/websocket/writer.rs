//! What goes out to one client: straight to the system where that takes it, and else into a bounded queue.
//!
//! Never waits. Nothing is held while nothing waits.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use rustls::ServerConnection;
use tokio::net::tcp::OwnedWriteHalf;

use super::codec::{FrameHead, Opcode};
use crate::limits::memory_budget::{FREE_DIRECTION, MemoryBudget, Reservation, WriteTurn};

/// The most pieces of one text: those of a forwarded message, and the frame's header.
const MAX_PIECES: usize = 8;
/// A frame of at most so many bytes is handed to the system in one piece: a ping, a word that something was delivered.
const SHORT: usize = 128;

/// What a client has to take within `times.write` of what waits, unless it takes all: whoever takes a byte now and then
/// would have it wait for ever.
const ENOUGH: usize = 8 * 1024;
/// What is handed to the system in one turn. A write takes as long as the kernel needs to send it on, 8 to 25 ms for a full queue of
/// 256 KiB to a client that begins to read, and everybody else waits meanwhile.
const WRITE_TURN: usize = 32 * 1024;
/// Bytes that a client may send behind its handshake without having said a word by them: the longest record of TLS, and what is
/// read at once. TLS itself would join the parts of a message of 64 KiB.
const MAX_UNSAID: usize = 22 * 1024;

/// Why something was not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// Too much waits already.
    #[error("the client doesn't take its messages")]
    Full,
    /// There is no room for the rest of a frame of which the system has the beginning: the connection has to end.
    #[error("there is no room for the rest of a frame")]
    BudgetExceeded,
    /// The connection is over.
    #[error("the connection is over")]
    Closed,
}

/// Where what was said is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// With the system.
    Written,
    /// In the queue, which somebody is going to flush.
    Queued,
    /// In the queue, which the caller has to flush.
    Held,
    /// In the queue: the system takes no more for now, which the session's task has to learn.
    Blocked,
}

/// What waits for a client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    /// Bytes.
    pub(crate) bytes: usize,
    /// Since when the system has taken less than [`ENOUGH`] of them.
    pub(crate) since: Option<Instant>,
}

/// Since when the system has taken less than [`ENOUGH`], what it took since then, and whose turn it is to write on.
struct Blocked {
    since: Instant,
    taken: usize,
    turn: Turn,
}

/// A turn at writing on what waits.
enum Turn {
    None,
    Awaited(Pin<Box<dyn Future<Output = WriteTurn> + Send>>),
    /// It is over when whoever else was ready has run.
    Had(#[expect(dead_code, reason = "kept until it is dropped")] WriteTurn),
}

impl Default for Blocked {
    fn default() -> Self {
        Self { since: Instant::now(), taken: 0, turn: Turn::None }
    }
}

impl Blocked {
    fn poll_turn(&mut self, held: &Reservation<FREE_DIRECTION>, cx: &mut Context<'_>) -> Poll<WriteTurn> {
        if !matches!(self.turn, Turn::Awaited(_)) {
            self.turn = Turn::Awaited(Box::pin(held.write_turn()));
        }
        let Turn::Awaited(awaited) = &mut self.turn else { return Poll::Pending };
        let turn = ready!(awaited.as_mut().poll(cx));
        self.turn = Turn::None;
        Poll::Ready(turn)
    }
}

/// The way out.
pub(crate) struct Writer {
    writer: OwnedWriteHalf,
    tls: Option<Box<ServerConnection>>,
    /// Bytes as they go over the wire.
    queue: BytesMut,
    /// What of the queue the system did not take.
    held: Reservation<FREE_DIRECTION>,
    /// Bytes that have gone from the queue's front, whose memory it keeps.
    gone: usize,
    max_queued: usize,
    /// The system took no more, or a turn was over. In a box: sessions are idle for hours.
    blocked: Option<Box<Blocked>>,
    /// Bytes of records since the last word of the client.
    unsaid: usize,
}

impl Writer {
    /// Over a connection; at most `max_queued` bytes wait, and no more than all clients may have `held`.
    pub(crate) fn new(
        writer: OwnedWriteHalf,
        tls: Option<Box<ServerConnection>>,
        max_queued: usize,
        held: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            writer,
            tls,
            queue: BytesMut::new(),
            held: Reservation::new(held),
            gone: 0,
            max_queued,
            blocked: None,
            unsaid: 0,
        }
    }

    /// Says one frame. `hold`: the caller has more to say soon, and flushes then.
    pub(crate) fn write(&mut self, opcode: Opcode, pieces: &[&[u8]], hold: bool) -> Result<WriteOutcome, WriteError> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let head = FrameHead::new(opcode, len);
        let len = head.as_bytes().len() + len;
        while !self.queue.is_empty() && !self.may_wait(len) {
            // What is merely held back, or left for another turn, may go first.
            let before = self.queue.len();
            self.flush()?;
            if self.queue.len() == before {
                return Err(WriteError::Full);
            }
        }
        self.put(&head, pieces, hold && self.may_wait(len))
    }

    /// Whether `len` bytes more may wait.
    fn may_wait(&self, len: usize) -> bool {
        let all = self.queue.len() + len;
        all <= self.max_queued && self.held.has_room(all)
    }

    /// Says the last frame, however much waits.
    pub(crate) fn write_last(&mut self, opcode: Opcode, pieces: &[&[u8]]) -> Result<WriteOutcome, WriteError> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let said = self.put(&FrameHead::new(opcode, len), pieces, false)?;
        let Some(tls) = &mut self.tls else { return Ok(said) };
        tls.send_close_notify();
        drain(tls, &mut self.queue)?;
        self.flush()
    }

    /// Puts bytes before the first frame: the answer to the upgrade. They go with it.
    pub(crate) fn put_before(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        match &mut self.tls {
            Some(tls) => encrypt(tls, &[IoSlice::new(bytes)], &mut self.queue)?,
            None => self.queue.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn put(&mut self, head: &FrameHead, pieces: &[&[u8]], hold: bool) -> Result<WriteOutcome, WriteError> {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let all = std::iter::once(head.as_bytes()).chain(pieces.iter().copied());
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        debug_assert_eq!(count, pieces.len() + 1, "more pieces than there is room for");
        let slices = &slices[..count];
        let was_empty = self.queue.is_empty();
        if let Some(tls) = &mut self.tls {
            encrypt(tls, slices, &mut self.queue)?;
        } else {
            let mut gone = 0;
            if was_empty && !hold {
                let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
                gone = taken(if len <= SHORT {
                    let mut short = [0; SHORT];
                    let mut rest = &mut short[..];
                    for slice in slices {
                        rest.put_slice(slice);
                    }
                    self.writer.try_write(&short[..len])
                } else {
                    self.writer.try_write_vectored(slices)
                })?;
                if gone == len {
                    return Ok(WriteOutcome::Written);
                }
                if gone == 0 && !self.held.has_room(len) {
                    return Err(WriteError::Full);
                }
            }
            for slice in slices {
                self.queue.extend_from_slice(&slice[gone.min(slice.len())..]);
                gone = gone.saturating_sub(slice.len());
            }
        }
        if !was_empty && (hold || self.blocked.is_some()) {
            if self.blocked.is_some() {
                self.held.resize(self.queue.len()).map_err(|_| WriteError::BudgetExceeded)?;
            }
            return Ok(WriteOutcome::Queued);
        }
        if hold {
            return Ok(WriteOutcome::Held);
        }
        self.flush()
    }

    /// Hands to the system what it takes, up to [`WRITE_TURN`]. The rest waits for the session's next turn, as what the system did
    /// not take.
    pub(crate) fn flush(&mut self) -> Result<WriteOutcome, WriteError> {
        let mut turn = WRITE_TURN;
        while !self.queue.is_empty() {
            if turn == 0 && self.held.resize(self.queue.len()).is_err() {
                // A client that takes everything isn't closed for want of room.
                turn = WRITE_TURN;
            }
            let piece = self.queue.len().min(turn);
            let gone = if piece == 0 { 0 } else { taken(self.writer.try_write(&self.queue[..piece]))? };
            if gone == 0 {
                self.blocked.get_or_insert_with(Box::default);
                // Who reads a little at a time keeps little more than it is owed.
                if self.gone > self.queue.len() {
                    (self.queue, self.gone) = (BytesMut::from(&self.queue[..]), 0);
                }
                self.held.resize(self.queue.len()).map_err(|_| WriteError::BudgetExceeded)?;
                return Ok(WriteOutcome::Blocked);
            }
            turn -= gone;
            self.queue.advance(gone);
            self.gone += gone;
            if let Some(blocked) = &mut self.blocked {
                blocked.taken += gone;
                if blocked.taken >= ENOUGH {
                    (blocked.since, blocked.taken) = (Instant::now(), 0);
                }
            }
        }
        (self.queue, self.gone) = (BytesMut::new(), 0);
        self.blocked = None;
        // Nothing is more than nothing was.
        let _ = self.held.resize(0);
        Ok(WriteOutcome::Written)
    }

    /// Goes on where the system took no more, for one turn. Ready once nothing waits that it did not take.
    ///
    /// A turn is kept until this is polled again: whoever else was ready has run by then, before the next client has its turn.
    /// So what thousands of clients begin to take at once delays nobody by more than a write or two.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while let Some(blocked) = &mut self.blocked {
            let ready = self.writer.as_ref().poll_write_ready(cx);
            if matches!(blocked.turn, Turn::Had(_)) || ready.is_pending() {
                // Nobody waits for a client that takes nothing.
                blocked.turn = Turn::None;
            }
            if ready!(ready).is_err() {
                return Poll::Ready(Err(WriteError::Closed));
            }
            let turn = ready!(blocked.poll_turn(&self.held, cx));
            let before = self.queue.len();
            self.flush()?;
            if let Some(blocked) = &mut self.blocked
                && before - self.queue.len() >= WRITE_TURN
            {
                blocked.turn = Turn::Had(turn);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What waits for the system to take it. What is merely held is not among it: whoever holds it is about to flush it.
    pub(crate) fn waiting(&self) -> Backlog {
        let since = self.blocked.as_ref().map(|blocked| blocked.since);
        Backlog { bytes: if since.is_some() { self.queue.len() } else { 0 }, since }
    }

    /// Takes TLS records in, and appends what they hold to `plain`. `false`: the client has ended its side.
    pub(crate) fn decrypt(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> Result<bool, WriteError> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(records);
            return Ok(true);
        };
        let mut open = true;
        while !records.is_empty() && open {
            let read = tls.read_tls(&mut records).map_err(|_| WriteError::Closed)?;
            let state = tls.process_new_packets().map_err(|_| WriteError::Closed)?;
            self.unsaid = if state.plaintext_bytes_to_read() > 0 { 0 } else { self.unsaid + read };
            if self.unsaid > MAX_UNSAID {
                return Err(WriteError::BudgetExceeded);
            }
            io::Read::read_to_end(&mut io::Read::take(tls.reader(), state.plaintext_bytes_to_read() as u64), plain)
                .map_err(|_| WriteError::Closed)?;
            open = !state.peer_has_closed();
        }
        if tls.wants_write() {
            drain(tls, &mut self.queue)?;
            self.flush()?;
        }
        Ok(open)
    }
}

/// How much the system took; none where it would have had to wait.
fn taken(written: io::Result<usize>) -> Result<usize, WriteError> {
    match written {
        Ok(0) => Err(WriteError::Closed),
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(_) => Err(WriteError::Closed),
    }
}

fn encrypt(tls: &mut ServerConnection, pieces: &[IoSlice<'_>], queue: &mut BytesMut) -> Result<(), WriteError> {
    let written = tls.writer().write_vectored(pieces).map_err(|_| WriteError::Closed)?;
    debug_assert_eq!(written, pieces.iter().map(|piece| piece.len()).sum::<usize>(), "the buffer has no limit");
    drain(tls, queue)
}

fn drain(tls: &mut ServerConnection, queue: &mut BytesMut) -> Result<(), WriteError> {
    while tls.wants_write() {
        tls.write_tls(&mut queue.writer()).map_err(|_| WriteError::Closed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_client_that_begins_to_read_is_written_a_turn_at_a_time_and_gets_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let addr = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (mut client, (server, _)) = (client.expect("a connection"), server.expect("a connection"));
        let (_reader, writer) = server.into_split();
        let mut out = Writer::new(writer, None, 8 * WRITE_TURN, MemoryBudget::new(usize::MAX));
        let message = vec![b'x'; 16 * 1024];
        let mut said = 0;
        // Until the system takes no more, and then as much as may wait.
        while out.write(Opcode::Text, &[&message], false).is_ok() {
            said += 1;
        }
        assert!(out.waiting().bytes > 7 * WRITE_TURN);

        let mut turns = 0;
        let mut read = 0;
        let mut buffer = vec![0; 1024 * 1024];
        while out.waiting().bytes > 0 {
            // Nothing may be there: the writer learns that it may go on only while something is waited for.
            if let Ok(more) = tokio::time::timeout(Duration::from_millis(10), client.read(&mut buffer)).await {
                read += more.expect("an open connection");
            }
            let before = out.waiting().bytes;
            let polled = out.poll_flush(&mut Context::from_waker(Waker::noop()));
            assert!(before - out.waiting().bytes <= WRITE_TURN, "more than a turn at once");
            assert!(!matches!(polled, Poll::Ready(Err(_))));
            turns += 1;
        }
        assert!(turns >= 7, "{turns}");
        drop((out, _reader));
        read += client.read_to_end(&mut Vec::new()).await.expect("the rest");
        assert_eq!(read, said * (message.len() + 4), "nothing is lost or said twice");
    }
}
