//! Old news, told again: records of former runs, leaves of who has come back, accusations that were disproved.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::keys::NodeId;
use chappe_node::membership::{Now, exchange::ExchangeMessage, gossip::Gossip, news::NewsKind, packet::Packet};
use rand::seq::IteratorRandom as _;

use super::{Behaviour, Puppet};

/// How much is remembered.
const REMEMBERED: usize = 400;
/// Items in one packet.
const ITEMS: usize = 3;

/// Remembers all news that it hears, and tells them for ever.
#[derive(Debug, Default)]
pub struct Replay {
    heard: Vec<Vec<u8>>,
}

impl Behaviour for Replay {
    fn every(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn hears(&mut self, _now: Now, _from: NodeId, packet: &Bytes) -> bool {
        if let Ok(Packet::Swim(packet)) = Packet::decode(packet)
            && let Ok(gossip) = Gossip::decode(&packet)
        {
            for item in gossip.items {
                if self.heard.len() < REMEMBERED && self.heard.iter().all(|heard| heard != item) {
                    self.heard.push(item.to_vec());
                }
            }
        }
        true
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        for to in me.some_honest(10) {
            let items: Vec<_> = self.heard.iter().sample(me.rng, ITEMS).into_iter().cloned().collect();
            me.gossip(to, &[], &items);
        }
        let records = self.heard.iter().filter_map(|item| match NewsKind::split(item) {
            Some((NewsKind::Record, note)) => Some(Bytes::copy_from_slice(note)),
            _ => None,
        });
        let records: Vec<_> = records.sample(me.rng, 50);
        for to in me.some_honest(1) {
            me.say(to.node, ExchangeMessage::Records { records: records.clone(), wanted: Vec::new(), beacon: None });
        }
    }
}
