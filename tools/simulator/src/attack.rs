//! Malicious members: nodes with an ordinary engine and an additional behaviour.
//!
//! They answer probes, and so stay members. They know the key, run and record of every node, and may send any message
//! to any node at any rate.

pub mod accuse;
pub mod claim;
pub mod replay;
pub mod selective;
pub mod versatile;
pub mod words;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
};
use chappe_node::membership::{
    Greeting, Now, exchange::ExchangeMessage, member::MemberId, news::NewsKind, packet::Packet,
};
use foca::{Header, Member, Message};
use rand::{rngs::StdRng, seq::IteratorRandom as _};

use super::{
    dial::Want,
    event::Event,
    node::{Ix, Node},
    world::World,
};

/// The behaviour of a malicious member, besides its engine's.
pub trait Behaviour {
    /// How often it acts.
    fn every(&self) -> Duration;

    /// What it does of its own accord.
    fn act(&mut self, me: &mut Puppet<'_>);

    /// A packet for its engine. Whether the engine hears it.
    fn hears(&mut self, _now: Now, _from: NodeId, _packet: &Bytes) -> bool {
        true
    }

    /// A packet of its engine. What is sent in its place; none: nothing.
    fn sends(&mut self, packet: Bytes) -> Option<Bytes> {
        Some(packet)
    }

    /// What its engine says in an exchange; it may be changed. Whether it is said.
    fn says(&mut self, _message: &mut ExchangeMessage) -> bool {
        true
    }
}

/// A node that runs, as malicious members know it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The node and its run.
    pub id: MemberId,
    /// Whether it does what it should.
    pub honest: bool,
    /// What it shows on links.
    pub greeting: Arc<Greeting>,
}

impl Known {
    pub(super) fn of(node: &Node) -> Self {
        let id = MemberId { node: node.id, epoch: node.epoch.into() };
        Self { id, honest: node.is_honest(), greeting: node.greeting.clone() }
    }
}

/// What a malicious member wants done.
#[derive(Debug)]
enum Deed {
    Send(NodeId, Bytes),
    Say(NodeId, ExchangeMessage),
}

/// A malicious member as its behaviour sees it.
pub struct Puppet<'a> {
    /// The time.
    pub now: Now,
    /// Makes its choices.
    pub rng: &'a mut StdRng,
    /// Its key.
    pub key: &'a SecretKey,
    /// Itself.
    pub me: MemberId,
    /// The federation.
    pub federation: FederationId,
    /// Everybody who runs.
    pub everybody: &'a [Known],
    deeds: Vec<Deed>,
}

impl Puppet<'_> {
    /// The honest nodes.
    pub fn honest(&self) -> impl Iterator<Item = &Known> {
        self.everybody.iter().filter(|known| known.honest)
    }

    /// Some honest nodes, chosen at random.
    pub fn some_honest(&mut self, count: usize) -> Vec<MemberId> {
        self.everybody.iter().filter(|known| known.honest).map(|known| known.id).sample(self.rng, count)
    }

    /// Sends bytes as a membership packet.
    pub fn send(&mut self, to: NodeId, packet: impl Into<Bytes>) {
        self.deeds.push(Deed::Send(to, packet.into()));
    }

    /// Sends a packet of the SWIM library with these updates and items.
    pub fn send_swim(&mut self, to: NodeId, header: &Header<MemberId>, said: &[Member<MemberId>], items: &[Vec<u8>]) {
        self.send(to, swim(header, said, items));
    }

    /// A header of its own.
    pub const fn header(&self, to: MemberId, message: Message<MemberId>) -> Header<MemberId> {
        Header { src: self.me, src_incarnation: 0, dst: to, message }
    }

    /// Gossips.
    pub fn gossip(&mut self, to: MemberId, said: &[Member<MemberId>], items: &[Vec<u8>]) {
        self.send_swim(to.node, &self.header(to, Message::Gossip), said, items);
    }

    /// Gossips an item of news.
    pub fn tell(&mut self, to: MemberId, kind: NewsKind, note: &[u8]) {
        self.gossip(to, &[], &[kind.item(note)]);
    }

    /// Begins an exchange.
    pub fn say(&mut self, to: NodeId, message: ExchangeMessage) {
        self.deeds.push(Deed::Say(to, message));
    }
}

/// A packet of the SWIM library.
fn swim(header: &Header<MemberId>, said: &[Member<MemberId>], items: &[Vec<u8>]) -> Bytes {
    // The library's types always encode.
    let mut packet = postcard::to_allocvec(header).unwrap_or_default();
    let len = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    packet.extend_from_slice(&len(said.len()));
    for update in said {
        packet.extend_from_slice(&postcard::to_allocvec(update).unwrap_or_default());
    }
    for item in items {
        packet.extend_from_slice(&len(item.len()));
        packet.extend_from_slice(item);
    }
    Packet::Swim(packet.into()).encode()
}

impl World {
    /// A malicious member does what it came for.
    pub(super) fn misbehave(&mut self, ix: Ix) {
        let (now, federation, everybody) = (self.now(), self.federation(), self.census());
        let node = &mut self.nodes[ix.index()];
        let Some(behaviour) = node.behaviour.as_mut().filter(|_| node.engine.is_some()) else { return };
        let me = MemberId { node: node.id, epoch: node.epoch.into() };
        let mut puppet = Puppet {
            now,
            rng: &mut self.rng,
            key: &node.key,
            me,
            federation,
            everybody: &everybody,
            deeds: Vec::new(),
        };
        behaviour.act(&mut puppet);
        let deeds = puppet.deeds;
        self.queue.push(self.time + behaviour.every(), Event::Act(ix));
        for deed in deeds {
            match deed {
                Deed::Send(to, packet) => self.send(ix, to, packet),
                Deed::Say(to, message) => self.say_anyhow(ix, to, message),
            }
        }
        self.act(ix);
    }

    fn say_anyhow(&mut self, ix: Ix, to: NodeId, message: ExchangeMessage) {
        match self.ids.get(&to) {
            Some(&peer) if self.nodes[ix.index()].links.find(peer, self.time).is_some() => {
                self.send_first(ix, peer, message);
            }
            _ => {
                if let Some(record) = self.record_to_dial(ix, &to) {
                    self.dial(ix, &record, Want::Say(message));
                }
            }
        }
    }
}
