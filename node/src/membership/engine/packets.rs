//! Packets of members: decoded and judged whole, before the library sees what is left of them.

use bytes::Bytes;
use chappe_common::keys::NodeId;
use foca::{Header, Member, Message, State as Said};

use super::{Engine, Now, Output};
use crate::membership::{
    counts::Reason,
    gossip::Gossip,
    member::MemberId,
    member_table::{LearnedVia, State},
    packet::Packet,
};

impl Engine {
    /// Takes a packet that came over the link to `from`.
    pub fn packet(&mut self, now: Now, from: NodeId, packet: &Bytes) {
        if self.own.has_left {
            return;
        }
        if let Err(reason) = self.take_packet(now, from, packet) {
            self.counts.refuse(reason);
        }
        self.settle(now);
    }

    fn take_packet(&mut self, now: Now, from: NodeId, packet: &Bytes) -> Result<(), Reason> {
        if !self.reputation.may_send(now.at, from) {
            return Err(Reason::Rate);
        }
        let packet = Packet::decode(packet).map_err(|_| Reason::Malformed)?;
        match self.table.get(&from).map(|entry| entry.state) {
            Some(State::Up) => {}
            Some(State::Lost { .. }) => {
                // It is there after all, or at least its words arrive: a dial will tell.
                if let Some(record) = self.records.any(&from) {
                    self.claim(now, &record, None, LearnedVia::News);
                }
            }
            _ => return Err(Reason::Stranger),
        }
        match packet {
            Packet::Probe(number) => {
                self.heard(now, from);
                self.outputs.push_back(Output::Send { to: from, packet: Packet::Answer(number).encode() });
            }
            Packet::Answer(_) => self.heard(now, from),
            Packet::Swim(packet) => {
                let epoch = self.table.up(&from).ok_or(Reason::Stranger)?;
                let gossip = Gossip::decode(&packet).map_err(|_| Reason::Malformed)?;
                self.judge_header(&gossip.header, MemberId { node: from, epoch })?;
                self.heard(now, from);
                for update in &gossip.updates {
                    if let Err(reason) = self.take_update(now, from, update) {
                        self.counts.refuse(reason);
                    }
                }
                for item in gossip.items {
                    if let Err(reason) = self.take_item(now, from, item) {
                        self.counts.refuse(reason);
                        if matches!(reason, Reason::Signature | Reason::Malformed) {
                            // Nobody passes on what it hasn't verified.
                            self.reputation.penalize(now.at, from);
                        }
                    }
                }
                if !matches!(gossip.header.message, Message::Gossip | Message::Broadcast) {
                    self.swim.handle(now.at, &gossip.header);
                }
            }
        }
        Ok(())
    }

    /// Whether a packet is from the member that the link proves to this run of this node, and asks for nothing that it
    /// may not.
    fn judge_header(&self, header: &Header<MemberId>, from: MemberId) -> Result<(), Reason> {
        if header.src.node != from.node || header.dst.node != self.own.id {
            return Err(Reason::Forged);
        }
        if header.src.epoch != from.epoch || header.dst.epoch != self.own.record.epoch {
            return Err(Reason::Epoch);
        }
        if header.src_incarnation != 0 {
            return Err(Reason::Incarnation);
        }
        let is_up = |id: &MemberId| self.table.up(&id.node) == Some(id.epoch);
        match &header.message {
            Message::Ping(_)
            | Message::Ack(_)
            | Message::IndirectPing { .. }
            | Message::ForwardedAck { .. }
            | Message::Gossip
            | Message::Broadcast => Ok(()),
            // What is asked for is a packet to a third party: a member, or nobody.
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. } if is_up(target) => Ok(()),
            Message::PingReq { .. } | Message::IndirectAck { .. } => Err(Reason::Stranger),
            // Joining goes by links and exchanges, and nobody tells another that it is down.
            Message::Announce | Message::Feed | Message::TurnUndead => Err(Reason::Kind),
        }
    }

    /// What a member says of a third party.
    fn take_update(&mut self, now: Now, from: NodeId, update: &Member<MemberId>) -> Result<(), Reason> {
        let id = update.id();
        if update.state() != Said::Alive {
            return Err(Reason::Hearsay);
        }
        if update.incarnation() != 0 {
            return Err(Reason::Incarnation);
        }
        if id.node == self.own.id || self.table.up(&id.node).is_some_and(|epoch| epoch >= id.epoch) {
            return Ok(());
        }
        // Its record comes by itself. Without one there is nobody to ask.
        let Some(record) = self.records.any(&id.node) else { return Ok(()) };
        if id.epoch > record.epoch {
            return Err(Reason::Epoch);
        }
        if self.table.get(&id.node).is_none_or(|entry| !matches!(entry.state, State::Lost { .. })) {
            return Ok(());
        }
        if !self.reputation.may_claim(now.at, from) {
            return Err(Reason::Rate);
        }
        self.claim(now, &record, Some(from), LearnedVia::News);
        Ok(())
    }
}
