//! The UDP sockets for clients. They receive and send in batches.

use std::{
    array,
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    ops::Range,
    os::fd::AsRawFd as _,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::IoCounters;
use crate::packet::{HEADROOM, TAILROOM};

/// The longest datagram that is relayed. Media and data channels stay below an Ethernet frame of 1,500 bytes.
pub(super) const MAX_DATAGRAM: usize = 2048;

/// Packets received with one system call. At 100,000 packets a second, one call fetches about 15.
pub(super) const RECEIVE_BATCH: usize = 32;

/// Minimum of the number of packets that one call may receive.
const LEAST_WINDOW: usize = 4;

/// Packets sent with one system call.
pub(super) const SEND_BATCH: usize = 64;

/// The requested receive buffer: a tenth of a second at 200 Mbit/s. The system may grant less.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;

/// A buffer for one packet, with room for a new header and padding.
pub(super) type Buffer = Box<[u8; HEADROOM + MAX_DATAGRAM + TAILROOM]>;

pub(super) fn buffer() -> Buffer {
    Box::new([0; HEADROOM + MAX_DATAGRAM + TAILROOM])
}

/// Binds a UDP socket that doesn't block. An IPv6 socket receives no IPv4 packets.
pub(super) fn bind_udp(addr: SocketAddr, receive_buffer: Option<usize>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Prepares a socket that was bound by somebody else.
pub(super) fn prepared(socket: UdpSocket) -> io::Result<UdpSocket> {
    let socket = Socket::from(socket);
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A UDP socket for clients, with the memory that its batches reuse.
pub(super) struct Listener {
    pub(super) socket: UdpSocket,
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
    /// The destination addresses of the batch that is being sent.
    addrs: Vec<Option<SockaddrStorage>>,
    /// Maximum number of packets that the next call receives. An unused entry costs time too.
    window: usize,
}

/// A received packet: its length and its source address.
pub(super) type Received = (usize, SocketAddr);

/// A packet to send: the index of its buffer, its range in the buffer, and its destination.
pub(super) struct Outgoing {
    pub(super) buffer: usize,
    pub(super) data: Range<usize>,
    pub(super) to: SocketAddr,
}

impl Listener {
    /// Takes a bound socket. Call it on the thread that uses the listener: the message headers cannot move to another.
    pub(super) fn new(socket: UdpSocket) -> Self {
        let (received, sent) =
            (MultiHeaders::preallocate(RECEIVE_BATCH, None), MultiHeaders::preallocate(SEND_BATCH, None));
        Self { socket, received, sent, addrs: Vec::with_capacity(SEND_BATCH), window: RECEIVE_BATCH }
    }

    /// Receives up to [`RECEIVE_BATCH`] packets, each into its buffer. Packets longer than [`MAX_DATAGRAM`] get length 0.
    /// Returns whether there may be more.
    pub(super) fn receive(
        &mut self,
        buffers: &mut [Buffer; RECEIVE_BATCH],
        received: &mut Vec<Received>,
        counters: &mut IoCounters,
    ) -> bool {
        received.clear();
        let mut rest = buffers.iter_mut();
        let mut slices: [_; RECEIVE_BATCH] = array::from_fn(|_| {
            let buffer = rest.next().expect("one for each");
            [IoSliceMut::new(&mut buffer[HEADROOM..HEADROOM + MAX_DATAGRAM])]
        });
        let fd = self.socket.as_raw_fd();
        match recvmmsg(fd, &mut self.received, &mut slices[..self.window], MsgFlags::MSG_DONTWAIT, None) {
            Ok(packets) => {
                for packet in packets {
                    let is_truncated = packet.flags.contains(MsgFlags::MSG_TRUNC);
                    counters.truncated += u64::from(is_truncated);
                    let len = if is_truncated { 0 } else { packet.bytes };
                    if let Some(addr) = packet.address.as_ref().and_then(socket_addr) {
                        received.push((len, addr));
                    } else {
                        // Each buffer needs its entry. The server drops packets from this source address.
                        received.push((0, SocketAddr::from(([0; 4], 0))));
                    }
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Not an ICMP error, since the socket is not connected. The next call continues.
            Err(_) => counters.receives_failed += 1,
        }
        let is_full = received.len() == self.window;
        self.window = (2 * received.len()).clamp(LEAST_WINDOW, RECEIVE_BATCH);
        is_full
    }

    /// Sends packets that lie in `buffers`. Packets that the system does not accept are dropped, as on any network.
    pub(super) fn send(&mut self, buffers: &[Buffer], outgoing: &[Outgoing], counters: &mut IoCounters) {
        // Half of the batches have one packet, for which `send_to` is cheaper.
        if let [packet] = outgoing {
            let sent = self.socket.send_to(&buffers[packet.buffer][packet.data.clone()], packet.to);
            counters.sends_failed += u64::from(sent.is_err());
            return;
        }
        let fd = self.socket.as_raw_fd();
        let mut rest = outgoing;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(SEND_BATCH)];
            let slices: Vec<_> =
                batch.iter().map(|packet| [IoSlice::new(&buffers[packet.buffer][packet.data.clone()])]).collect();
            self.addrs.clear();
            self.addrs.extend(batch.iter().map(|packet| Some(SockaddrStorage::from(packet.to))));
            let sent = match sendmmsg(fd, &mut self.sent, &slices, &self.addrs, [], MsgFlags::MSG_DONTWAIT) {
                Ok(sent) => sent.count(),
                // The socket's buffer is full.
                Err(Errno::EAGAIN) => {
                    counters.sends_failed += rest.len() as u64;
                    return;
                }
                Err(_) => {
                    counters.sends_failed += 1;
                    1
                }
            };
            rest = &rest[sent..];
        }
    }
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    // The flow label and scope are not part of a client's address.
    let v6 = SocketAddrV6::from(*addr.as_sockaddr_in6()?);
    Some(SocketAddr::new((*v6.ip()).into(), v6.port()))
}
