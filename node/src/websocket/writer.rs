//! The output to one client. It is written directly to the socket, and the rest goes into a bounded queue.
//!
//! Never waits. An empty queue uses no memory.

use std::{
    io::{self, IoSlice, Write as _},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use rustls::ServerConnection;
use tokio::{net::tcp::OwnedWriteHalf, task::yield_now};

use super::codec::{FrameHead, Opcode};
use crate::limits::memory_budget::{FREE_DIRECTION, MemoryBudget, Reservation, WriteTurn};

/// The maximum number of pieces of one frame: those of a forwarded message, and the frame's header.
const MAX_PIECES: usize = 8;
/// A frame of at most this length is copied and written in one piece, such as a ping or a `delivered` reply.
const MAX_COPIED: usize = 128;

/// The number of bytes that a client has to read within `times.write` while output is queued. Otherwise a client that
/// reads single bytes could keep its queue full forever.
const MIN_PROGRESS: usize = 8 * 1024;
/// The maximum number of bytes written in one turn. A write blocks other sessions while the kernel sends. For a
/// full queue of 256 KiB, to a client that begins to read, that takes 8 to 25 ms.
const WRITE_TURN: usize = 32 * 1024;
/// The maximum number of TLS bytes without application data after the handshake: the longest record, and one read. By
/// itself, rustls would buffer handshake messages of up to 64 KiB.
const MAX_TLS_OVERHEAD: usize = 22 * 1024;

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// The queue is full, and the frame was dropped.
    #[error("the client doesn't read its messages")]
    Full,
    /// The memory budget has no room for the rest of a partly written frame. The connection has to end.
    #[error("no memory for the rest of a frame")]
    BudgetExceeded,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
}

/// The state of a frame after a successful write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// The socket has accepted it.
    Written,
    /// It is in the queue, which another caller or the session's task will flush.
    Queued,
    /// It is in the queue, which the caller has to flush.
    Buffered,
    /// It is in the queue, and the socket accepts no more. The caller has to wake the session's task.
    Blocked,
}

/// The output that the socket has not accepted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) bytes: usize,
    /// When the current period of less than [`MIN_PROGRESS`] began.
    pub(crate) since: Option<Instant>,
}

/// The state of a queue that the socket does not accept.
struct Blocked {
    /// When the current period of less than [`MIN_PROGRESS`] began.
    since: Instant,
    /// The number of bytes written in this period.
    written: usize,
    turn: Turn,
}

/// A turn at writing queued output. All clients share the turns.
enum Turn {
    None,
    Awaited(Pin<Box<dyn Future<Output = WriteTurn> + Send>>),
    /// The turn was used. It ends after all other ready tasks have run, and new input was looked for.
    Used(#[expect(dead_code, reason = "kept until it is dropped")] WriteTurn),
}

impl Default for Blocked {
    fn default() -> Self {
        Self { since: Instant::now(), written: 0, turn: Turn::None }
    }
}

impl Blocked {
    fn poll_turn(&mut self, reservation: &Reservation<FREE_DIRECTION>, cx: &mut Context<'_>) -> Poll<WriteTurn> {
        if !matches!(self.turn, Turn::Awaited(_)) {
            self.turn = Turn::Awaited(Box::pin(reservation.write_turn()));
        }
        let Turn::Awaited(awaited) = &mut self.turn else { return Poll::Pending };
        let turn = ready!(awaited.as_mut().poll(cx));
        self.turn = Turn::None;
        Poll::Ready(turn)
    }
}

/// Writes frames to a client.
pub(crate) struct Writer {
    writer: OwnedWriteHalf,
    tls: Option<Box<ServerConnection>>,
    /// Encoded and, with TLS, encrypted bytes.
    queue: BytesMut,
    /// Accounts for the part of the queue that the socket did not accept.
    reservation: Reservation<FREE_DIRECTION>,
    /// The number of bytes that were written from the front of the queue, but still use its memory.
    written: usize,
    max_queued: usize,
    /// Set if the socket accepts no more, or a turn is over. Boxed, since most sessions are idle.
    blocked: Option<Box<Blocked>>,
    /// The number of TLS bytes received since the client's last application data.
    tls_overhead: usize,
}

impl Writer {
    /// Creates a writer. At most `max_queued` bytes are queued, and memory for them is reserved in `budget`.
    pub(crate) fn new(
        writer: OwnedWriteHalf,
        tls: Option<Box<ServerConnection>>,
        max_queued: usize,
        budget: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            writer,
            tls,
            queue: BytesMut::new(),
            reservation: Reservation::new(budget),
            written: 0,
            max_queued,
            blocked: None,
            tls_overhead: 0,
        }
    }

