//! The sockets of relayed addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::{listeners::bind_udp, token::Token};
use crate::{
    allocation::Family,
    server::{RelayId, RelaySockets},
    table::AllocationId,
};

/// Binds and closes sockets for the server.
pub(super) struct PeerSockets<'a> {
    pub(super) table: &'a mut PeerTable,
    pub(super) epoll: &'a Epoll,
}

/// The sockets, by the index of their allocation.
#[derive(Debug)]
pub(super) struct PeerTable {
    v4: Sockets,
    v6: Sockets,
}

#[derive(Debug)]
struct Sockets {
    bind: Option<IpAddr>,
    by_index: Vec<Option<PeerSocket>>,
}

/// The socket of a relayed address.
#[derive(Debug)]
pub(super) struct PeerSocket {
    pub(super) socket: UdpSocket,
    /// The turn of the loop in which it was last read.
    last_read: u32,
}

impl PeerSocket {
    /// Records that the socket is read in a turn. Returns whether it was also read in the previous turn: then it may have
    /// several packets.
    pub(super) const fn is_read_again(&mut self, turn: u32) -> bool {
        let is_again = self.last_read.wrapping_add(1) == turn;
        self.last_read = turn;
        is_again
    }
}

impl PeerTable {
    pub(super) fn new(bind: &[IpAddr]) -> Self {
        let sockets = |is_family: fn(&IpAddr) -> bool| Sockets {
            bind: bind.iter().copied().find(is_family),
            by_index: Vec::new(),
        };
        Self { v4: sockets(IpAddr::is_ipv4), v6: sockets(IpAddr::is_ipv6) }
    }

    pub(super) fn get(&self, relay: RelayId) -> Option<&UdpSocket> {
        let sockets = match relay.family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        sockets.by_index.get(relay.allocation.index())?.as_ref().map(|peer| &peer.socket)
    }

    pub(super) fn get_mut(&mut self, relay: RelayId) -> Option<&mut PeerSocket> {
        self.of(relay.family).by_index.get_mut(relay.allocation.index())?.as_mut()
    }

    const fn of(&mut self, family: Family) -> &mut Sockets {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl RelaySockets for PeerSockets<'_> {
    fn bind(&mut self, relay: RelayId, port: u16) -> io::Result<()> {
        let sockets = self.table.of(relay.family);
        let ip = sockets.bind.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = bind_udp(SocketAddr::new(ip, port), None)?;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Relay(relay).encode()))?;
        let index = relay.allocation.index();
        if sockets.by_index.len() <= index {
            sockets.by_index.resize_with(index + 1, || None);
        }
        sockets.by_index[index] = Some(PeerSocket { socket, last_read: 0 });
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        // Closing the socket removes it from the epoll.
        if let Some(socket) = self.table.of(relay.family).by_index.get_mut(relay.allocation.index()) {
            *socket = None;
        }
    }
}

/// Packs a relayed address into 33 bits.
pub(super) const fn encode(relay: RelayId) -> u64 {
    (relay.allocation.index() as u64) << 1 | matches!(relay.family, Family::V6) as u64
}

/// Unpacks a relayed address that [`encode`] has packed.
pub(super) fn decode(bits: u64) -> Option<RelayId> {
    let allocation = AllocationId::from_index(usize::try_from(bits >> 1).ok()?)?;
    Some(RelayId { allocation, family: if bits & 1 == 0 { Family::V4 } else { Family::V6 } })
}
