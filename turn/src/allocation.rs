//! One allocation: its relayed addresses, permissions and channels (RFC 8656, 3).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use smallvec::SmallVec;
use stun_types::message::TransactionId;

use crate::{
    channel_data::ChannelNumber,
    client::Client,
    credentials::CredentialName,
    limits::{
        CHANNEL_LIFETIME, CHANNEL_REST, MAX_CHANNELS, MAX_PEERS_IN_REQUEST, MAX_PERMISSIONS, PERMISSION_LIFETIME,
    },
    peer_filter::PeerFilter,
    source::Source,
    source_limiter::EventCounter,
    time::Seconds,
    traffic::TrafficLimiter,
};

/// Permissions and channels that are stored within the allocation. Most calls use one pair of addresses.
const INLINE: usize = 2;

/// The family of a relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: &IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The ports of the relayed addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayPorts {
    pub(crate) v4: Option<u16>,
    pub(crate) v6: Option<u16>,
}

impl RelayPorts {
    /// The port of a family.
    pub const fn get(&self, family: Family) -> Option<u16> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Whether the allocation has an address of each family.
    pub(crate) const fn is_dual(&self) -> bool {
        self.v4.is_some() && self.v6.is_some()
    }

    pub(crate) const fn get_mut(&mut self, family: Family) -> &mut Option<u16> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// A client's allocation.
#[derive(Debug)]
pub struct Allocation {
    pub(crate) client: Client,
    pub(crate) source: Source,
    pub(crate) credential: CredentialName,
    /// The transaction of the Allocate request. A retransmission of it gets the same response.
    pub(crate) transaction: TransactionId,
    pub(crate) ports: RelayPorts,
    /// Why a dual allocation has no IPv6 address.
    pub(crate) missing: Option<u16>,
    pub(crate) expires: Seconds,
    /// When its expiry is checked next: no later than it expires.
    pub(crate) checked_at: Seconds,
    /// The client's requests with a nonce that was made for it. A neighbour at its address must not use them up.
    pub(crate) requests: EventCounter,
    /// Each direction has its own limit: packets from peers must not use up the client's rate.
    pub(crate) to_peers: TrafficLimiter,
    pub(crate) to_client: TrafficLimiter,
    /// The version of the peer filter that was applied last.
    pub(crate) filter_version: u32,
    /// The share of the client's network. Its allocations have it in common.
    pub(crate) share: Arc<TrafficLimiter>,
    /// The first [`INLINE`] entries are stored within the allocation. Each packet reads them, and with many allocations a
    /// separate list would not be in the processor's cache.
    permissions: SmallVec<[Permission; INLINE]>,
    channels: SmallVec<[Channel; INLINE]>,
}

#[derive(Clone, Copy, Debug)]
struct Permission {
    ip: IpAddr,
    expires: Seconds,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    peer: SocketAddr,
    expires: Seconds,
}

/// Why a permission or channel was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdded {
    /// The allocation has its maximum number of permissions or channels.
    Full,
    /// The channel number is bound to another peer, or the peer to another channel number.
    Bound,
}

impl Allocation {
    pub(crate) fn new(
        client: Client,
        source: Source,
        credential: CredentialName,
        transaction: TransactionId,
        [now, expires]: [Seconds; 2],
        [to_peers, to_client]: [TrafficLimiter; 2],
        share: Arc<TrafficLimiter>,
    ) -> Self {
        let ports = RelayPorts { v4: None, v6: None };
        let (permissions, channels) = (SmallVec::new(), SmallVec::new());
        Self {
            client,
            source,
            credential,
            transaction,
            ports,
            expires,
            checked_at: expires,
            requests: EventCounter::new(now),
            to_peers,
            to_client,
            filter_version: 0,
            share,
            missing: None,
            permissions,
            channels,
        }
    }

    /// Whether there is an unexpired permission for an address.
    pub(crate) fn permits(&self, ip: IpAddr, now: Seconds) -> bool {
        self.permissions.iter().any(|permission| permission.ip == ip && permission.expires > now)
    }

    /// Returns the peer of a channel.
    pub(crate) fn peer_of(&self, number: ChannelNumber, now: Seconds) -> Option<SocketAddr> {
        let channel = self.channels.iter().find(|channel| channel.number == number)?;
        (channel.expires > now).then_some(channel.peer)
    }

    /// Returns the channel of a peer.
    pub(crate) fn channel_of(&self, peer: SocketAddr, now: Seconds) -> Option<ChannelNumber> {
        let channel = self.channels.iter().find(|channel| channel.peer == peer)?;
        (channel.expires > now).then_some(channel.number)
    }

    /// Installs or renews permissions. On error, none is changed.
    pub(crate) fn permit(&mut self, ips: &[IpAddr], now: Seconds) -> Result<(), NotAdded> {
        debug_assert!(ips.len() <= MAX_PEERS_IN_REQUEST, "the request was checked");
        self.permissions.retain(|permission| permission.expires > now);
        let is_new = |ip: &IpAddr| !self.permissions.iter().any(|permission| permission.ip == *ip);
        let count_new = ips.iter().enumerate().filter(|(index, ip)| is_new(ip) && !ips[..*index].contains(*ip)).count();
        if self.permissions.len() + count_new > MAX_PERMISSIONS {
            return Err(NotAdded::Full);
        }
        let expires = now.plus(PERMISSION_LIFETIME);
        for ip in ips {
            match self.permissions.iter_mut().find(|permission| permission.ip == *ip) {
                Some(permission) => permission.expires = expires,
                None => self.permissions.push(Permission { ip: *ip, expires }),
            }
        }
        Ok(())
    }

