//! A client's connection: WebSocket frames straight on a socket that several tasks write to.
//!
//! Owns how bytes become frames and frames bytes. What they mean is the session's business.

pub(crate) mod frame;
pub(crate) mod incoming;
pub(crate) mod out;
pub(crate) mod rewound;
pub(crate) mod upgrade;

use rustls::ServerConnection;
use tokio::net::TcpStream;

use self::{
    incoming::Incoming,
    out::{Out, SayError},
};
use crate::config::LimitsSection;

/// A connection that has become a WebSocket.
#[derive(Debug)]
pub(crate) struct Connection {
    /// From the client.
    pub(crate) incoming: Incoming,
    /// To the client.
    pub(crate) out: Out,
    /// Whether what is read has to be decrypted.
    pub(crate) is_tls: bool,
}

impl Connection {
    /// The WebSocket over a connection: `answer` is what the client is still to get before the first frame, `rest` what
    /// was read of it behind its request.
    pub(crate) fn new(
        stream: TcpStream,
        tls: Option<Box<ServerConnection>>,
        answer: &str,
        rest: Vec<u8>,
        limits: &LimitsSection,
    ) -> Result<Self, SayError> {
        let (reader, writer) = stream.into_split();
        let is_tls = tls.is_some();
        let mut out = Out::new(writer, tls, limits.max_queued);
        out.put_before(answer.as_bytes())?;
        Ok(Self { incoming: Incoming::new(reader, rest, limits.max_message), out, is_tls })
    }
}
