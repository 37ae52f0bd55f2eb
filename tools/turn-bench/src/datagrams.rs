//! UDP sockets that receive and send in batches.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, sendmsg,
        setsockopt, sockopt::Ipv4PacketInfo,
    },
};
use socket2::SockRef;

/// Packets of one system call.
const BATCH: usize = 64;

/// The largest packet: 1,200 bytes and a header fit.
const BUFFER: usize = 2048;

/// The receive buffer that is asked for. The system may give less.
const RECEIVE_BUFFER: usize = 4 << 20;

type Buffer = Box<[u8; BUFFER]>;

/// A UDP socket.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    received: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
    receive_buffers: Vec<Buffer>,
    meta: Vec<Meta>,
    outgoing: Outgoing,
}

/// A received packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    len: usize,
    pub(crate) source: SocketAddrV4,
    /// The address that it was sent to, if the socket is bound to all.
    pub(crate) destination: Ipv4Addr,
}

/// Packets that wait until a batch of them is sent.
struct Outgoing {
    buffers: Vec<Buffer>,
    lens: Vec<usize>,
    to: Vec<Option<SockaddrIn>>,
}

impl Datagrams {
    /// Binds a free port of an address.
    pub(crate) fn bind(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a free port");
        socket.set_nonblocking(true).expect("an option of each socket");
        let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        if ip.is_unspecified() {
            setsockopt(&socket, Ipv4PacketInfo, &true).expect("an option of each socket");
        }
        Self {
            socket,
            received: MultiHeaders::preallocate(BATCH, Some(cmsg_space!(libc::in_pktinfo))),
            sent: MultiHeaders::preallocate(BATCH, None),
            receive_buffers: (0..BATCH).map(|_| Box::new([0; BUFFER])).collect(),
            meta: Vec::with_capacity(BATCH),
            outgoing: Outgoing {
                buffers: (0..BATCH).map(|_| Box::new([0; BUFFER])).collect(),
                lens: Vec::new(),
                to: Vec::new(),
            },
        }
    }

    pub(crate) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().expect("a bound socket").port()
    }

    /// Receives up to [`BATCH`] packets. Returns how many.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(Meta, &[u8])) -> usize {
        self.meta.clear();
        let mut slices: Vec<_> =
            self.receive_buffers.iter_mut().map(|buffer| [IoSliceMut::new(&mut buffer[..])]).collect();
        let fd = self.socket.as_raw_fd();
        let Ok(packets) = recvmmsg(fd, &mut self.received, &mut slices, MsgFlags::MSG_DONTWAIT, None) else {
            return 0;
        };
        for packet in packets {
            let source = packet.address.map_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), SocketAddrV4::from);
            let mut destination = Ipv4Addr::UNSPECIFIED;
            if let Ok(mut messages) = packet.cmsgs()
                && let Some(ControlMessageOwned::Ipv4PacketInfo(info)) = messages.next()
            {
                destination = u32::from_be(info.ipi_addr.s_addr).into();
            }
            self.meta.push(Meta { len: packet.bytes, source, destination });
        }
        for (meta, buffer) in self.meta.iter().zip(&self.receive_buffers) {
            handle(*meta, &buffer[..meta.len]);
        }
        self.meta.len()
    }

    /// Sends a packet from one of the machine's addresses. Returns whether the system took it.
    pub(crate) fn send_from(&self, source: Ipv4Addr, to: SocketAddrV4, packet: &[u8]) -> bool {
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let source = [ControlMessage::Ipv4PacketInfo(&source)];
        let to = SockaddrIn::from(to);
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(packet)], &source, MsgFlags::MSG_DONTWAIT, Some(&to)).is_ok()
    }

    /// Queues a packet, which `write` writes into a buffer of `len` bytes.
    pub(crate) fn queue(&mut self, to: SocketAddrV4, len: usize, write: impl FnOnce(&mut [u8])) {
        if self.outgoing.lens.len() == BATCH {
            self.flush();
        }
        write(&mut self.outgoing.buffers[self.outgoing.lens.len()][..len]);
        self.outgoing.lens.push(len);
        self.outgoing.to.push(Some(to.into()));
    }

    /// Sends what is queued. What the system does not take is dropped.
    pub(crate) fn flush(&mut self) {
        let mut from = 0;
        while from < self.outgoing.lens.len() {
            let Outgoing { buffers, lens, to } = &self.outgoing;
            let packets = buffers.iter().zip(lens).skip(from);
            let slices: Vec<_> = packets.map(|(buffer, len)| [IoSlice::new(&buffer[..*len])]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let sent = sendmmsg(self.socket.as_raw_fd(), &mut self.sent, &slices, &to[from..], [], flags);
            from += sent.map_or(1, Iterator::count).max(1);
        }
        self.outgoing.lens.clear();
        self.outgoing.to.clear();
    }
}
