//! Data between clients and peers (RFC 8656, 11 and 12).
//!
//! If the peer is another allocation of this server, the packet goes directly to that allocation's client. The same checks
//! apply as if the packet had left the machine and come back.

use std::{net::SocketAddr, ops::Range};

use rand::RngExt as _;
use stun_types::{attribute::AttributeStaticType as _, message::Message};
use turn_types::attribute::{Data, XorPeerAddress};

use super::{Action, RelayId, Server, check_known, permissions::canonical};
use crate::{
    allocation::Family,
    channel_data,
    client::Client,
    counters::DropReason,
    packet::{HEADROOM, Packet},
    table::AllocationId,
    time::Now,
};

impl Server {
    pub(super) fn relay_channel_data(&mut self, client: Client, packet: Packet<'_>, now: Now) -> Action {
        let bytes = packet.bytes();
        let Some((number, len)) = channel_data::parse(bytes) else { return self.drop(DropReason::Malformed) };
        let end = channel_data::HEADER + len;
        // Over UDP, a packet may be longer than its length field says (RFC 8656, 12.5).
        if end > bytes.len() {
            return self.drop(DropReason::Malformed);
        }
        let Some(id) = self.table.find(&client) else { return self.drop(DropReason::NoAllocation) };
        self.apply_filter(id);
        let peer = self.table.get(id).and_then(|allocation| allocation.peer_of(number, self.seconds(now)));
        let Some(peer) = peer else { return self.drop(DropReason::NoChannel) };
        let data = packet.range(channel_data::HEADER..end);
        self.relay_to_peer(id, peer, data, packet, now)
    }

    /// Parses a Send indication. Returns the allocation, the peer, and the range of the data in the buffer.
    pub(super) fn find_sent(
        &self,
        client: Client,
        message: &Message<'_>,
    ) -> Result<(AllocationId, SocketAddr, Range<usize>), DropReason> {
        let id = self.table.find(&client).ok_or(DropReason::NoAllocation)?;
        check_known(message, &[XorPeerAddress::TYPE, Data::TYPE]).map_err(|_| DropReason::Malformed)?;
        let peer = message.attribute::<XorPeerAddress>().map_err(|_| DropReason::Malformed)?;
        let peer = canonical(peer.addr(message.transaction_id()));
        let (offset, data) = message.raw_attribute_and_offset(Data::TYPE).ok_or(DropReason::Malformed)?;
        if !self.filter.allows(peer) {
            return Err(DropReason::PeerNotAllowed);
        }
        let from = HEADROOM + offset + 4;
        Ok((id, peer, from..from + data.value.len()))
    }

    /// Relays data of a client to a peer, if the allocation has a permission for the peer and the rates allow it.
    pub(super) fn relay_to_peer(
        &mut self,
        id: AllocationId,
        peer: SocketAddr,
        data: Range<usize>,
        packet: Packet<'_>,
        now: Now,
    ) -> Action {
        let family = Family::of(&peer.ip());
        let seconds = self.seconds(now);
        self.apply_filter(id);
        let allocation = self.table.get(id).expect("just found");
        if !allocation.permits(peer.ip(), seconds) {
            return self.drop(DropReason::NoPermission);
        }
        let Some(port) = allocation.ports.get(family) else { return self.drop(DropReason::NoPermission) };
        let bytes = wire_len(family, data.len());
        if !allocation.to_peers.allows(bytes) {
            return self.drop(DropReason::AllocationRate);
        }
        let external = self.external(family).expect("a family with a port has an address");
        if peer.ip() != external {
            if !self.count_relayed(id, bytes) {
                return self.drop(DropReason::TotalRate);
            }
            return Action::ToPeer { relay: RelayId { allocation: id, family }, peer, data };
        }
        let Some(other) = self.table.find_port(family, peer.port()) else {
            return self.drop(DropReason::NoPermission);
        };
        let action = self.relay_to_client(other, id, SocketAddr::new(external, port), data, packet, now);
        if action != Action::Nothing {
            self.counters.hairpinned += 1;
        }
        action
    }

    /// Handles a packet that a peer sent to a relayed address.
    pub fn handle_peer(&mut self, relay: RelayId, peer: SocketAddr, packet: Packet<'_>, now: Now) -> Action {
        self.set_clock(now);
        let data = packet.range(0..packet.bytes().len());
        self.relay_to_client(relay.allocation, relay.allocation, peer, data, packet, now)
    }

    /// Relays data to the client of an allocation, if the allocation has a permission for its sender. The packet counts in
    /// the share of the network of `payer`: that of the sender if both are clients.
    fn relay_to_client(
        &mut self,
        id: AllocationId,
        payer: AllocationId,
        peer: SocketAddr,
        data: Range<usize>,
        mut packet: Packet<'_>,
        now: Now,
    ) -> Action {
        let seconds = self.seconds(now);
        self.apply_filter(id);
        let Some(allocation) = self.table.get(id) else { return self.drop(DropReason::NoAllocation) };
        if !allocation.permits(peer.ip(), seconds) {
            return self.drop(DropReason::NoPermission);
        }
        let (client, channel) = (allocation.client, allocation.channel_of(peer, seconds));
        let bytes = wire_len(Family::of(&peer.ip()), data.len());
        if !allocation.to_client.allows(bytes) {
            return self.drop(DropReason::AllocationRate);
        }
        if !self.count_relayed(payer, bytes) {
            return self.drop(DropReason::TotalRate);
        }
        let data = match channel {
            Some(number) => packet.channel_data(number, data, client.is_stream()),
            None => packet.data_indication(peer, data, self.rng.random()),
        };
        Action::ToClient { client, data }
    }

    /// Counts a relayed packet. Returns `false` if it would exceed the rate of all allocations.
    fn count_relayed(&mut self, payer: AllocationId, bytes: usize) -> bool {
        let Some(allocation) = self.table.get(payer) else { return false };
        let is_allowed = self.total.allows(bytes, &allocation.share);
        if is_allowed {
            self.counters.packets += 1;
            self.counters.bytes += bytes as u64;
        }
        is_allowed
    }
}

/// The bytes of a packet on the wire, with the headers of IP and UDP.
const fn wire_len(family: Family, payload: usize) -> usize {
    payload
        + match family {
            Family::V4 => 20 + 8,
            Family::V6 => 40 + 8,
        }
}
