//! Packets: sent over the link that is there, or over one that is dialled for them.

use bytes::Bytes;
use chappe_common::keys::NodeId;

use super::{dial::Want, event::Event, node::Ix, world::World};

/// Packets that wait for a link to come up, as the node has it.
pub(super) const EARLY_PACKETS: usize = 4;
/// What waits in a stopped process's socket: 200 KiB of packets.
const BACKLOG: usize = 400;

impl World {
    /// Sends a membership packet of an engine.
    pub(super) fn send_of_engine(&mut self, from: Ix, to: NodeId, packet: Bytes) {
        let packet = match &mut self.nodes[from.index()].behaviour {
            Some(behaviour) => behaviour.sends(packet),
            None => Some(packet),
        };
        if let Some(packet) = packet {
            self.send(from, to, packet);
        }
    }

    /// Sends a membership packet.
    pub(super) fn send(&mut self, from: Ix, to: NodeId, packet: Bytes) {
        let node = &mut self.nodes[from.index()];
        node.load.messages += 1;
        node.load.bytes += packet.len() as u64;
        if let Some(&peer) = self.ids.get(&to)
            && self.nodes[from.index()].links.find(peer, self.time).is_some()
        {
            self.put_on_link(from, peer, packet);
            return;
        }
        if let Some(record) = self.record_to_dial(from, &to) {
            self.dial(from, &record, Want::Packet(packet));
        }
    }

    /// Sends a packet over a link that is up.
    pub(super) fn put_on_link(&mut self, from: Ix, to: Ix, packet: Bytes) {
        let Some(link) = self.nodes[from.index()].links.find(to, self.time) else { return };
        if self.network.loses() || !self.network.connects(from, to) {
            return;
        }
        let at = self.time + self.network.latency(from, to);
        let from_epoch = self.nodes[from.index()].epoch;
        self.queue.push(at, Event::Packet { to, to_epoch: link.epoch, from, from_epoch, packet });
    }

    /// Whether what comes over a link between these runs of two nodes arrives. Both sides note that the link lives.
    pub(super) fn passes(&mut self, to: Ix, to_epoch: u32, from: Ix, from_epoch: u32) -> bool {
        let node = &mut self.nodes[to.index()];
        if !node.is_running() || node.epoch != to_epoch {
            return false;
        }
        if !node.links.touch(from, from_epoch, self.time) {
            return false;
        }
        let sender = &mut self.nodes[from.index()];
        if sender.epoch == from_epoch {
            sender.links.touch(to, to_epoch, self.time);
        }
        true
    }

    /// A packet has arrived.
    pub(super) fn packet(&mut self, to: Ix, to_epoch: u32, from: Ix, from_epoch: u32, packet: Bytes) {
        if self.passes(to, to_epoch, from, from_epoch) {
            self.hand_over(to, from, &packet);
            return;
        }
        let peer = self.nodes[from.index()].id;
        let node = &mut self.nodes[to.index()];
        if !node.is_running() || node.epoch != to_epoch {
            return;
        }
        // It may have overtaken the first words of the same connection.
        if let Some(dial) = node.dials.of(&peer) {
            if dial.inbox.len() < BACKLOG {
                dial.inbox.push(packet);
            }
        } else {
            // A reset tells the sender that this connection is over.
            self.close_side(from, to, to_epoch);
        }
    }

    /// Gives a packet to the engine of a running node.
    pub(super) fn hand_over(&mut self, to: Ix, from: Ix, packet: &Bytes) {
        let (now, id) = (self.now(), self.nodes[from.index()].id);
        let node = &mut self.nodes[to.index()];
        let Some(engine) = &mut node.engine else { return };
        if let Some(behaviour) = &mut node.behaviour
            && !behaviour.hears(now, id, packet)
        {
            return;
        }
        engine.handle_packet(now, id, packet);
        self.act(to);
    }

    /// Closes the link to a peer's runs before `epoch`, and tells the peer.
    pub(super) fn close_link(&mut self, node: Ix, peer: Ix, before: u32) {
        if self.nodes[node.index()].links.close_before(peer, before).is_none() {
            return;
        }
        if !self.network.loses() && self.network.connects(node, peer) {
            let at = self.time + self.network.latency(node, peer);
            let from_epoch = self.nodes[node.index()].epoch;
            self.queue.push(at, Event::Closed { to: peer, from: node, from_epoch });
        }
    }

    /// One side's link to a run of a peer is over.
    pub(super) fn close_side(&mut self, node: Ix, peer: Ix, epoch: u32) {
        let links = &mut self.nodes[node.index()].links;
        if links.find(peer, self.time).is_some_and(|link| link.epoch == epoch) {
            links.close_before(peer, epoch + 1);
        }
    }

    /// What happens at a stopped process waits, as far as there is room.
    pub(super) fn put_off(&mut self, node: Ix, event: Event) {
        let backlog = &mut self.nodes[node.index()].backlog;
        if backlog.len() < BACKLOG || !matches!(event, Event::Packet { .. }) {
            backlog.push(event);
        }
    }
}
