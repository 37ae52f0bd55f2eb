//! First words on a connection: each side shows its record, after a dial-back where one is wanted, and then the link is
//! up.
//!
//! The dialler's greeting and its first packets travel together.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_node::membership::{Greeting, Verdict, admission::AdmissionRefusal};

use super::{
    event::{DialKey, Event, Reply},
    node::Ix,
    world::World,
};

/// How long a dial-back may take, and how far apart two dials that cross are, as the node has them.
const DIAL_BACK_WAIT: Duration = Duration::from_secs(2);
const CROSSING: Duration = Duration::from_secs(1);
/// Handshakes of others at once, and dial-backs at once, as the node has them.
const MAX_INCOMING: usize = 256;
const MAX_DIAL_BACKS: usize = 128;

impl World {
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

    /// How long the first words take: what is lost is sent again after three round trips.
    fn first_words(&mut self, from: Ix, to: Ix) -> Duration {
        self.network.latency(from, to) * (1 + 6 * self.network.losses())
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
                    self.reply(key, to, Reply::Refused(AdmissionRefusal::Full));
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
        let verdict = if reached {
            self.greet(to, greeting, true)
        } else {
            Some(Verdict::Refused(AdmissionRefusal::Unreachable))
        };
        match verdict {
            None => {}
            Some(Verdict::Welcome) => self.take(key, to, packets),
            Some(Verdict::DialBack) => self.reply(key, to, Reply::Refused(AdmissionRefusal::Unreachable)),
            Some(Verdict::Refused(refusal)) => self.reply(key, to, Reply::Refused(refusal)),
        }
    }

    fn greet(&mut self, node: Ix, greeting: &Greeting, reached: bool) -> Option<Verdict> {
        let now = self.now();
        let verdict = self.nodes[node.index()].engine.as_mut()?.handle_greeting(now, greeting, reached);
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
            self.reply(key, to, Reply::Refused(AdmissionRefusal::Duplicate));
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
            Reply::Refused(AdmissionRefusal::Duplicate) => {
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
            self.begin_exchange(key.from, peer);
        }
        if let Some(message) = dial.say {
            self.send_first(key.from, peer, message);
        }
    }
}
