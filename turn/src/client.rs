//! The identity of a client: its 5-tuple.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

/// A client's end of a 5-tuple. The other end is a socket of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// Each packet looks up its client. Hashing a few integers takes a third of the time of the derived hash. A stream is
/// identified by its id alone, so equal clients have equal hashes.
impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Udp { socket, addr } => {
                let rest = u64::from(addr.port()) << 8 | u64::from(socket);
                match addr.ip() {
                    IpAddr::V4(ip) => state.write_u64(u64::from(u32::from(ip)) << 32 | rest),
                    IpAddr::V6(ip) => {
                        state.write_u128(ip.into());
                        state.write_u64(rest);
                    }
                }
            }
            Self::Stream { id, .. } => state.write_u32(id),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_stream() { "Stream([redacted])" } else { "Udp([redacted])" })
    }
}
