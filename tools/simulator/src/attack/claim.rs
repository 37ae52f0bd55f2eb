//! Members that aren't there: invented ones, dead ones, and views from which the honest are missing.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::{NodeRecord, SignedRecord},
};
use chappe_node::membership::{
    Now,
    exchange::{ExchangeMessage, KnownMember},
    gossip::Gossip,
    news::NewsKind,
    packet::Packet,
};
use foca::Member;
use rand::{Rng, RngExt as _, seq::IteratorRandom as _};

use super::{Behaviour, Puppet, swim};
use crate::node::sign_record;

/// Takes part, and does nothing else: a node that is counted as malicious for what it is.
#[derive(Clone, Copy, Debug)]
pub struct Quiet;

impl Behaviour for Quiet {
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn act(&mut self, _me: &mut Puppet<'_>) {}
}

/// Invents members: fresh keys at addresses where nobody is, in packets and by the hundred in exchanges.
#[derive(Debug)]
pub struct Invent {
    records: Vec<Bytes>,
}

impl Invent {
    /// Makes so many keys beforehand.
    pub fn new(federation: FederationId, now: Now, count: usize, rng: &mut impl Rng) -> Self {
        let record = |_| {
            let key = SecretKey::from_bytes(&rng.random());
            let addr = (Ipv4Addr::new(60, rng.random(), rng.random(), 1), 8711).into();
            sign_record(&key, federation, 1, addr, now.clock).as_bytes().clone()
        };
        Self { records: (0..count).map(record).collect() }
    }
}

impl Behaviour for Invent {
    fn every(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        for to in me.some_honest(10) {
            let items: Vec<_> = self.records.iter().sample(me.rng, 3);
            let items: Vec<_> = items.into_iter().map(|record| NewsKind::Record.item(record)).collect();
            me.gossip(to, &[], &items);
        }
        for to in me.some_honest(1) {
            let records = self.records.iter().sample(me.rng, 300).into_iter().cloned().collect();
            me.say(to.node, ExchangeMessage::Records { records, wanted: Vec::new(), beacon: None });
        }
    }
}

/// Says that members which have died are there.
#[derive(Debug)]
pub struct ClaimDead {
    /// Their records.
    pub dead: Vec<SignedRecord>,
}

impl Behaviour for ClaimDead {
    fn every(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        let id = |record: &SignedRecord| chappe_node::membership::member::MemberId {
            node: record.node,
            epoch: record.epoch,
        };
        let alive: Vec<_> = self.dead.iter().map(|record| Member::alive(id(record))).collect();
        for to in me.some_honest(10) {
            let items: Vec<_> = self.dead.iter().sample(me.rng, 2);
            let items: Vec<_> = items.into_iter().map(|record| NewsKind::Record.item(record.as_bytes())).collect();
            me.gossip(to, &alive[..alive.len().min(10)], &items);
        }
        for to in me.some_honest(1) {
            let records = self.dead.iter().map(|record| record.as_bytes().clone()).collect();
            me.say(to.node, ExchangeMessage::Records { records, wanted: Vec::new(), beacon: None });
        }
    }

    fn says(&mut self, message: &mut ExchangeMessage) -> bool {
        if let ExchangeMessage::Members { members, .. } = message {
            let long_ago = chappe_common::time::UnixTime::from_secs(1);
            members.extend(self.dead.iter().map(|r| KnownMember { node: r.node, epoch: r.epoch, since: long_ago }));
        }
        true
    }
}

/// Shows a view in which only its accomplices are, and passes no news on.
#[derive(Clone, Debug)]
pub struct Hide {
    /// The accomplices, itself among them.
    pub shown: HashSet<NodeId>,
}

impl Behaviour for Hide {
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn act(&mut self, _me: &mut Puppet<'_>) {}

    fn sends(&mut self, packet: Bytes) -> Option<Bytes> {
        match Packet::decode(&packet) {
            Ok(Packet::Swim(inner)) => Gossip::decode(&inner).ok().map(|gossip| swim(&gossip.header, &[], &[])),
            _ => Some(packet),
        }
    }

    fn says(&mut self, message: &mut ExchangeMessage) -> bool {
        match message {
            ExchangeMessage::Summary { .. } => {}
            ExchangeMessage::Members { members, .. } => members.retain(|member| self.shown.contains(&member.node)),
            ExchangeMessage::Records { records, wanted, .. } => {
                let node =
                    |record: &Bytes| postcard::take_from_bytes::<NodeRecord>(record).map(|(record, _)| record.node);
                records.retain(|record| node(record).is_ok_and(|node| self.shown.contains(&node)));
                wanted.retain(|node| self.shown.contains(node));
            }
        }
        true
    }
}
