//! The thread's loop: waits for sockets, gives packets to the server, and sends what it returns.

use std::{
    array, io,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, PoisonError, atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use super::{
    IoCounters, NewStream, RelayConfig, Shared, Snapshot,
    calendar::month,
    listeners::{Buffer, Listener, MAX_DATAGRAM, Outgoing, RECEIVE_BATCH, RECEIVE_BUFFER, Received, bind_udp, buffer},
    outbox::Outbox,
    peers::{PeerSockets, PeerTable},
    stream::Ended,
    streams::Streams,
    token::Token,
};
use crate::{
    budget::{Budget, BudgetLevel},
    client::Client,
    framing,
    packet::{HEADROOM, Packet, TAILROOM},
    server::{Action, RelayId, Server},
    time::Now,
};

/// Events taken at once.
const EVENTS: usize = 256;

/// Batches received from one listener before the other sockets are served.
const MAX_BATCHES: usize = 4;

/// Packets received from all relayed sockets in one turn. With more events than this, each socket still gets one packet.
const PEER_PACKETS: usize = 64;

/// Bytes read from a connection with one call.
const STREAM_READ: usize = 16 << 10;

/// Packets of one connection that are handled in one turn, before the other sockets are served.
const STREAM_PACKETS: usize = 64;

/// The interval of the snapshot, the budget, and the search for overdue connections.
const TICK: Duration = Duration::from_secs(1);

pub(super) struct EventLoop {
    server: Server,
    epoll: Epoll,
    timer: TimerFd,
    listeners: Vec<Listener>,
    peers: PeerTable,
    streams: Streams,
    outbox: Outbox,
    received: Vec<Received>,
    client_buffers: Box<[Buffer; RECEIVE_BATCH]>,
    stream_buffer: Box<[u8]>,
    new_streams: Receiver<Box<NewStream>>,
    shared: Arc<Shared>,
    budget: Budget,
    /// The number of this turn. A turn is one wait of the epoll and the handling of its events.
    turn: u32,
    /// Packets from one client to another, by listener, until their batch is sent.
    hairpinned: Vec<Vec<Outgoing>>,
    counted_bytes: u64,
    io: IoCounters,
}

/// The sockets of the loop. They are bound before its thread starts.
pub(super) struct Bound {
    epoll: Epoll,
    timer: TimerFd,
    listeners: Vec<UdpSocket>,
    pub(super) addrs: Vec<SocketAddr>,
}

impl Bound {
    pub(super) fn bind(listen: &[SocketAddr], waker: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(waker, EpollEvent::new(EpollFlags::EPOLLIN, Token::Waker.encode()))?;
        // This timer is set once. A timeout of the epoll would be set again on each wait, which is every few packets.
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(TICK)), TimerSetTimeFlags::empty())?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, Token::Timer.encode()))?;
        let mut listeners = Vec::new();
        for (index, addr) in (0..=u8::MAX).zip(listen) {
            let socket = bind_udp(*addr, Some(RECEIVE_BUFFER))?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(index).encode()))?;
            listeners.push(socket);
        }
        let addrs = listeners.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        Ok(Self { epoll, timer, listeners, addrs })
    }
}

impl EventLoop {
    pub(super) fn new(
        config: RelayConfig,
        bound: Bound,
        new_streams: Receiver<Box<NewStream>>,
        shared: Arc<Shared>,
    ) -> Self {
        let RelayConfig { relay_bind, mut server, budget, .. } = config;
        let Bound { epoll, timer, listeners, addrs } = bound;
        server.listening.extend(addrs);
        let listeners: Vec<_> = listeners.into_iter().map(Listener::new).collect();
        Self {
            server: Server::new(server, Instant::now()),
            epoll,
            timer,
            outbox: Outbox::new(listeners.len()),
            hairpinned: listeners.iter().map(|_| Vec::new()).collect(),
            listeners,
            peers: PeerTable::new(&relay_bind),
            streams: Streams::default(),
            received: Vec::with_capacity(RECEIVE_BATCH),
            client_buffers: Box::new(array::from_fn(|_| buffer())),
            stream_buffer: vec![0; HEADROOM + MAX_PACKET + STREAM_READ + TAILROOM].into(),
            new_streams,
            shared,
            budget,
            turn: 0,
            counted_bytes: 0,
            io: IoCounters::default(),
        }
    }