    /// Binds or renews a channel, and installs or renews the permission of its peer. On error, no binding is changed.
    pub(crate) fn bind(&mut self, number: ChannelNumber, peer: SocketAddr, now: Seconds) -> Result<(), NotAdded> {
        // An expired binding stays reserved for `CHANNEL_REST`: its packets may still be in flight.
        self.channels.retain(|channel| channel.expires.plus(CHANNEL_REST) > now);
        let is_same = |channel: &Channel| channel.number == number && channel.peer == peer;
        if self.channels.iter().any(|other| !is_same(other) && (other.number == number || other.peer == peer)) {
            return Err(NotAdded::Bound);
        }
        let existing = self.channels.iter().position(is_same);
        if existing.is_none() && self.channels.len() >= MAX_CHANNELS {
            return Err(NotAdded::Full);
        }
        self.permit(&[peer.ip()], now)?;
        let channel = Channel { number, peer, expires: now.plus(CHANNEL_LIFETIME) };
        match existing {
            Some(index) => self.channels[index] = channel,
            None => self.channels.push(channel),
        }
        Ok(())
    }

    /// Removes the channels and permissions of peers that the filter refuses.
    pub(crate) fn remove_refused_peers(&mut self, filter: &PeerFilter) {
        self.channels.retain(|channel| filter.allows(channel.peer));
        // A permission is for all ports. Each Send is checked with its port.
        self.permissions.retain(|permission| filter.allows_some_port(permission.ip));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::traffic::PacketClock;

    fn allocation() -> (Allocation, Seconds) {
        let start = Instant::now();
        let now = Seconds::between(start, start);
        let addr = SocketAddr::from(([192, 0, 2, 1], 1));
        let (client, credential) = (Client::Udp { socket: 0, addr }, CredentialName::new(1, 2));
        let traffic = [(); 2].map(|()| TrafficLimiter::new(1, PacketClock::default()));
        let share = Arc::new(TrafficLimiter::new(1, PacketClock::default()));
        (
            Allocation::new(client, Source::of(addr.ip()), credential, 7.into(), [now, now.plus(600)], traffic, share),
            now,
        )
    }

    fn ip(last: u16) -> IpAddr {
        [8, 8, last.to_be_bytes()[0], last.to_be_bytes()[1]].into()
    }

    fn number(last: u16) -> ChannelNumber {
        ChannelNumber::new(0x4000 + last).expect("in range")
    }

    // Class 18 of docs/protocol/turn.md.
    #[test]
    fn permissions_are_bounded_and_all_or_none_of_a_request_are_installed() {
        let (mut allocation, now) = allocation();
        for index in 0..62 {
            assert_eq!(allocation.permit(&[ip(index)], now), Ok(()));
        }
        assert_eq!(allocation.permit(&[ip(100), ip(100), ip(0)], now), Ok(()), "one of them is new");
        assert_eq!(allocation.permit(&[ip(101), ip(102)], now), Err(NotAdded::Full));
        assert!(!allocation.permits(ip(101), now));
        assert!((200..10_000).filter(|index| allocation.permit(&[ip(*index)], now).is_ok()).count() == 1);
        assert_eq!(allocation.permit(&[ip(0)], now.plus(299)), Ok(()));
        let later = now.plus(300);
        assert!(allocation.permits(ip(0), later) && !allocation.permits(ip(1), later));
        assert_eq!(allocation.permit(&[ip(101), ip(102)], later), Ok(()), "expired ones have gone");
    }

    #[test]
    fn a_channel_has_one_peer_and_a_peer_one_channel() {
        let (mut allocation, now) = allocation();
        let peer = |port: u16| SocketAddr::new(ip(1), port);
        assert_eq!(allocation.bind(number(0), peer(1), now), Ok(()));
        assert_eq!(allocation.bind(number(0), peer(2), now), Err(NotAdded::Bound));
        assert_eq!(allocation.bind(number(1), peer(1), now), Err(NotAdded::Bound));
        assert_eq!(allocation.bind(number(1), peer(2), now), Ok(()));
        assert_eq!(allocation.peer_of(number(0), now), Some(peer(1)));
        assert_eq!(allocation.channel_of(peer(2), now), Some(number(1)));
        assert!(allocation.permits(ip(1), now.plus(299)) && !allocation.permits(ip(1), now.plus(300)));
        // A channel whose permission does not fit is not bound.
        let (mut full, _) = self::allocation();
        (0..64).for_each(|index| full.permit(&[ip(100 + index)], now).expect("it fits"));
        assert_eq!(full.bind(number(2), (ip(2), 1).into(), now), Err(NotAdded::Full));
        assert_eq!(full.peer_of(number(2), now), None);
        // An expired channel cannot get another peer until `CHANNEL_REST` has passed.
        let expired = now.plus(CHANNEL_LIFETIME);
        assert_eq!((allocation.peer_of(number(0), expired), allocation.channel_of(peer(1), expired)), (None, None));
        assert_eq!(allocation.bind(number(0), peer(3), expired), Err(NotAdded::Bound));
        assert_eq!(allocation.bind(number(0), peer(1), expired), Ok(()));
        assert_eq!(allocation.bind(number(1), peer(3), expired.plus(CHANNEL_REST)), Ok(()));
    }

    #[test]
    fn channels_are_bounded() {
        let (mut allocation, now) = allocation();
        let bound = (0..200).filter(|port| allocation.bind(number(*port), (ip(1), 1 + port).into(), now).is_ok());
        assert_eq!(bound.count(), MAX_CHANNELS);
    }
}
