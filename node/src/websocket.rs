//! A client's connection: WebSocket frames straight on a socket that several tasks write to.
//!
//! Owns how bytes become frames and frames bytes. What they mean is the session's business.

#[cfg(test)]
mod autobahn;
pub(crate) mod codec;
pub(crate) mod reader;
pub(crate) mod rewound;
pub(crate) mod tls;
pub(crate) mod upgrade;
pub(crate) mod writer;

use std::{io, sync::Arc};

use rustls::ServerConnection;
use tokio::net::TcpStream;

use self::{
    reader::Reader,
    writer::{WriteError, Writer},
};
use crate::{config::LimitsSection, limits::memory_budget::MemoryBudget};

/// A connection that has become a WebSocket.
pub(crate) struct Connection {
    /// From the client.
    pub(crate) incoming: Reader,
    /// To the client.
    pub(crate) out: Writer,
    /// Whether what is read has to be decrypted.
    pub(crate) is_tls: bool,
}

impl Connection {
    /// The WebSocket over a connection: `answer` is what the client is still to get before the first frame, `rest` what
    /// was read of it behind its request. A handshake of TLS is over.
    pub(crate) fn new(
        stream: TcpStream,
        mut tls: Option<Box<ServerConnection>>,
        answer: &str,
        mut rest: Vec<u8>,
        limits: &LimitsSection,
        held: &Arc<MemoryBudget>,
    ) -> Result<Self, WriteError> {
        let (reader, writer) = stream.into_split();
        let is_tls = tls.is_some();
        if let Some(tls) = &mut tls {
            // What waits is bounded by the queue that it goes through.
            tls.set_buffer_limit(None);
            // What came with the request is there already; «would block» says that it is all.
            match io::Read::read_to_end(&mut tls.reader(), &mut rest) {
                Ok(_) => return Err(WriteError::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(WriteError::Closed),
            }
        }
        let mut out = Writer::new(writer, tls, limits.max_queued, held.clone());
        out.put_before(answer.as_bytes())?;
        Ok(Self { incoming: Reader::new(reader, rest, limits.max_message, held.clone()), out, is_tls })
    }
}
