//! A client's connection: WebSocket frames on a socket to which several tasks write.
//!
//! Owns the conversion between bytes and frames. The session interprets the messages.

#[cfg(test)]
mod autobahn;
pub(crate) mod codec;
pub(crate) mod reader;
pub(crate) mod rewound;
pub(crate) mod tls;
pub(crate) mod upgrade;
pub(crate) mod validity;
pub(crate) mod writer;

use std::{io, sync::Arc};

use rustls::ServerConnection;
use tokio::net::TcpStream;

use self::{
    reader::Reader,
    writer::{WriteError, Writer},
};
use crate::{config::LimitsSection, limits::memory_budget::MemoryBudget};

/// An established WebSocket connection.
pub(crate) struct Connection {
    pub(crate) incoming: Reader,
    pub(crate) out: Writer,
    /// Whether the input has to be decrypted.
    pub(crate) is_tls: bool,
}

impl Connection {
    /// Creates the WebSocket over a connection, after its TLS handshake.
    ///
    /// `answer` is the response to the upgrade, which is sent before the first frame. `rest` is the input that was read
    /// after the request.
    pub(crate) fn new(
        stream: TcpStream,
        mut tls: Option<Box<ServerConnection>>,
        answer: &str,
        mut rest: Vec<u8>,
        limits: &LimitsSection,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self, WriteError> {
        let (reader, writer) = stream.into_split();
        let is_tls = tls.is_some();
        if let Some(tls) = &mut tls {
            // The write queue bounds the output.
            tls.set_buffer_limit(None);
            // Read the plaintext that arrived with the request. `WouldBlock` means that there is no more.
            match io::Read::read_to_end(&mut tls.reader(), &mut rest) {
                Ok(_) => return Err(WriteError::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(WriteError::Closed),
            }
        }
        let mut out = Writer::new(writer, tls, limits.max_queued, budget.clone());
        out.queue_response(answer.as_bytes())?;
        Ok(Self { incoming: Reader::new(reader, rest, limits.max_message, budget.clone()), out, is_tls })
    }
}
