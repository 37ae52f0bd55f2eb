//! Dials: a handshake, sent again where it is lost, and what becomes of those that fail.
//!
//! The node's listener answers an address that it has not seen with a Retry, so a handshake takes two round trips.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord};
use chappe_node::membership::exchange::ExchangeMessage;

use super::{
    carry::EARLY_PACKETS,
    event::{DialKey, Event},
    node::{Dial, Dials, Ix},
    world::World,
};

/// How long a dial may take, as the node has it.
const DIAL_WAIT: Duration = Duration::from_secs(4);
/// The most dials of one node at once, as the node has it.
const MAX_DIALS: usize = 2048;
/// When a lost flight of a handshake is sent again, at first: the round trip isn't known yet (RFC 9002, section 6.2.2).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// What a dial is for.
pub(super) enum Want {
    /// To send a packet.
    Packet(Bytes),
    /// To begin an exchange.
    Exchange,
    /// To say what no engine says.
    Say(ExchangeMessage),
    /// The engine wants it, and is told if it fails.
    Link,
}

impl Dials {
    /// The dial of a peer.
    pub(super) fn of(&mut self, peer: &NodeId) -> Option<&mut Dial> {
        self.open.get_mut(self.by_peer.get(peer)?)
    }

    pub(super) fn end(&mut self, number: u32) -> Option<Dial> {
        let dial = self.open.remove(&number)?;
        self.by_peer.remove(&dial.peer);
        Some(dial)
    }
}

impl World {
    /// The record by which a node would dial another. Malicious members know everybody's.
    pub(super) fn record_to_dial(&self, from: Ix, to: &NodeId) -> Option<Arc<SignedRecord>> {
        let node = &self.nodes[from.index()];
        node.records.any(to).or_else(|| {
            let peer = self.ids.get(to).filter(|_| !node.is_honest())?;
            Some(Arc::new(self.nodes[peer.index()].greeting.record.clone()))
        })
    }

    /// Dials a node by its record, or joins the dial that is under way.
    pub(super) fn dial(&mut self, from: Ix, record: &SignedRecord, want: Want) {
        let time = self.time;
        let node = &mut self.nodes[from.index()];
        if node.dials.of(&record.node).is_none() {
            if node.dials.open.len() >= MAX_DIALS {
                if matches!(want, Want::Link) {
                    self.tell_unreachable(from, record.node);
                }
                return;
            }
            node.dials.numbers += 1;
            let number = node.dials.numbers;
            let dial = Dial {
                peer: record.node,
                addr: record.quic_addrs[0],
                since: time,
                early: Vec::new(),
                inbox: Vec::new(),
                exchange: false,
                say: None,
                report: false,
                deferred: false,
            };
            node.dials.open.insert(number, dial);
            node.dials.by_peer.insert(record.node, number);
            let key = DialKey { from, epoch: node.epoch, number };
            self.queue.push(time + DIAL_WAIT, Event::GiveUp(key));
            self.flight(key, 0);
        }
        let Some(dial) = self.nodes[from.index()].dials.of(&record.node) else { return };
        match want {
            Want::Packet(packet) if dial.early.len() < EARLY_PACKETS => dial.early.push(packet),
            Want::Packet(_) => {}
            Want::Exchange => dial.exchange = true,
            Want::Say(message) => dial.say = Some(message),
            Want::Link => dial.report = true,
        }
    }

    pub(super) fn dialling(&mut self, key: DialKey) -> Option<&mut Dial> {
        let node = &mut self.nodes[key.from.index()];
        if !node.is_running() || node.epoch != key.epoch {
            return None;
        }
        node.dials.open.get_mut(&key.number)
    }

    /// Whether a first flight would be answered.
    pub(super) fn answers(&self, from: Ix, to: Ix) -> bool {
        let node = &self.nodes[to.index()];
        node.is_running() && !node.stopped && self.network.connects(from, to)
    }

    /// Sends the first flight of a handshake, for the first time or again.
    pub(super) fn flight(&mut self, key: DialKey, attempt: u32) {
        let Some((addr, peer)) = self.dialling(key).map(|dial| (dial.addr, dial.peer)) else { return };
        let target = self.addrs.get(&addr).copied().filter(|to| self.answers(key.from, *to));
        match target {
            Some(to) if !self.network.loses() => {
                if self.nodes[to.index()].id == peer {
                    let at = self.time + self.handshake(key.from, to);
                    self.queue.push(at, Event::Connected { dial: key, to });
                } else {
                    // Another key than was asked for.
                    let at = self.time + self.network.latency(key.from, to) * 2;
                    self.queue.push(at, Event::GiveUp(key));
                }
            }
            _ => self.queue.push(
                self.time + FIRST_TIMEOUT * (1 << attempt.min(8)),
                Event::Flight { dial: key, attempt: attempt + 1 },
            ),
        }
    }

    /// How long a handshake takes whose first flight arrives.
    pub(super) fn handshake(&mut self, from: Ix, to: Ix) -> Duration {
        let mut wait = self.network.latency(from, to);
        for _ in 1..2 * self.handshake_round_trips {
            wait += self.network.latency(from, to) + self.timeouts();
        }
        wait
    }

    /// How long it takes until what is lost of a flight is sent again: each time twice as long.
    pub(super) fn timeouts(&mut self) -> Duration {
        FIRST_TIMEOUT * ((1 << self.network.losses()) - 1)
    }

    /// A dial has failed.
    pub(super) fn fail(&mut self, key: DialKey) {
        if self.dialling(key).is_none() {
            return;
        }
        let node = &mut self.nodes[key.from.index()];
        let Some(dial) = node.dials.end(key.number) else { return };
        node.load.vain_dials += 1;
        if dial.report {
            self.tell_unreachable(key.from, dial.peer);
        }
    }

    /// Queued, as the node does it: who fails at once could fail for ever.
    fn tell_unreachable(&mut self, node: Ix, peer: NodeId) {
        let epoch = self.nodes[node.index()].epoch;
        self.queue.push(self.time, Event::Failed { node, epoch, peer });
    }

    /// The engine hears that a dial has failed.
    pub(super) fn failed(&mut self, node: Ix, epoch: u32, peer: NodeId) {
        let now = self.now();
        let at = &mut self.nodes[node.index()];
        if let Some(engine) = at.engine.as_mut().filter(|_| at.epoch == epoch) {
            engine.handle_dial_failed(now, peer);
            self.act(node);
        }
    }
}
