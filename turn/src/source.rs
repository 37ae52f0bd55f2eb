//! The networks that clients come from. Limits apply to each network.

use std::{fmt, net::IpAddr};

/// The network that a client comes from: an IPv4 address or an IPv6 /64, the range of one household or server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source([u8; 8]);

impl Source {
    /// The source of an address.
    pub fn of(ip: IpAddr) -> Self {
        let mut source = [0; 8];
        match ip.to_canonical() {
            // No client address is in ::/64, so the two families cannot collide.
            IpAddr::V4(ip) => source[4..].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => source.copy_from_slice(&ip.octets()[..8]),
        }
        Self(source)
    }
}

/// The network of a source: an IPv4 /24 or an IPv6 /48, the range of one office or provider's customer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network([u8; 6]);

impl Network {
    /// The network of an address.
    pub fn of(ip: IpAddr) -> Self {
        let mut network = [0; 6];
        match ip.to_canonical() {
            // No client address is in ::/24, so the two families cannot collide.
            IpAddr::V4(ip) => network[3..].copy_from_slice(&ip.octets()[..3]),
            IpAddr::V6(ip) => network.copy_from_slice(&ip.octets()[..6]),
        }
        Self(network)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network([redacted])")
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_24_and_an_ipv6_48_are_networks() {
        let of = |ip: &str| Network::of(ip.parse().expect("an address"));
        assert_eq!(of("203.0.113.1"), of("203.0.113.255"));
        assert_eq!(of("203.0.113.1"), of("::ffff:203.0.113.9"));
        assert_ne!(of("203.0.113.1"), of("203.0.112.1"));
        assert_eq!(of("2001:db8:1::1"), of("2001:db8:1:ffff::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_64_are_sources() {
        let of = |ip: &str| Source::of(ip.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("203.0.113.1"), of("203.0.113.2"));
        assert_eq!(of("203.0.113.1"), of("::ffff:203.0.113.1"));
    }
}
