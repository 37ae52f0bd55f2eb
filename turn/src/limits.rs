//! The bounds of the server, and why each has its size.

use std::{net::IpAddr, ops::RangeInclusive};

/// Permissions of an allocation. A call needs one for each candidate of the other side: about ten.
pub const MAX_PERMISSIONS: usize = 64;

/// Channels of an allocation. The same number as permissions, since each channel installs a permission.
pub const MAX_CHANNELS: usize = MAX_PERMISSIONS;

/// Peers in one CreatePermission.
pub const MAX_PEERS_IN_REQUEST: usize = 16;

/// Lifetime of an allocation without LIFETIME, in seconds (RFC 8656, 3.2).
pub const DEFAULT_LIFETIME: u32 = 600;

/// The longest lifetime of an allocation, in seconds (RFC 8656, 7.2).
pub const MAX_LIFETIME: u32 = 3600;

/// Lifetime of a permission, in seconds (RFC 8656, 9).
pub const PERMISSION_LIFETIME: u32 = 300;

/// Lifetime of a channel, in seconds (RFC 8656, 12).
pub const CHANNEL_LIFETIME: u32 = 600;

/// How long an expired channel's number and peer cannot be bound to others, in seconds (RFC 8656, 12).
pub const CHANNEL_REST: u32 = 300;

/// Maximum number of ports tried for an allocation. A try fails if another program uses the port.
pub const MAX_BINDS: usize = 8;

/// Once half of all allocations are taken, a network (IPv4 /24, IPv6 /48) gets one part in this many at most. So the other half
/// needs at least two further networks. Until then a network takes what others leave: behind the addresses of a carrier's NAT
/// there may be thousands of clients.
pub(crate) const NETWORK_PART: usize = 4;

/// The limits that an operator sets.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most allocations.
    pub allocations: usize,
    /// The most allocations of one credential. A browser takes one for each of its addresses and transports, and twice as
    /// many while it restarts ICE.
    pub allocations_per_credential: usize,
    /// The most allocations of one IPv4 address or IPv6 /64. Many clients can share one address.
    pub allocations_per_source: usize,
    /// Bytes a second that one allocation relays in each direction.
    pub allocation_bytes_per_second: u32,
    /// Bytes a second that all allocations relay.
    pub total_bytes_per_second: u32,
}

impl Limits {
    /// Whether a network with `of_network` of `all` allocations has its share. It is at least what one source may have.
    pub(crate) fn has_network_share(&self, of_network: usize, all: usize) -> bool {
        let share = (self.allocations / NETWORK_PART).max(self.allocations_per_source);
        all >= self.allocations / 2 && of_network >= share
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 2000,
            allocations_per_credential: 16,
            allocations_per_source: 256,
            // 1080p video, with room for a shared screen.
            allocation_bytes_per_second: 1_500_000,
            // A line of 1 Gbit/s.
            total_bytes_per_second: 125_000_000,
        }
    }
}

/// One external address of the relay.
#[derive(Clone, Debug)]
pub struct RelayAddress {
    /// The address as peers see it. Behind a NAT, not the address that the sockets are bound to. Until it is known, no
    /// allocation is made.
    pub external: Option<IpAddr>,
    /// The ports of allocations.
    pub ports: RangeInclusive<u16>,
}

/// The relay's addresses: at most one of each family.
#[derive(Clone, Debug, Default)]
pub struct RelayAddresses {
    /// For allocations of IPv4.
    pub v4: Option<RelayAddress>,
    /// For allocations of IPv6.
    pub v6: Option<RelayAddress>,
}
