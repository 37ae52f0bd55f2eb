//! A WebSocket to a node that has proved its key. Owns the frames; what the texts say is the client's business.

use std::{net::IpAddr, time::Duration};

use chappe_common::keys::NodeId;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, Utf8Bytes, protocol::frame::coding::CloseCode},
};

/// How long a node may take to accept one message into the socket. A node that reads nothing for that long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a close may take; the connection is dropped in any case.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection has ended. It is of no more use; find another node, or this one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The node closed it, with this WebSocket close code if it said one.
    #[error("the node closed the connection (code {0:?})")]
    Closed(Option<u16>),
    /// The network or the node went away without a word.
    #[error("the connection to the node broke")]
    Broken,
    /// The node breaks the WebSocket protocol or its limits.
    #[error("the node does not keep to the protocol")]
    Protocol,
    /// The node takes no messages any more.
    #[error("the node takes no more messages")]
    Stalled,
}

/// An open connection. The node at the other end has signed a challenge of this very connection.
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
    /// The node, as it has proved.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The URL at which it is connected.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The nonce that the node gave this session; attaching an inbox signs it.
    pub const fn nonce(&self) -> &[u8; 32] {
        &self.nonce
    }

    /// Where the node says that it stands.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// This machine's address on the connection.
    pub const fn local_ip(&self) -> IpAddr {
        self.local_ip
    }

    /// Sends one text message. Not to be cancelled in the middle: half a frame may be out.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, text: String) -> Result<(), ConnectionError> {
        match timeout(SEND_TIMEOUT, self.socket.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(cause),
            Err(_) => Err(ConnectionError::Stalled),
        }
    }

    /// The next text message. Pings are answered on the way. Can be cancelled and called again.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&mut self) -> Result<Utf8Bytes, ConnectionError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                // tungstenite answers a ping by itself on the next read.
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

    /// Says goodbye, so that the node need not wait for a timeout to know.
    pub async fn close(mut self) {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        };
        // Whether the node hears it or not, the socket is dropped.
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