    pub(super) fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut now = now();
        self.tick(now);
        while !self.shared.is_stopping.load(Ordering::Relaxed) {
            let timeout = if self.streams.has_ready() { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "the relay has stopped: its epoll failed");
                    break;
                }
            };
            // The system's clock is read once a second, on the tick: only its seconds are used.
            now.monotonic = Instant::now();
            self.turn = self.turn.wrapping_add(1);
            let burst = PEER_PACKETS / count.max(1);
            let mut is_tick = false;
            for event in &events[..count] {
                match Token::decode(event.data()) {
                    Some(Token::Waker) => self.handle_wake(now),
                    Some(Token::Timer) => is_tick = true,
                    Some(Token::Listener(index)) => self.receive_from_clients(index, now),
                    Some(Token::Relay(relay)) => self.receive_from_peer(relay, burst.max(1), now),
                    Some(Token::Stream(id)) => self.handle_stream(id, event.events(), now),
                    None => {}
                }
            }
            for id in self.streams.take_ready() {
                if self.read_stream(id, now).is_err() {
                    self.close_stream(id);
                }
            }
            self.flush(now);
            if is_tick {
                // Clears the timer's event. The number of ticks does not matter.
                let _ = self.timer.wait();
                now.unix = unix();
                self.tick(now);
            }
        }
    }

    /// Receives packets of clients from a listener.
    fn receive_from_clients(&mut self, index: u8, now: Now) {
        for _ in 0..MAX_BATCHES {
            let listener = &mut self.listeners[usize::from(index)];
            let is_more = listener.receive(&mut self.client_buffers, &mut self.received, &mut self.io);
            for slot in 0..self.received.len() {
                let (len, addr) = self.received[slot];
                let client = Client::Udp { socket: index, addr };
                let packet = Packet::new(&mut self.client_buffers[slot][..], len);
                let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
                match self.server.handle_client(&mut sockets, client, packet, now) {
                    Action::Nothing => {}
                    Action::Respond(response) => {
                        let sent = self.listeners[usize::from(index)].socket.send_to(&response, addr);
                        self.io.sends_failed += u64::from(sent.is_err());
                    }
                    Action::ToPeer { relay, peer, data } => {
                        send_to_peer(&self.peers, relay, peer, &self.client_buffers[slot][data], &mut self.io);
                    }
                    Action::ToClient { client: Client::Udp { socket, addr }, data } => {
                        self.hairpinned[usize::from(socket)].push(Outgoing { buffer: slot, data, to: addr });
                    }
                    Action::ToClient { client, data } => {
                        self.streams.queue(client, &self.client_buffers[slot][data], now.monotonic, &mut self.io);
                    }
                }
            }
            // The next batch overwrites the buffers of these packets.
            self.send_hairpinned();
            if !is_more {
                break;
            }
        }
    }

    /// Sends packets from one client to another that lie in the listeners' buffers.
    fn send_hairpinned(&mut self) {
        for (listener, outgoing) in self.listeners.iter_mut().zip(&mut self.hairpinned) {
            listener.send(&self.client_buffers[..], outgoing, &mut self.io);
            outgoing.clear();
        }
    }

    /// Receives one packet from a relayed socket, or up to `burst` packets if it was also read in the previous turn.
    ///
    /// Most sockets have one packet at a time. A second receive would cost a system call, and the epoll reports further
    /// packets in the next turn.
    fn receive_from_peer(&mut self, relay: RelayId, burst: usize, now: Now) {
        let Some(peer) = self.peers.get_mut(relay) else { return };
        let packets = if peer.is_read_again(self.turn) { burst } else { 1 };
        for _ in 0..packets {
            if self.outbox.used == self.outbox.buffers.len() {
                self.outbox.flush(&mut self.listeners, &mut self.io);
            }
            // The server may have closed the socket in this turn.
            let Some(socket) = self.peers.get(relay) else { return };
            let buffer = &mut self.outbox.buffers[self.outbox.used];
            // One byte more than the maximum shows that a packet is too long.
            let (len, peer) = match socket.recv_from(&mut buffer[HEADROOM..=HEADROOM + MAX_DATAGRAM]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.io.receives_failed += 1;
                    return;
                }
            };
            if len > MAX_DATAGRAM {
                self.io.truncated += 1;
                continue;
            }
            let peer = SocketAddr::new(peer.ip(), peer.port());
            match self.server.handle_peer(relay, peer, Packet::new(&mut buffer[..], len), now) {
                Action::ToClient { client: Client::Udp { socket, addr }, data } => {
                    let outgoing = Outgoing { buffer: self.outbox.used, data, to: addr };
                    self.outbox.outgoing[usize::from(socket)].push(outgoing);
                    self.outbox.used += 1;
                }
                Action::ToClient { client, data } => {
                    self.streams.queue(client, &buffer[data], now.monotonic, &mut self.io);
                }
                Action::Nothing | Action::Respond(_) | Action::ToPeer { .. } => {}
            }
        }
    }

    fn handle_stream(&mut self, id: u32, ready: EpollFlags, now: Now) {
        if ready.contains(EpollFlags::EPOLLOUT)
            && let Some(ended) = self.streams.flush_one(id, &self.epoll, now.monotonic)
        {
            self.end_client(ended);
            return;
        }
        if ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
            && self.read_stream(id, now).is_err()
        {
            self.close_stream(id);
        }
    }

    /// Receives from a connection, and handles up to [`STREAM_PACKETS`] packets.
    fn read_stream(&mut self, id: u32, now: Now) -> Result<(), Ended> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        // Packets that are left from the last turn are handled before more bytes are received.
        if !stream.has_rest {
            stream.receive_tls()?;
        }
        let mut packets = STREAM_PACKETS;
        while let Some(stream) = self.streams.get_mut(id) {
            let kept = stream.partial.len();
            self.stream_buffer[HEADROOM..HEADROOM + kept].copy_from_slice(&stream.partial);
            let start = HEADROOM + kept;
            let read =
                if stream.has_rest { 0 } else { stream.read(&mut self.stream_buffer[start..start + STREAM_READ])? };
            // The epoll reports no event for decrypted bytes: all of them are read now, or in the next turns.
            let may_have_more = stream.is_tls() && (stream.has_rest || read > 0);
            packets = self.handle_received(id, start + read, packets, now)?;
            if packets == 0 || !may_have_more {
                break;
            }
        }
        if packets == 0 {
            self.streams.set_ready(id);
        }
        Ok(())
    }

    /// Handles up to `packets` complete packets in the stream buffer, and keeps the remaining bytes. Returns how many more
    /// packets may be handled in this turn.
    fn handle_received(&mut self, id: u32, end: usize, mut packets: usize, now: Now) -> Result<usize, Ended> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(packets) };
        let client = stream.client;
        let mut at = HEADROOM;
        while let Some((header, _)) = self.stream_buffer[at..end].split_first_chunk::<{ framing::HEADER }>() {
            let frame = framing::frame(*header).map_err(|_| Ended)?;
            if frame.padded > MAX_PACKET {
                return Err(Ended);
            }
            if packets == 0 || at + frame.padded > end {
                break;
            }
            packets -= 1;
            let buffer = &mut self.stream_buffer[at - HEADROOM..at + frame.packet + TAILROOM];
            let packet = Packet::new(buffer, frame.packet);
            let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
            let action = self.server.handle_client(&mut sockets, client, packet, now);
            // The headroom overlaps the previous packet, which has been handled.
            let buffer = &self.stream_buffer[at - HEADROOM..];
            match action {
                Action::Nothing => {}
                Action::Respond(response) => self.streams.queue(client, &response, now.monotonic, &mut self.io),
                Action::ToPeer { relay, peer, data } => {
                    send_to_peer(&self.peers, relay, peer, &buffer[data], &mut self.io);
                }
                Action::ToClient { client: Client::Udp { socket, addr }, data } => {
                    let sent = self.listeners[usize::from(socket)].socket.send_to(&buffer[data], addr);
                    self.io.sends_failed += u64::from(sent.is_err());
                }
                Action::ToClient { client, data } => {
                    self.streams.queue(client, &buffer[data], now.monotonic, &mut self.io)
                }
            }
            at += frame.padded;
        }
        if let Some(stream) = self.streams.get_mut(id) {
            stream.partial.clear();
            stream.partial.extend_from_slice(&self.stream_buffer[at..end]);
            stream.has_rest = packets == 0;
        }
        Ok(packets)
    }

    fn add_stream(&mut self, new: NewStream, now: Now) {
        if let Some(id) = self.streams.add(new, &self.epoll, now.monotonic)
            && let Some(stream) = self.streams.get_mut(id)
        {
            // The acceptor has read the first packet, or a part of it, and a TLS session may hold decrypted bytes. The
            // socket does not become readable for these bytes.
            stream.has_rest = true;
            if stream.partial.len() > MAX_PACKET + STREAM_READ || self.read_stream(id, now).is_err() {
                self.close_stream(id);
            }
        }
    }

    fn close_stream(&mut self, id: u32) {
        if let Some(client) = self.streams.remove(id) {
            self.end_client(client);
        }
    }

    fn end_client(&mut self, client: Client) {
        let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
        self.server.handle_closed(&mut sockets, client);
    }

    /// Sends everything that was queued in this turn.
    fn flush(&mut self, now: Now) {
        self.outbox.flush(&mut self.listeners, &mut self.io);
        for client in self.streams.flush(&self.epoll, now.monotonic) {
            self.end_client(client);
        }
    }

    /// Applies the requests of the relay's owner: new settings, draining, new connections.
    fn handle_wake(&mut self, now: Now) {
        let _ = self.shared.waker.read();
        let changes = std::mem::take(&mut *self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(filter) = changes.filter {
            self.server.set_filter(filter);
        }
        for ip in [changes.v4, changes.v6].into_iter().flatten() {
            let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
            self.server.set_external(&mut sockets, ip);
        }
        if self.shared.is_draining.load(Ordering::Relaxed) {
            self.apply_budget();
        }
        while let Ok(stream) = self.new_streams.try_recv() {
            self.add_stream(*stream, now);
        }
    }

    /// Does the periodic work: ends expired allocations and overdue connections, updates the budget and the snapshot.
    fn tick(&mut self, now: Now) {
        let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
        self.server.handle_timeout(&mut sockets, now);
        let overdue = self.streams.overdue(|client| self.server.has_allocation(client), now.monotonic);
        for id in overdue {
            self.close_stream(id);
        }
        let bytes = self.server.counters().bytes;
        // Each packet was received and sent, and a provider may count both.
        self.budget.add(2 * (bytes - self.counted_bytes), month(now.unix));
        self.counted_bytes = bytes;
        self.apply_budget();
        self.publish();
    }

    fn apply_budget(&mut self) {
        let mut sockets = PeerSockets { table: &mut self.peers, epoll: &self.epoll };
        let least = if self.shared.is_draining.load(Ordering::Relaxed) {
            BudgetLevel::NoAllocations
        } else {
            BudgetLevel::Open
        };
        self.server.set_budget(&mut sockets, self.budget.level().max(least));
    }

    fn publish(&self) {
        *self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Snapshot {
            counters: self.server.counters().clone(),
            io: IoCounters { streams_opened: self.streams.opened, streams_closed: self.streams.closed, ..self.io },
            allocations: self.server.allocations(),
            streams: self.streams.len(),
            budget: self.budget,
            is_running: true,
        };
    }
}

/// The longest packet of a connection: a Send indication with the longest datagram.
const MAX_PACKET: usize = MAX_DATAGRAM + 128;

fn send_to_peer(peers: &PeerTable, relay: RelayId, peer: SocketAddr, data: &[u8], counters: &mut IoCounters) {
    // If a buffer of the system is full, the packet is lost, as on any network.
    let sent = peers.get(relay).is_some_and(|socket| socket.send_to(data, peer).is_ok());
    counters.sends_failed += u64::from(!sent);
}

fn now() -> Now {
    Now { monotonic: Instant::now(), unix: unix() }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
