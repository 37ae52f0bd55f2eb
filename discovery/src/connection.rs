//! A WebSocket connection to a node that has proved its key. It owns the frames; the client interprets the texts.

use std::{net::IpAddr, time::Duration};

use chappe_common::keys::NodeId;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, Utf8Bytes, protocol::frame::coding::CloseCode},
};

/// How long a node may take to accept one message. A node that reads nothing for that long is considered gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the closing handshake may take. After that the socket is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection has ended. It cannot be used any more: connect again, to this node or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The node closed it, with this WebSocket close code if any.
    #[error("the node closed the connection (code {0:?})")]
    Closed(Option<u16>),
    /// The network or the node failed without a closing handshake.
    #[error("the connection to the node broke")]
    Broken,
    /// The node violated the WebSocket protocol or its limits.
    #[error("the node violated the protocol")]
    Protocol,
    /// The node has stopped reading.
    #[error("the node has stopped reading messages")]
    Stalled,
}

/// An open connection. The node has signed a challenge of this connection.
#[derive(Debug)]
pub struct Connection {
    pub(crate) socket: Socket,
    pub(crate) node: NodeId,
    pub(crate) url: String,
    pub(crate) nonce: [u8; 32],
    pub(crate) region: Option<String>,
    pub(crate) local_ip: IpAddr,
}

impl Connection {
    /// The node's proven id.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The URL that was dialled.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The session's nonce, which a client signs to attach an inbox.
    pub const fn nonce(&self) -> &[u8; 32] {
        &self.nonce
    }

    /// The region that the node claims.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// This machine's address on the connection.
    pub const fn local_ip(&self) -> IpAddr {
        self.local_ip
    }

    /// Sends a text message. Not cancel-safe: a part of the frame may already be sent.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, text: String) -> Result<(), ConnectionError> {
        match timeout(SEND_TIMEOUT, self.socket.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(cause),
            Err(_) => Err(ConnectionError::Stalled),
        }
    }

    /// Receives the next text message and answers pings. Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&mut self) -> Result<Utf8Bytes, ConnectionError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                // tungstenite answers a ping on the next read.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    return Err(ConnectionError::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(Message::Binary(_) | Message::Frame(_))) => return Err(ConnectionError::Protocol),
                Some(Err(error)) => return Err(cause(error)),
                None => return Err(ConnectionError::Closed(None)),
            }
        }
    }

    /// Closes the connection, so that the node does not have to wait for a timeout.
    pub async fn close(mut self) {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        };
        // The socket is dropped even if the handshake fails.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(Some(frame))).await;
    }
}

fn cause(error: Error) -> ConnectionError {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => ConnectionError::Closed(None),
        Error::Io(_)
        | Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            ConnectionError::Broken
        }
        _ => ConnectionError::Protocol,
    }
}
