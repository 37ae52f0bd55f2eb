//! The clients: the other ends of the 5-tuples.

use std::{fmt, net::SocketAddr};

/// One end of a 5-tuple. Its other end is the server's socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// A source of UDP packets. Its address may be forged.
    Udp {
        /// The index of the server's socket that received the packet.
        socket: u8,
        /// The source address.
        addr: SocketAddr,
    },
    /// A TCP or TLS connection.
    Stream {
        /// The driver's id of the connection. A new connection must not get the id of an open one.
        id: u32,
        /// The address of the other end.
        addr: SocketAddr,
    },
}

impl Client {
    /// The client's address.
    pub const fn addr(&self) -> SocketAddr {
        match self {
            Self::Udp { addr, .. } | Self::Stream { addr, .. } => *addr,
        }
    }

    /// Whether the client is a TCP or TLS connection, where packets are padded to four bytes.
    pub const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_stream() { "Stream([redacted])" } else { "Udp([redacted])" })
    }
}
