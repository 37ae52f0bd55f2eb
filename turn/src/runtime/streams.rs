//! All TCP and TLS connections of clients.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::{
    IoCounters, NewStream,
    stream::{Ended, Stream},
    token::Token,
};
use crate::client::Client;

#[derive(Default)]
pub(super) struct Streams {
    by_id: HashMap<u32, Stream>,
    /// Connections added and closed since the start.
    pub(super) opened: u64,
    pub(super) closed: u64,
    next_id: u32,
    /// Connections with packets to send. One connection may be in the list several times.
    dirty: Vec<u32>,
    /// Connections with received packets that are not handled yet, each once.
    ready: VecDeque<u32>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a connection. Returns its id, or `None` if the system refuses the socket: then the connection is closed.
    pub(super) fn add(&mut self, new: NewStream, epoll: &Epoll, now: Instant) -> Option<u32> {
        while self.by_id.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.opened += 1;
        let added = Stream::new(id, new, now).and_then(|stream| {
            epoll.add(&stream.socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Stream(id).encode()))?;
            Ok(stream)
        });
        let Ok(stream) = added else {
            self.closed += 1;
            return None;
        };
        self.by_id.insert(id, stream);
        Some(id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.by_id.get_mut(&id)
    }

    /// Records that a connection has packets for the next turns.
    pub(super) fn set_ready(&mut self, id: u32) {
        if let Some(stream) = self.by_id.get_mut(&id)
            && !stream.is_ready
        {
            stream.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Whether a connection has packets for the next turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes up to `most` connections that have packets, those that wait longest first.
    pub(super) fn take_ready(&mut self, most: usize) -> Vec<u32> {
        self.ready.drain(..most.min(self.ready.len())).collect()
    }

    /// Closes a connection. Returns its client.
    pub(super) fn remove(&mut self, id: u32) -> Option<Client> {
        let stream = self.by_id.remove(&id)?;
        self.closed += 1;
        Some(stream.client)
    }

    /// Queues a packet for a client. It is sent at the end of this turn, or earlier if the queue is full.
    pub(super) fn queue(&mut self, client: Client, packet: &[u8], now: Instant, counters: &mut IoCounters) {
        let Client::Stream { id, .. } = client else { return };
        let Some(stream) = self.by_id.get_mut(&id) else { return };
        let is_queued = stream.queue(packet)
            // On error, the flush at the end of this turn fails again, and its caller handles it.
            || (!stream.awaits_writable && stream.flush(now).is_ok() && stream.queue(packet));
        if !is_queued {
            counters.stream_packets_dropped += 1;
        }
        if !stream.awaits_writable {
            self.dirty.push(id);
        }
    }

    /// Sends what was queued. Returns the clients of connections that have ended.
    pub(super) fn flush(&mut self, epoll: &Epoll, now: Instant) -> Vec<Client> {
        let mut ended = Vec::new();
        // If a connection is listed several times, nothing is left to send the second time.
        for id in std::mem::take(&mut self.dirty) {
            ended.extend(self.flush_one(id, epoll, now));
        }
        ended
    }

    /// Sends the queue of one connection. Returns its client if the connection has ended.
    pub(super) fn flush_one(&mut self, id: u32, epoll: &Epoll, now: Instant) -> Option<Client> {
        let stream = self.by_id.get_mut(&id)?;
        let result = stream.flush(now).and_then(|is_left| {
            if is_left != stream.awaits_writable {
                stream.awaits_writable = is_left;
                let wanted = if is_left { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
                epoll
                    .modify(&stream.socket, &mut EpollEvent::new(wanted, Token::Stream(id).encode()))
                    .map_err(|_| Ended)?;
            }
            Ok(())
        });
        if result.is_err() { self.remove(id) } else { None }
    }

    /// Returns the connections that must be closed.
    pub(super) fn overdue(&self, has_allocation: impl Fn(&Client) -> bool, now: Instant) -> Vec<u32> {
        let is_overdue = |stream: &Stream| stream.is_overdue(has_allocation(&stream.client), now);
        self.by_id.iter().filter(|(_, stream)| is_overdue(stream)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use nix::sys::epoll::EpollCreateFlags;

    use super::*;

    #[test]
    fn a_burst_is_sent_before_one_of_its_packets_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        // The system takes more than the queue, and not all.
        socket2::SockRef::from(&socket).set_send_buffer_size(200 << 10).expect("a size");
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let (epoll, now) = (Epoll::new(EpollCreateFlags::empty()).expect("an epoll"), Instant::now());
        let (mut streams, mut io) = (Streams::default(), IoCounters::default());
        let new = NewStream { socket, addr, tls: None, received: Vec::new(), guard: Box::new(()) };
        let id = streams.add(new, &epoll, now).expect("a socket");
        let mut queue = |packets| {
            (0..packets).for_each(|_| streams.queue(Client::Stream { id, addr }, &[1; 1000], now, &mut io));
            io.stream_packets_dropped
        };
        assert_eq!(queue(150), 0);
        // What nobody reads is dropped and counted.
        assert!(queue(10_000) > 5000);
    }
}
