//! A WebSocket client without checks: it connects from a chosen address, sends any frames, and reads answers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// The upgrade request, as browsers send it.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: relay.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// How long a node may take to accept and to upgrade.
const WAIT: Duration = Duration::from_secs(10);

/// How much the system's buffers take while nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// The system's default: a few MiB over loopback.
    All,
    /// Some tens of KiB: the rest stays queued in the node.
    Little,
}

/// Opens a TCP connection from `source`.
///
/// # Errors
/// The node or the system refuses it.
pub async fn dial(source: IpAddr, node: SocketAddr, takes: Takes) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if takes == Takes::Little {
        socket.set_recv_buffer_size(2048)?;
        // The receive buffer holds a few of the largest segments, which have 64 KiB over loopback.
        SockRef::from(&socket).set_tcp_mss(536)?;
    }
    socket.bind(SocketAddr::new(source, 0))?;
    timeout(WAIT, socket.connect(node)).await?
}

/// Why a WebSocket wasn't opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There was no connection: the node never saw or never accepted it.
    #[error("not connected")]
    NotConnected(#[source] io::Error),
    /// The node dropped the connection, or didn't answer in time.
    #[error("not served")]
    NotServed(#[source] io::Error),
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes read and not yet parsed.
    read: Vec<u8>,
}

/// A message of the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A text.
    Text(String),
    /// A close frame's code.
    Close(u16),
    /// The answer to a ping.
    Pong,
    /// Any other frame.
    Other,
    /// The connection is closed.
    End,
}

impl Wire {
    /// Opens a WebSocket, and returns it with the text of `server_info`.
    ///
    /// # Errors
    /// The node doesn't accept it.
    pub async fn open(source: IpAddr, node: SocketAddr, takes: Takes) -> Result<(Self, String), OpenError> {
        let stream = dial(source, node, takes).await.map_err(OpenError::NotConnected)?;
        let mut wire = Self { stream, read: Vec::new() };
        match timeout(WAIT, wire.upgrade()).await.map_err(io::Error::from).flatten() {
            Ok(Said::Text(text)) => Ok((wire, text)),
            Ok(_) => Err(OpenError::NotServed(io::ErrorKind::ConnectionReset.into())),
            Err(error) => Err(OpenError::NotServed(error)),
        }
    }

    /// Enlarges the receive buffer, to read as fast as possible from now on.
    pub fn take_all(&self) {
        // If the system doesn't allow that, reading is only slower.
        let _ = SockRef::from(&self.stream).set_recv_buffer_size(1024 * 1024);
    }

    async fn upgrade(&mut self) -> io::Result<Said> {
        self.stream.write_all(UPGRADE.as_bytes()).await?;
        loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                drop(self.read.drain(..at + 4));
                return self.next().await;
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(Said::End);
            }
        }
    }

    /// Sends a text.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(&frame(0x81, text.as_bytes())).await
    }

    /// Waits for the node's next message.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn next(&mut self) -> io::Result<Said> {
        loop {
            if let Some((said, len)) = take(&self.read) {
                drop(self.read.drain(..len));
                return Ok(said);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(Said::End);
            }
        }
    }

    /// Returns the node's next message if it has already arrived.
    ///
    /// # Errors
    /// The connection breaks.
    pub fn try_next(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some((said, len)) = take(&self.read) {
                drop(self.read.drain(..len));
                return Ok(Some(said));
            }
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => return Ok(Some(Said::End)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Encodes a client's frame. The mask is zero, as RFC 6455 allows: no proxy is on the path.
pub fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match content.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        medium @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(content);
    bytes
}

/// Parses the frame at the start of `bytes`, and returns its length, too.
fn take(bytes: &[u8]) -> Option<(Said, usize)> {
    let [first, second, ..] = *bytes else { return None };
    let (len, start) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
        len => (usize::from(len), 2),
    };
    let content = bytes.get(start..start + len)?;
    let said = match first & 0x0F {
        1 => Said::Text(String::from_utf8_lossy(content).into_owned()),
        0xA => Said::Pong,
        8 => Said::Close(content.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
        _ => Said::Other,
    };
    Some((said, start + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_node_is_read_frame_by_frame() {
        let bytes = [&[0x81, 2][..], b"hi", &[0x88, 2, 0x03, 0xF5], &[0x89, 0]].concat();
        assert_eq!(take(&bytes), Some((Said::Text("hi".to_owned()), 4)));
        assert_eq!(take(&bytes[4..]), Some((Said::Close(1013), 4)));
        assert_eq!(take(&bytes[8..]), Some((Said::Other, 2)));
        assert_eq!(take(&[0x8A, 0]), Some((Said::Pong, 2)));
        assert_eq!(take(&bytes[..3]), None);
    }
}