    /// Writes one frame. With `buffer`, the frame may stay in the queue, and the caller flushes soon.
    pub(crate) fn write(&mut self, opcode: Opcode, pieces: &[&[u8]], buffer: bool) -> Result<WriteOutcome, WriteError> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let head = FrameHead::new(opcode, len);
        let len = head.as_bytes().len() + len;
        while !self.queue.is_empty() && !self.has_room(len) {
            // The queue may only be buffered, or wait for another turn. Then a flush makes room.
            let before = self.queue.len();
            self.flush()?;
            if self.queue.len() == before {
                return Err(WriteError::Full);
            }
        }
        self.write_frame(&head, pieces, buffer && self.has_room(len))
    }

    /// Returns whether the queue has room for `len` more bytes.
    fn has_room(&self, len: usize) -> bool {
        let all = self.queue.len() + len;
        all <= self.max_queued && self.reservation.has_room(all)
    }

    /// Writes the last frame, even if the queue is full.
    pub(crate) fn write_last(&mut self, opcode: Opcode, pieces: &[&[u8]]) -> Result<WriteOutcome, WriteError> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let outcome = self.write_frame(&FrameHead::new(opcode, len), pieces, false)?;
        let Some(tls) = &mut self.tls else { return Ok(outcome) };
        tls.send_close_notify();
        drain_tls(tls, &mut self.queue)?;
        self.flush()
    }

    /// Queues the response to the upgrade, which is written with the first frame.
    pub(crate) fn queue_response(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        match &mut self.tls {
            Some(tls) => encrypt(tls, &[IoSlice::new(bytes)], &mut self.queue)?,
            None => self.queue.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn write_frame(&mut self, head: &FrameHead, pieces: &[&[u8]], buffer: bool) -> Result<WriteOutcome, WriteError> {
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
            let mut written = 0;
            if was_empty && !buffer {
                let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
                written = written_len(if len <= MAX_COPIED {
                    let mut short = [0; MAX_COPIED];
                    let mut rest = &mut short[..];
                    for slice in slices {
                        rest.put_slice(slice);
                    }
                    self.writer.try_write(&short[..len])
                } else {
                    self.writer.try_write_vectored(slices)
                })?;
                if written == len {
                    return Ok(WriteOutcome::Written);
                }
                if written == 0 && !self.reservation.has_room(len) {
                    return Err(WriteError::Full);
                }
            }
            for slice in slices {
                self.queue.extend_from_slice(&slice[written.min(slice.len())..]);
                written = written.saturating_sub(slice.len());
            }
        }
        if !was_empty && (buffer || self.blocked.is_some()) {
            if self.blocked.is_some() {
                self.reservation.resize(self.queue.len()).map_err(|_| WriteError::BudgetExceeded)?;
            }
            return Ok(WriteOutcome::Queued);
        }
        if buffer {
            return Ok(WriteOutcome::Buffered);
        }
        self.flush()
    }

    /// Writes up to [`WRITE_TURN`] bytes of the queue. The rest waits for the session's next turn, as if the socket had
    /// not accepted it.
    pub(crate) fn flush(&mut self) -> Result<WriteOutcome, WriteError> {
        let mut turn = WRITE_TURN;
        while !self.queue.is_empty() {
            if turn == 0 && self.reservation.resize(self.queue.len()).is_err() {
                // No memory for the rest: go on writing, so that a client that reads everything is not closed.
                turn = WRITE_TURN;
            }
            let piece = self.queue.len().min(turn);
            let written = if piece == 0 { 0 } else { written_len(self.writer.try_write(&self.queue[..piece]))? };
            if written == 0 {
                self.blocked.get_or_insert_with(Box::default);
                // A client that reads slowly must not keep the memory of written bytes.
                if self.written > self.queue.len() {
                    (self.queue, self.written) = (BytesMut::from(&self.queue[..]), 0);
                }
                self.reservation.resize(self.queue.len()).map_err(|_| WriteError::BudgetExceeded)?;
                return Ok(WriteOutcome::Blocked);
            }
            turn -= written;
            self.queue.advance(written);
            self.written += written;
            if let Some(blocked) = &mut self.blocked {
                blocked.written += written;
                if blocked.written >= MIN_PROGRESS {
                    (blocked.since, blocked.written) = (Instant::now(), 0);
                }
            }
        }
        (self.queue, self.written) = (BytesMut::new(), 0);
        self.blocked = None;
        // Releasing a reservation cannot fail.
        let _ = self.reservation.resize(0);
        Ok(WriteOutcome::Written)
    }

    /// Writes queued output for one turn when the socket is ready again. Ready after all of it is written.
    ///
    /// A used turn is kept until the next poll. Before that, and before the next client's turn, all other ready tasks run,
    /// and so do those whose clients have just sent something. So thousands of clients that begin to read together delay
    /// others by only one or two writes.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while let Some(blocked) = &mut self.blocked {
            let ready = self.writer.as_ref().poll_write_ready(cx);
            if matches!(blocked.turn, Turn::Used(_)) || ready.is_pending() {
                // End the turn, so that other clients don't wait for one that reads nothing.
                blocked.turn = Turn::None;
            }
            if ready!(ready).is_err() {
                return Poll::Ready(Err(WriteError::Closed));
            }
            let turn = ready!(blocked.poll_turn(&self.reservation, cx));
            let before = self.queue.len();
            self.flush()?;
            if let Some(blocked) = &mut self.blocked
                && before - self.queue.len() >= WRITE_TURN
            {
                blocked.turn = Turn::Used(turn);
                // The runtime looks for new input of other clients first. After a plain wake-up it would do so only once
                // in dozens of turns.
                ready!(pin!(yield_now()).poll(cx));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the output that the socket has not accepted. Buffered output doesn't count, since a caller is about to
    /// flush it.
    pub(crate) fn backlog(&self) -> Backlog {
        let since = self.blocked.as_ref().map(|blocked| blocked.since);
        Backlog { bytes: if since.is_some() { self.queue.len() } else { 0 }, since }
    }

    /// Decrypts TLS records, and appends their content to `plain`. Returns `false` after the client has ended its side.
    pub(crate) fn decrypt(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> Result<bool, WriteError> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(records);
            return Ok(true);
        };
        let mut open = true;
        while !records.is_empty() && open {
            let read = tls.read_tls(&mut records).map_err(|_| WriteError::Closed)?;
            let state = tls.process_new_packets().map_err(|_| WriteError::Closed)?;
            self.tls_overhead = if state.plaintext_bytes_to_read() > 0 { 0 } else { self.tls_overhead + read };
            if self.tls_overhead > MAX_TLS_OVERHEAD {
                return Err(WriteError::BudgetExceeded);
            }
            io::Read::read_to_end(&mut io::Read::take(tls.reader(), state.plaintext_bytes_to_read() as u64), plain)
                .map_err(|_| WriteError::Closed)?;
            open = !state.peer_has_closed();
        }
        if tls.wants_write() {
            drain_tls(tls, &mut self.queue)?;
            self.flush()?;
        }
        Ok(open)
    }
}

