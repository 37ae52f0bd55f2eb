//! Links being made: a handshake, first words, and a dial-back where the other side wants one.
//!
//! The node's listener answers an address that it has not seen with a Retry, so a handshake takes two round trips. The
//! dialler's greeting and its first packets travel together, after that.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_common::{keys::NodeId, record::SignedRecord};
use chappe_node::membership::{Greeting, Verdict, admission::Refusal, exchange::ExchangeMessage};

use super::{
    carry::EARLY_PACKETS,
    event::{DialKey, Event, Reply},
    node::{Dial, Dials, Ix},
    world::World,
};

/// How long a dial and a dial-back may take, and how far apart two dials that cross are, as the node has them.
const DIAL_WAIT: Duration = Duration::from_secs(4);
const DIAL_BACK_WAIT: Duration = Duration::from_secs(2);
const CROSSING: Duration = Duration::from_secs(1);
/// The most dials of one node at once, as the node has it.
const MAX_DIALS: usize = 2048;
/// Handshakes of others at once, and dial-backs at once, as the node has them.
const MAX_INCOMING: usize = 256;
const MAX_DIAL_BACKS: usize = 128;
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

    fn end(&mut self, number: u32) -> Option<Dial> {
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

    fn dialling(&mut self, key: DialKey) -> Option<&mut Dial> {
        let node = &mut self.nodes[key.from.index()];
        if !node.is_running() || node.epoch != key.epoch {
            return None;
        }
        node.dials.open.get_mut(&key.number)
    }

    /// Whether a first flight would be answered.
    fn answers(&self, from: Ix, to: Ix) -> bool {
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
    fn handshake(&mut self, from: Ix, to: Ix) -> Duration {
        let mut wait = self.network.latency(from, to);
        for _ in 1..2 * self.handshake_round_trips {
            wait += self.network.latency(from, to) + self.timeouts();
        }
        wait
    }

    /// How long it takes until what is lost of a flight is sent again: each time twice as long.
    fn timeouts(&mut self) -> Duration {
        FIRST_TIMEOUT * ((1 << self.network.losses()) - 1)
    }

    /// How long the first words take: what is lost is sent again after three round trips.
    fn first_words(&mut self, from: Ix, to: Ix) -> Duration {
        self.network.latency(from, to) * (1 + 6 * self.network.losses())
    }

    /// The dialler's side of the handshake is done: it greets.
    pub(super) fn connected(&mut self, key: DialKey, to: Ix) {
        if !self.network.connects(key.from, to) {
            return;
        }
        if self.dialling(key).is_none() {
            return;
        }
        let incoming = &mut self.nodes[to.index()].incoming;
        if *incoming >= MAX_INCOMING {
            self.fail(key);
            return;
        }
        *incoming += 1;
        let Some(dial) = self.dialling(key) else { return };
        let mut packets = std::mem::take(&mut dial.early);
        packets.retain(|_| !self.network.loses());
        let greeting = self.greeting_of(key.from);
        let at = self.time + self.first_words(key.from, to);
        self.queue.push(at, Event::Greeting { dial: key, to, greeting, packets });
    }

    fn greeting_of(&mut self, node: Ix) -> Arc<Greeting> {
        let node = &mut self.nodes[node.index()];
        node.load.greeted += node.greeting.record.as_bytes().len() as u64;
        node.greeting.clone()
    }

    /// The dialler's greeting has arrived.
    pub(super) fn greeted(&mut self, key: DialKey, to: Ix, greeting: Arc<Greeting>, packets: Vec<Bytes>) {
        let node = &mut self.nodes[to.index()];
        node.incoming = node.incoming.saturating_sub(1);
        if !self.network.connects(key.from, to) {
            return;
        }
        // A node that dials from the address that it shows is reached there.
        let seen = self.addrs.get(&greeting.record.quic_addrs[0]).copied();
        match self.greet(to, &greeting, seen == Some(key.from)) {
            None => {}
            Some(Verdict::Welcome) => self.take(key, to, packets),
            Some(Verdict::Refused(refusal)) => self.reply(key, to, Reply::Refused(refusal)),
            Some(Verdict::DialBack) => {
                let node = &mut self.nodes[to.index()];
                if node.dial_backs >= MAX_DIAL_BACKS {
                    self.reply(key, to, Reply::Refused(Refusal::Full));
                    return;
                }
                (node.incoming, node.dial_backs) = (node.incoming + 1, node.dial_backs + 1);
                // The dialler's own process has to answer at the address that it shows.
                let there = seen == Some(key.from) && self.answers(to, key.from);
                let wait = if there { self.handshake(to, key.from) + self.timeouts() } else { DIAL_BACK_WAIT };
                let reached = there && wait < DIAL_BACK_WAIT;
                let at = self.time + wait.min(DIAL_BACK_WAIT);
                self.queue.push(at, Event::Seen { dial: key, to, greeting, packets, reached });
            }
        }
    }

    /// A dial-back has ended.
    pub(super) fn seen(&mut self, key: DialKey, to: Ix, greeting: &Greeting, packets: Vec<Bytes>, reached: bool) {
        let node = &mut self.nodes[to.index()];
        (node.incoming, node.dial_backs) = (node.incoming.saturating_sub(1), node.dial_backs.saturating_sub(1));
        let verdict =
            if reached { self.greet(to, greeting, true) } else { Some(Verdict::Refused(Refusal::Unreachable)) };
        match verdict {
            None => {}
            Some(Verdict::Welcome) => self.take(key, to, packets),
            Some(Verdict::DialBack) => self.reply(key, to, Reply::Refused(Refusal::Unreachable)),
            Some(Verdict::Refused(refusal)) => self.reply(key, to, Reply::Refused(refusal)),
        }
    }

    fn greet(&mut self, node: Ix, greeting: &Greeting, reached: bool) -> Option<Verdict> {
        let now = self.now();
        let verdict = self.nodes[node.index()].engine.as_mut()?.greet(now, greeting, reached);
        self.act(node);
        Some(verdict)
    }

    /// Two nodes that dial each other at once keep the lower key's dial.
    fn gives_way(&mut self, me: Ix, peer: Ix, epoch: u32) -> bool {
        let (time, peer_id) = (self.time, self.nodes[peer.index()].id);
        let node = &mut self.nodes[me.index()];
        let dialling = node.dials.of(&peer_id).is_some_and(|dial| time - dial.since < CROSSING);
        let just_dialled = node
            .links
            .find(peer, time)
            .is_some_and(|link| link.dialled && time - link.made < CROSSING && link.epoch >= epoch);
        node.id < peer_id && (dialling || just_dialled)
    }

    /// The other side takes the link, unless its own dial stays.
    fn take(&mut self, key: DialKey, to: Ix, packets: Vec<Bytes>) {
        if self.gives_way(to, key.from, key.epoch) {
            self.reply(key, to, Reply::Refused(Refusal::Duplicate));
            return;
        }
        self.establish(to, key.from, key.epoch, false);
        let greeting = self.greeting_of(to);
        let epoch = self.nodes[to.index()].epoch;
        self.reply(key, to, Reply::Taken(greeting, epoch));
        for packet in packets {
            self.hand_over(to, key.from, &packet);
        }
    }

    fn reply(&mut self, key: DialKey, from: Ix, reply: Reply) {
        let at = self.time + self.first_words(from, key.from);
        self.queue.push(at, Event::Answer { dial: key, from, reply });
    }

    /// The other side's first words have arrived.
    pub(super) fn answered(&mut self, key: DialKey, from: Ix, reply: Reply) {
        if !self.network.connects(key.from, from) {
            return;
        }
        let Some(dial) = self.dialling(key) else { return };
        match reply {
            Reply::Refused(Refusal::Duplicate) => {
                dial.deferred = true;
                if self.nodes[key.from.index()].links.find(from, self.time).is_some() {
                    self.finish(key, from);
                }
            }
            Reply::Refused(_) => self.fail(key),
            Reply::Taken(greeting, epoch) => match self.greet(key.from, &greeting, true) {
                Some(Verdict::Welcome) => {
                    self.nodes[key.from.index()].load.links += 1;
                    self.establish(key.from, from, epoch, true);
                    self.finish(key, from);
                }
                _ => self.fail(key),
            },
        }
    }

    /// One side has a link from now on.
    fn establish(&mut self, node: Ix, peer: Ix, epoch: u32, dialled: bool) {
        self.nodes[node.index()].links.insert(peer, epoch, dialled, self.time);
        let id = self.nodes[peer.index()].id;
        let dials = &mut self.nodes[node.index()].dials;
        if let Some(&number) = dials.by_peer.get(&id)
            && dials.open.get(&number).is_some_and(|dial| dial.deferred)
        {
            let key = DialKey { from: node, epoch: self.nodes[node.index()].epoch, number };
            self.finish(key, peer);
        }
    }

    /// What waited for the link uses it.
    fn finish(&mut self, key: DialKey, peer: Ix) {
        let Some(dial) = self.nodes[key.from.index()].dials.end(key.number) else { return };
        for packet in dial.early {
            self.put_on_link(key.from, peer, packet);
        }
        for packet in dial.inbox {
            self.hand_over(key.from, peer, &packet);
        }
        if dial.exchange {
            self.begin_talk(key.from, peer);
        }
        if let Some(message) = dial.say {
            self.say_first(key.from, peer, message);
        }
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
            engine.unreachable(now, peer);
            self.act(node);
        }
    }
}
