//! Packets that lie: about who sent them, about others, about runs; and packets that are none.

use std::time::Duration;

use chappe_node::membership::{exchange::ExchangeMessage, member::MemberId, packet::Packet};
use foca::{Header, Member, Message, State};
use rand::RngExt as _;

use super::{Behaviour, Puppet};

/// How many honest nodes hear it at a time, and how often: within what one peer may send.
const HEARERS: usize = 5;
const EVERY: Duration = Duration::from_millis(200);
/// Updates in one packet.
const UPDATES: usize = 16;

/// A lie in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Packets in the name of others: pings, and that third parties are down.
    ForgedSender,
    /// That others are down or suspect.
    Hearsay,
    /// That the hearer itself, and others, are down.
    TurnUndead,
    /// Runs that nobody has begun, of others and of itself.
    Epochs,
    /// Incarnations that outdo every other, of others and of itself.
    Incarnations,
    /// Bytes that are no packets, and messages that are none of an exchange.
    Garbage,
    /// More packets than anybody may send.
    Flood,
}

impl Words {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ForgedSender,
        Self::Hearsay,
        Self::TurnUndead,
        Self::Epochs,
        Self::Incarnations,
        Self::Garbage,
        Self::Flood,
    ];
}

fn raised(id: MemberId) -> MemberId {
    MemberId { epoch: id.epoch + 1000, ..id }
}

impl Behaviour for Words {
    fn every(&self) -> Duration {
        EVERY
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        for to in me.some_honest(HEARERS) {
            self.lie(me, to);
        }
    }
}

impl Words {
    fn lie(self, me: &mut Puppet<'_>, to: MemberId) {
        let others = me.some_honest(UPDATES);
        let Some(&other) = others.iter().find(|other| **other != to) else { return };
        let down: Vec<_> = others.iter().map(|id| Member::down(*id)).collect();
        let number = me.rng.random();
        match self {
            Self::ForgedSender => {
                for message in [Message::Gossip, Message::Ping(number), Message::Ack(number)] {
                    me.send_swim(to.node, &Header { src: other, ..me.header(to, message) }, &down, &[]);
                }
            }
            Self::Hearsay => {
                let suspects: Vec<_> = others.iter().map(|id| Member::new(*id, 0, State::Suspect)).collect();
                me.gossip(to, &down, &[]);
                me.gossip(to, &suspects, &[]);
                me.gossip(to, &[Member::down(to)], &[]);
                me.send_swim(to.node, &me.header(to, Message::Ping(number)), &down, &[]);
            }
            Self::TurnUndead => {
                me.send_swim(to.node, &me.header(to, Message::TurnUndead), &[], &[]);
                me.send_swim(to.node, &Header { src: other, ..me.header(to, Message::TurnUndead) }, &[], &[]);
                me.send_swim(to.node, &me.header(to, Message::Feed), &down, &[]);
                me.send_swim(to.node, &me.header(to, Message::Announce), &[], &[]);
            }
            Self::Epochs => {
                let later: Vec<_> = others.iter().map(|id| Member::alive(raised(*id))).collect();
                me.gossip(to, &later, &[]);
                me.send_swim(to.node, &Header { src: raised(me.me), ..me.header(to, Message::Ping(number)) }, &[], &[]);
                let request = Message::PingReq { target: raised(other), probe_number: number };
                me.send_swim(to.node, &me.header(to, request), &[], &[]);
            }
            Self::Incarnations => {
                let highest: Vec<_> = others.iter().map(|id| Member::new(*id, u16::MAX, State::Alive)).collect();
                let down: Vec<_> = others.iter().map(|id| Member::new(*id, u16::MAX, State::Down)).collect();
                me.gossip(to, &highest, &[]);
                me.gossip(to, &down, &[]);
                let header = Header { src_incarnation: u16::MAX, ..me.header(to, Message::Ping(number)) };
                me.send_swim(to.node, &header, &[], &[]);
            }
            Self::Garbage => {
                let len = me.rng.random_range(0..1400);
                let bytes: Vec<u8> = (0..len).map(|_| me.rng.random()).collect();
                me.send(to.node, bytes.clone());
                me.send(to.node, Packet::Swim(bytes.into()).encode());
                me.send_swim(to.node, &me.header(to, Message::Gossip), &[], &[vec![9; 40], vec![0; 60], vec![2; 90]]);
                me.say(to.node, ExchangeMessage::Summary { buckets: vec![number.into(); 3], beacon: u64::MAX });
                let buckets = vec![number; 300];
                me.say(to.node, ExchangeMessage::Members { buckets, members: Vec::new(), beacon: None, newest: 7 });
            }
            Self::Flood => {
                for _ in 0..100 {
                    me.send(to.node, Packet::Probe(number.into()).encode());
                }
            }
        }
    }
}
