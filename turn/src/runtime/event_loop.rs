//! The thread's loop: waits for sockets, gives packets to the server, and sends what it returns.

use std::{
    array, io,
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering, mpsc::Receiver},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout},
        timerfd::TimerFd,
    },
};

use super::{
    IoCounters, NewStream, RelayConfig, Shared, Snapshot,
    bound::Bound,
    egress::Egress,
    listeners::{Buffer, Listener, MAX_DATAGRAM, RECEIVE_BATCH, Received, buffer},
    outbox::Outbox,
    peers::{PeerSockets, PeerTable},
    stream::Ended,
    token::Token,
};
use crate::{
    budget::BudgetLevel,
    client::Client,
    framing,
    packet::{HEADROOM, Packet, TAILROOM},
    server::{RelayId, Server},
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

/// Packets of all connections that are handled in one turn, before the other sockets are served. With more connections than
/// this in a turn, each still gets one packet.
const STREAM_PACKETS: usize = 64;

pub(super) struct EventLoop {
    server: Server,
    epoll: Epoll,
    timer: TimerFd,
    egress: Egress,
    outbox: Outbox,
    received: Vec<Received>,
    client_buffers: Box<[Buffer; RECEIVE_BATCH]>,
    stream_buffer: Box<[u8]>,
    new_streams: Receiver<Box<NewStream>>,
    shared: Arc<Shared>,
    /// What the budget allows. While the relay drains, the server may have a lower level.
    budget: BudgetLevel,
    /// The number of this turn. A turn is one wait of the epoll and the handling of its events.
    turn: u32,
}

impl EventLoop {
    pub(super) fn new(
        config: RelayConfig,
        bound: Bound,
        new_streams: Receiver<Box<NewStream>>,
        shared: Arc<Shared>,
    ) -> Self {
        let RelayConfig { relay_bind, mut server, .. } = config;
        let Bound { epoll, timer, listeners, addrs } = bound;
        server.listening.extend(addrs);
        let listeners: Vec<_> = listeners.into_iter().map(Listener::new).collect();
        Self {
            server: Server::new(server, Instant::now()),
            epoll,
            timer,
            outbox: Outbox::new(listeners.len()),
            egress: Egress::new(listeners, PeerTable::new(&relay_bind)),
            received: Vec::with_capacity(RECEIVE_BATCH),
            client_buffers: Box::new(array::from_fn(|_| buffer())),
            stream_buffer: vec![0; HEADROOM + MAX_PACKET + STREAM_READ + TAILROOM].into(),
            new_streams,
            shared,
            budget: BudgetLevel::Open,
            turn: 0,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut now = now();
        self.tick(now);
        while !self.shared.is_stopping.load(Ordering::Relaxed) {
            let timeout = if self.egress.streams.has_ready() { EpollTimeout::ZERO } else { EpollTimeout::NONE };
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
            let ready = self.egress.streams.take_ready(STREAM_PACKETS);
            let is_stream = |event: &&EpollEvent| matches!(Token::decode(event.data()), Some(Token::Stream(_)));
            let streams = ready.len() + events[..count].iter().filter(is_stream).count();
            let packets = (STREAM_PACKETS / streams.max(1)).max(1);
            let mut is_tick = false;
            for event in &events[..count] {
                match Token::decode(event.data()) {
                    Some(Token::Waker) => self.handle_wake(now),
                    Some(Token::Timer) => is_tick = true,
                    Some(Token::Listener(index)) => self.receive_from_clients(index, now),
                    Some(Token::Relay(relay)) => self.receive_from_peer(relay, burst.max(1), now),
                    Some(Token::Stream(id)) => self.handle_stream(id, event.events(), packets, now),
                    None => {}
                }
            }
            for id in ready {
                if self.read_stream(id, packets, now).is_err() {
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
            let Egress { listeners, io, .. } = &mut self.egress;
            let is_more = listeners[usize::from(index)].receive(&mut self.client_buffers, &mut self.received, io);
            for slot in 0..self.received.len() {
                let (len, addr) = self.received[slot];
                let client = Client::Udp { socket: index, addr };
                let packet = Packet::new(&mut self.client_buffers[slot][..], len);
                let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
                let action = self.server.handle_client(&mut sockets, client, packet, now);
                let buffer = &self.client_buffers[slot][..];
                if let Some(packet) = self.egress.carry_out(action, Some(client), buffer, now.monotonic) {
                    self.egress.queue_hairpinned(packet, slot);
                }
            }
            // The next batch overwrites the buffers of these packets.
            self.egress.send_hairpinned(&self.client_buffers[..]);
            if !is_more {
                break;
            }
        }
    }

    /// Receives one packet from a relayed socket, or up to `burst` packets if it was also read in the previous turn.
    ///
    /// Most sockets have one packet at a time. A second receive would cost a system call, and the epoll reports further
    /// packets in the next turn.
    fn receive_from_peer(&mut self, relay: RelayId, burst: usize, now: Now) {
        let Some(peer) = self.egress.peers.get_mut(relay) else { return };
        let packets = if peer.is_read_again(self.turn) { burst } else { 1 };
        for _ in 0..packets {
            if self.outbox.used == self.outbox.buffers.len() {
                self.outbox.flush(&mut self.egress.listeners, &mut self.egress.io);
            }
            // The server may have closed the socket in this turn.
            let Some(socket) = self.egress.peers.get(relay) else { return };
            let buffer = &mut self.outbox.buffers[self.outbox.used];
            // One byte more than the maximum shows that a packet is too long.
            let (len, peer) = match socket.recv_from(&mut buffer[HEADROOM..=HEADROOM + MAX_DATAGRAM]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.egress.io.receives_failed += 1;
                    return;
                }
            };
            if len > MAX_DATAGRAM {
                self.egress.io.truncated += 1;
                continue;
            }
            let peer = SocketAddr::new(peer.ip(), peer.port());
            let action = self.server.handle_peer(relay, peer, Packet::new(&mut buffer[..], len), now);
            if let Some(packet) = self.egress.carry_out(action, None, &buffer[..], now.monotonic) {
                self.outbox.queue(packet);
            }
        }
    }

    fn handle_stream(&mut self, id: u32, ready: EpollFlags, packets: usize, now: Now) {
        if ready.contains(EpollFlags::EPOLLOUT)
            && let Some(ended) = self.egress.streams.flush_one(id, &self.epoll, now.monotonic)
        {
            self.end_client(ended);
            return;
        }
        // A connection with packets of an earlier turn waits for its turn among the ready ones.
        if ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
            && self.egress.streams.get_mut(id).is_some_and(|stream| !stream.is_ready)
            && self.read_stream(id, packets, now).is_err()
        {
            self.close_stream(id);
        }
    }

    /// Receives from a connection, and handles up to `packets` packets.
    fn read_stream(&mut self, id: u32, mut packets: usize, now: Now) -> Result<(), Ended> {
        let Some(stream) = self.egress.streams.get_mut(id) else { return Ok(()) };
        stream.is_ready = false;
        // Packets that are left from the last turn are handled before more bytes are received.
        if !stream.has_rest {
            stream.receive_tls()?;
        }
        while let Some(stream) = self.egress.streams.get_mut(id) {
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
            self.egress.streams.set_ready(id);
        }
        Ok(())
    }

    /// Handles up to `packets` complete packets in the stream buffer, and keeps the remaining bytes. Returns how many more
    /// packets may be handled in this turn.
    fn handle_received(&mut self, id: u32, end: usize, mut packets: usize, now: Now) -> Result<usize, Ended> {
        let Some(stream) = self.egress.streams.get_mut(id) else { return Ok(packets) };
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
            let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
            let action = self.server.handle_client(&mut sockets, client, packet, now);
            // The headroom overlaps the previous packet, which has been handled.
            let buffer = &self.stream_buffer[at - HEADROOM..];
            if let Some(packet) = self.egress.carry_out(action, Some(client), buffer, now.monotonic) {
                self.egress.send(packet, buffer);
            }
            at += frame.padded;
        }
        if let Some(stream) = self.egress.streams.get_mut(id) {
            stream.partial.clear();
            stream.partial.extend_from_slice(&self.stream_buffer[at..end]);
            stream.has_rest = packets == 0;
        }
        Ok(packets)
    }

    fn add_stream(&mut self, new: NewStream, now: Now) {
        if let Some(id) = self.egress.streams.add(new, &self.epoll, now.monotonic)
            && let Some(stream) = self.egress.streams.get_mut(id)
        {
            // The acceptor has read the first packet, or a part of it, and a TLS session may hold decrypted bytes. The
            // socket does not become readable for these bytes.
            stream.has_rest = true;
            if stream.partial.len() > MAX_PACKET + STREAM_READ {
                self.close_stream(id);
            } else {
                self.egress.streams.set_ready(id);
            }
        }
    }

    fn close_stream(&mut self, id: u32) {
        if let Some(client) = self.egress.streams.remove(id) {
            self.end_client(client);
        }
    }

    fn end_client(&mut self, client: Client) {
        let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
        self.server.handle_closed(&mut sockets, client);
    }

    /// Sends everything that was queued in this turn.
    fn flush(&mut self, now: Now) {
        self.outbox.flush(&mut self.egress.listeners, &mut self.egress.io);
        for client in self.egress.streams.flush(&self.epoll, now.monotonic) {
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
            let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
            self.server.set_external(&mut sockets, ip);
        }
        self.budget = changes.budget.unwrap_or(self.budget);
        if changes.budget.is_some() || self.shared.is_draining.load(Ordering::Relaxed) {
            self.apply_budget();
            self.publish();
        }
        while let Ok(stream) = self.new_streams.try_recv() {
            self.add_stream(*stream, now);
        }
    }

    /// Does the periodic work: ends expired allocations and overdue connections, updates the snapshot.
    fn tick(&mut self, now: Now) {
        let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
        self.server.handle_timeout(&mut sockets, now);
        let overdue = self.egress.streams.overdue(|client| self.server.has_allocation(client), now.monotonic);
        for id in overdue {
            self.close_stream(id);
        }
        self.publish();
    }

    fn apply_budget(&mut self) {
        let mut sockets = PeerSockets { table: &mut self.egress.peers, epoll: &self.epoll };
        let least = if self.shared.is_draining.load(Ordering::Relaxed) {
            BudgetLevel::NoAllocations
        } else {
            BudgetLevel::Open
        };
        self.server.set_budget(&mut sockets, self.budget.max(least));
    }

    fn publish(&self) {
        *self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Snapshot {
            counters: self.server.counters().clone(),
            io: IoCounters {
                streams_opened: self.egress.streams.opened,
                streams_closed: self.egress.streams.closed,
                ..self.egress.io
            },
            allocations: self.server.allocations(),
            streams: self.egress.streams.len(),
            budget: self.server.budget(),
            is_running: true,
        };
    }
}

/// The longest packet of a connection: a Send indication with the longest datagram.
const MAX_PACKET: usize = MAX_DATAGRAM + 128;

fn now() -> Now {
    Now { monotonic: Instant::now(), unix: unix() }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
