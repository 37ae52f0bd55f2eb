//! The clients: the other ends of the 5-tuples.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

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

/// The network that a client comes from: an IPv4 address or an IPv6 /64, the range of one household or server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source([u8; 8]);

impl Source {
    /// The source of an address.
    pub fn of(ip: IpAddr) -> Self {
        let mut source = [0; 8];
        match ip.to_canonical() {
            // No client address is in ::/64, so the two families cannot collide.
            IpAddr::V4(ip) => source[4..].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => source.copy_from_slice(&ip.octets()[..8]),
        }
        Self(source)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source([redacted])")
    }
}
