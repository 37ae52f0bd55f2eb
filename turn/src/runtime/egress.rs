//! Sends what the server returns: at once, or with the other packets of a batch or a turn.

use std::{net::SocketAddr, ops::Range, time::Instant};

use super::{
    IoCounters,
    listeners::{Buffer, Listener, Outgoing},
    peers::PeerTable,
    streams::Streams,
};
use crate::{
    client::Client,
    server::{Action, RelayId},
};

/// The sockets that packets are sent from.
pub(super) struct Egress {
    pub(super) listeners: Vec<Listener>,
    pub(super) peers: PeerTable,
    pub(super) streams: Streams,
    /// Packets from one client to another, by listener, until their batch is sent.
    hairpinned: Vec<Vec<Outgoing>>,
    pub(super) io: IoCounters,
}

/// A packet to a client over UDP.
pub(super) struct ToUdp {
    /// The listener that it is sent from.
    pub(super) socket: usize,
    /// Its range in the buffer of the received packet.
    pub(super) data: Range<usize>,
    pub(super) to: SocketAddr,
}

impl Egress {
    pub(super) fn new(listeners: Vec<Listener>, peers: PeerTable) -> Self {
        Self {
            peers,
            streams: Streams::default(),
            hairpinned: listeners.iter().map(|_| Vec::new()).collect(),
            listeners,
            io: IoCounters::default(),
        }
    }

    /// Carries out the server's action for a packet in `buffer` that came from `client`, or for none from a peer. A packet
    /// to a client over UDP is returned instead of sent: the caller has the buffer until its batch is sent.
    pub(super) fn carry_out(
        &mut self,
        action: Action,
        client: Option<Client>,
        buffer: &[u8],
        now: Instant,
    ) -> Option<ToUdp> {
        match action {
            Action::Nothing => {}
            Action::Respond(response) => match client {
                Some(Client::Udp { socket, addr }) => self.send_to(usize::from(socket), &response, addr),
                Some(client) => self.streams.queue(client, &response, now, &mut self.io),
                // A peer sends no requests.
                None => {}
            },
            Action::ToPeer { relay, peer, data } => self.send_to_peer(relay, peer, &buffer[data]),
            Action::ToClient { client: Client::Udp { socket, addr }, data } => {
                return Some(ToUdp { socket: usize::from(socket), data, to: addr });
            }
            Action::ToClient { client, data } => self.streams.queue(client, &buffer[data], now, &mut self.io),
        }
        None
    }

    /// Sends a packet to a client at once.
    pub(super) fn send(&mut self, packet: ToUdp, buffer: &[u8]) {
        self.send_to(packet.socket, &buffer[packet.data], packet.to);
    }

    /// Queues a packet in a buffer of the clients' batch, until [`Self::send_hairpinned`].
    pub(super) fn queue_hairpinned(&mut self, ToUdp { socket, data, to }: ToUdp, buffer: usize) {
        self.hairpinned[socket].push(Outgoing { buffer, data, to });
    }

    /// Sends packets from one client to another that lie in the listeners' buffers.
    pub(super) fn send_hairpinned(&mut self, buffers: &[Buffer]) {
        for (listener, outgoing) in self.listeners.iter_mut().zip(&mut self.hairpinned) {
            listener.send(buffers, outgoing, &mut self.io);
            outgoing.clear();
        }
    }

    fn send_to(&mut self, socket: usize, packet: &[u8], to: SocketAddr) {
        let sent = self.listeners[socket].socket.send_to(packet, to);
        self.io.sends_failed += u64::from(sent.is_err());
    }

    fn send_to_peer(&mut self, relay: RelayId, peer: SocketAddr, data: &[u8]) {
        // If a buffer of the system is full, the packet is lost, as on any network.
        let sent = self.peers.get(relay).is_some_and(|socket| socket.send_to(data, peer).is_ok());
        self.io.sends_failed += u64::from(!sent);
    }
}
