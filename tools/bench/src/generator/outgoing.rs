//! The way out of one client: what the system doesn't take waits, and nobody waits for it.

use std::{
    io::{self, Read as _, Write as _},
    task::{Context, Waker},
};

use rustls::ClientConnection;
use tokio::net::tcp::OwnedWriteHalf;

/// The way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    writer: OwnedWriteHalf,
    tls: Option<Box<ClientConnection>>,
    waiting: Vec<u8>,
    waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn new(writer: OwnedWriteHalf, mut tls: Option<Box<ClientConnection>>) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        Self { writer, tls, waiting: Vec::new(), waker: None }
    }

    /// Says these bytes. `hold`: there is more to come, and a flush after it.
    pub(super) fn say(&mut self, bytes: &[u8], hold: bool) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            self.drain()?;
        } else if self.waiting.is_empty() && !hold {
            let gone = taken(self.writer.try_write(bytes))?;
            self.waiting.extend_from_slice(&bytes[gone..]);
            if gone == bytes.len() {
                return Ok(());
            }
        } else {
            self.waiting.extend_from_slice(bytes);
        }
        if hold { Ok(()) } else { self.flush() }
    }

    /// Hands to the system what it takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let gone = taken(self.writer.try_write(&self.waiting))?;
        self.waiting.drain(..gone);
        if !self.waiting.is_empty()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// Goes on as soon as the system takes more; to be called by whoever hears the same client.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        while !self.waiting.is_empty() && self.writer.as_ref().poll_write_ready(cx)?.is_ready() {
            let gone = taken(self.writer.try_write(&self.waiting))?;
            self.waiting.drain(..gone);
        }
        Ok(())
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Says what TLS has to say by itself.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.drain()?;
        self.flush()
    }

    /// Appends to `plain` what these bytes from the server mean.
    pub(super) fn decrypt(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(records);
            return Ok(());
        };
        while !records.is_empty() {
            tls.read_tls(&mut records)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            tls.reader().take(state.plaintext_bytes_to_read() as u64).read_to_end(plain)?;
        }
        self.advance()
    }

    fn drain(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(&mut self.waiting)?;
        }
        Ok(())
    }
}

/// How much the system took; none where it would have had to wait.
fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
