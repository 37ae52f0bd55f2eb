//! CreatePermission and ChannelBind (RFC 8656, 10 and 12).

use std::net::{IpAddr, SocketAddr};

use stun_types::{
    attribute::{Attribute as _, AttributeStaticType as _, ErrorCode},
    message::Message,
};
use turn_types::attribute::{ChannelNumber, XorPeerAddress};

use super::{Server, allocate::optional, authentication::User, check_known};
use crate::{
    allocation::{Family, NotAdded},
    channel_data,
    client::Client,
    limits::MAX_PEERS_IN_REQUEST,
    response::{self, Refusal},
    table::AllocationId,
    time::Now,
};

impl From<NotAdded> for Refusal {
    fn from(not_added: NotAdded) -> Self {
        Self::Code(match not_added {
            NotAdded::Full => ErrorCode::INSUFFICIENT_CAPACITY,
            NotAdded::Bound => ErrorCode::BAD_REQUEST,
        })
    }
}

impl Server {
    pub(super) fn create_permission(
        &mut self,
        client: Client,
        message: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        check_known(message, &[XorPeerAddress::TYPE])?;
        let id = self.allocation_of(client, user)?;
        let count = message.iter_attributes().filter(|(_, one)| one.get_type() == XorPeerAddress::TYPE).count();
        if !(1..=MAX_PEERS_IN_REQUEST).contains(&count) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        // CreatePermission ignores the port (RFC 8656, 10.2). Each Send is checked with its port.
        let allows = |peer: SocketAddr| self.filter.allows_some_port(peer.ip());
        let peers = (0..count).map(|index| self.peer(id, message, index, allows)).collect::<Result<Vec<_>, _>>()?;
        let ips: Vec<IpAddr> = peers.iter().map(SocketAddr::ip).collect();
        let seconds = self.seconds(now);
        self.apply_filter(id);
        self.table.get_mut(id).expect("just found").permit(&ips, seconds)?;
        Ok(response::success(message, &[], Some(&user.signer)))
    }

    pub(super) fn bind_channel(
        &mut self,
        client: Client,
        message: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        check_known(message, &[XorPeerAddress::TYPE, ChannelNumber::TYPE])?;
        let id = self.allocation_of(client, user)?;
        let number = optional::<ChannelNumber>(message)?.ok_or(ErrorCode::BAD_REQUEST)?;
        let number = channel_data::ChannelNumber::new(number.channel()).ok_or(ErrorCode::BAD_REQUEST)?;
        let peer = self.peer(id, message, 0, |peer| self.filter.allows(peer))?;
        let seconds = self.seconds(now);
        self.apply_filter(id);
        self.table.get_mut(id).expect("just found").bind(number, peer, seconds)?;
        Ok(response::success(message, &[], Some(&user.signer)))
    }

    /// Returns the peer address at `index` in a request, if packets may be sent to it.
    fn peer(
        &self,
        id: AllocationId,
        message: &Message<'_>,
        index: usize,
        allows: impl Fn(SocketAddr) -> bool,
    ) -> Result<SocketAddr, Refusal> {
        let peer = message.nth_attribute::<XorPeerAddress>(index).map_err(|_| ErrorCode::BAD_REQUEST)?;
        let peer = canonical(peer.addr(message.transaction_id()));
        if !allows(peer) {
            return Err(ErrorCode::FORBIDDEN.into());
        }
        if self.table.get(id).and_then(|allocation| allocation.ports.get(Family::of(&peer.ip()))).is_none() {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH.into());
        }
        Ok(peer)
    }
}

/// Converts an IPv4-mapped address to IPv4: packets to it would be sent over IPv4.
pub(super) fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
