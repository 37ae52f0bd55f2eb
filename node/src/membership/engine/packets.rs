//! Handles packets of members. The engine checks all of a packet before the library sees its header.

use bytes::Bytes;
use chappe_common::keys::NodeId;
use foca::{Header, Member, Message, State as SwimState};

use super::{Engine, Now, Output};
use crate::membership::{
    counts::Reason,
    gossip::Gossip,
    member::MemberId,
    member_table::{LearnedVia, State},
    packet::Packet,
};

impl Engine {
    /// Handles a packet that was received over the link to `from`.
    pub fn handle_packet(&mut self, now: Now, from: NodeId, packet: &Bytes) {
        if self.own.has_left {
            return;
        }
        if let Err(reason) = self.try_handle_packet(now, from, packet) {
            self.counts.refuse(reason);
        }
        self.push_outputs(now);
    }

    fn try_handle_packet(&mut self, now: Now, from: NodeId, packet: &Bytes) -> Result<(), Reason> {
        if !self.reputation.may_send(now.at, from) {
            return Err(Reason::Rate);
        }
        let packet = Packet::decode(packet).map_err(|_| Reason::Malformed)?;
        match self.table.get(&from).map(|entry| entry.state) {
            Some(State::Up) => {}
            Some(State::Lost { .. }) => {
                // It may be up again, which a dial will show.
                if let Some(record) = self.records.any(&from) {
                    self.claim(now, &record, None, LearnedVia::News);
                }
            }
            _ => return Err(Reason::Stranger),
        }
        match packet {
            Packet::Probe(number) => {
                self.mark_alive(now, from);
                self.outputs.push_back(Output::Send { to: from, packet: Packet::Answer(number).encode() });
            }
            Packet::Answer(_) => self.mark_alive(now, from),
            Packet::Swim(packet) => {
                let epoch = self.table.epoch_if_up(&from).ok_or(Reason::Stranger)?;
                let gossip = Gossip::decode(&packet).map_err(|_| Reason::Malformed)?;
                self.check_header(&gossip.header, MemberId { node: from, epoch })?;
                self.mark_alive(now, from);
                for update in &gossip.updates {
                    if let Err(reason) = self.handle_update(now, from, update) {
                        self.counts.refuse(reason);
                    }
                }
                for item in gossip.items {
                    if let Err(reason) = self.handle_item(now, from, item) {
                        self.counts.refuse(reason);
                        if matches!(reason, Reason::Signature | Reason::Malformed) {
                            // An honest member forwards only verified news.
                            self.reputation.penalize(now.at, from);
                        }
                    }
                }
                if !matches!(gossip.header.message, Message::Gossip | Message::Broadcast) {
                    self.swim.handle_header(now.at, &gossip.header);
                }
            }
        }
        Ok(())
    }

    /// Checks that a packet is from the link's peer, for this run of this node, and of an allowed type.
    fn check_header(&self, header: &Header<MemberId>, from: MemberId) -> Result<(), Reason> {
        if header.src.node != from.node || header.dst.node != self.own.id {
            return Err(Reason::Forged);
        }
        if header.src.epoch != from.epoch || header.dst.epoch != self.own.record.epoch {
            return Err(Reason::Epoch);
        }
        if header.src_incarnation != 0 {
            return Err(Reason::Incarnation);
        }
        let is_up = |id: &MemberId| self.table.epoch_if_up(&id.node) == Some(id.epoch);
        match &header.message {
            Message::Ping(_)
            | Message::Ack(_)
            | Message::IndirectPing { .. }
            | Message::ForwardedAck { .. }
            | Message::Gossip
            | Message::Broadcast => Ok(()),
            // The sender requests a packet to a third party, which has to be a member.
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. } if is_up(target) => Ok(()),
            Message::PingReq { .. } | Message::IndirectAck { .. } => Err(Reason::Stranger),
            // Nodes join by links and exchanges, and no member tells another that it is down.
            Message::Announce | Message::Feed | Message::TurnUndead => Err(Reason::Kind),
        }
    }

    /// Handles a member's statement about a third party.
    fn handle_update(&mut self, now: Now, from: NodeId, update: &Member<MemberId>) -> Result<(), Reason> {
        let id = update.id();
        if update.state() != SwimState::Alive {
            return Err(Reason::Hearsay);
        }
        if update.incarnation() != 0 {
            return Err(Reason::Incarnation);
        }
        if id.node == self.own.id || self.table.epoch_if_up(&id.node).is_some_and(|epoch| epoch >= id.epoch) {
            return Ok(());
        }
        // Without its record, the node can't be dialled. The record comes as news of its own.
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
