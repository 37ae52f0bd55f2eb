//! The clients' way to the server: over UDP, or over a TCP connection each.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    addresses::{client_at, client_ip},
    datagrams::Datagrams,
};

/// UDP sockets of all clients together. A client has an address of its own, by which its packets are told apart.
const SOCKETS: usize = 2;

/// The bytes of a ChannelData header, and of the part of a STUN header that has its length.
const FRAME_HEADER: usize = 4;
const STUN_HEADER: usize = 20;

pub(super) enum Leg {
    Udp { server: SocketAddrV4, sockets: Vec<Datagrams> },
    Tcp { streams: Vec<Stream>, epoll: Epoll },
}

pub(super) struct Stream {
    socket: TcpStream,
    /// Received bytes whose packet is not complete.
    partial: Vec<u8>,
}

impl Leg {
    pub(super) fn udp(server: SocketAddrV4) -> Self {
        Self::Udp { server, sockets: (0..SOCKETS).map(|_| Datagrams::bind(Ipv4Addr::UNSPECIFIED)).collect() }
    }

    pub(super) fn tcp(server: SocketAddrV4, clients: usize) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        let connect = |client: usize| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SockAddr::from(SocketAddrV4::new(client_ip(client), 0))).expect("an address of loopback");
            socket.connect(&server.into()).expect("a server that accepts");
            socket.set_nonblocking(true).expect("an option of each socket");
            socket.set_tcp_nodelay(true).expect("an option of each socket");
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, client as u64)).expect("a socket");
            Stream { socket: socket.into(), partial: Vec::new() }
        };
        Self::Tcp { streams: (0..clients).map(connect).collect(), epoll }
    }

    /// Sends a packet of a client. Returns whether the system took it.
    pub(super) fn send(&mut self, client: usize, packet: &[u8]) -> bool {
        match self {
            Self::Udp { server, sockets } => sockets[client % SOCKETS].send_from(client_ip(client), *server, packet),
            // A part of a packet would break the connection. A full buffer means that the server is far behind.
            Self::Tcp { streams, .. } => streams[client].socket.write(packet).is_ok_and(|sent| sent == packet.len()),
        }
    }

    /// Receives packets of the server. Returns how many.
    pub(super) fn receive(&mut self, mut handle: impl FnMut(usize, &[u8])) -> usize {
        match self {
            Self::Udp { server, sockets } => {
                let mut count = 0;
                for socket in sockets {
                    count += socket.receive(|meta, packet| {
                        if meta.source == *server
                            && let Some(client) = client_at(&meta.destination)
                        {
                            handle(client, packet);
                        }
                    });
                }
                count
            }
            Self::Tcp { streams, epoll } => {
                let mut events = [EpollEvent::empty(); 64];
                let ready = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
                let mut count = 0;
                for event in &events[..ready] {
                    let client = usize::try_from(event.data()).expect("an index");
                    count += streams[client].receive(|packet| handle(client, packet));
                }
                count
            }
        }
    }

    /// The ports of the UDP sockets.
    pub(super) fn ports(&self) -> Vec<u16> {
        match self {
            Self::Udp { sockets, .. } => sockets.iter().map(Datagrams::port).collect(),
            Self::Tcp { .. } => Vec::new(),
        }
    }
}

impl Stream {
    fn receive(&mut self, mut handle: impl FnMut(&[u8])) -> usize {
        let mut buffer = [0; 16 << 10];
        let read = match self.socket.read(&mut buffer) {
            Ok(0) => panic!("the server has closed a connection"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
            Err(error) => panic!("a connection has failed: {error}"),
        };
        self.partial.extend_from_slice(&buffer[..read]);
        let (mut at, mut count) = (0, 0);
        while let Some((packet, padded)) = frame(&self.partial[at..]) {
            handle(packet);
            at += padded;
            count += 1;
        }
        self.partial.drain(..at);
        count
    }
}

/// Returns the first packet of a stream, and its length with its padding (RFC 8656, 12.5).
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let header = bytes.first_chunk::<FRAME_HEADER>()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_channel_data = header[0] >> 4 == 4;
    let packet = len + if is_channel_data { FRAME_HEADER } else { STUN_HEADER };
    let padded = packet.next_multiple_of(4);
    (bytes.len() >= padded).then(|| (&bytes[..packet], padded))
}