/// Returns how many bytes the socket accepted: 0 if the write would block.
fn written_len(written: io::Result<usize>) -> Result<usize, WriteError> {
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
    drain_tls(tls, queue)
}

fn drain_tls(tls: &mut ServerConnection, queue: &mut BytesMut) -> Result<(), WriteError> {
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
        let mut message_count = 0;
        // Fill the socket, and then the queue.
        while out.write(Opcode::Text, &[&message], false).is_ok() {
            message_count += 1;
        }
        assert!(out.backlog().bytes > 7 * WRITE_TURN);

        let mut turns = 0;
        let mut read = 0;
        let mut buffer = vec![0; 1024 * 1024];
        while out.backlog().bytes > 0 {
            // There may be no data. The writer's readiness is only updated while the runtime waits for something.
            if let Ok(more) = tokio::time::timeout(Duration::from_millis(10), client.read(&mut buffer)).await {
                read += more.expect("an open connection");
            }
            let before = out.backlog().bytes;
            let polled = out.poll_flush(&mut Context::from_waker(Waker::noop()));
            assert!(before - out.backlog().bytes <= WRITE_TURN, "more than one turn");
            assert!(!matches!(polled, Poll::Ready(Err(_))));
            turns += 1;
        }
        assert!(turns >= 7, "{turns}");
        drop((out, _reader));
        read += client.read_to_end(&mut Vec::new()).await.expect("the rest");
        assert_eq!(read, message_count * (message.len() + 4), "nothing is lost or sent twice");
    }
}
