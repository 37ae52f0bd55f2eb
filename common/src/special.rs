//! Loopback, private and other special-purpose addresses, which are not public servers.
//!
//! A record, link or referral with such an address is a mistake, or an attempt to make others connect into their own
//! network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::Url;

use crate::endpoint::{Authority, NodeEndpoint};

/// The IANA IPv4 special-purpose registry, and multicast (RFC 5771). Globally reachable blocks are included: they hold
/// anycast services.
pub const SPECIAL_V4: [Ipv4Net; 18] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 31, 196, 0], 24),
    v4([192, 52, 193, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([192, 175, 48, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// The IANA IPv6 special-purpose registry within 2000::/3, without 6to4, which embeds an IPv4 address.
pub const SPECIAL_V6: [Ipv6Net; 4] = [
    // IETF protocol assignments: Teredo, benchmarking, ORCHID.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

const fn v4(ip: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]), prefix)
}

const fn v6(ip: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = ip;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Whether an address is in a special-purpose block, or an IPv6 address not of global unicast. An address that embeds
/// another is judged as it is.
pub fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => SPECIAL_V4.iter().any(|net| net.contains(&v4)),
        // All global unicast addresses that are assigned to hosts are in 2000::/3.
        IpAddr::V6(v6) => v6.segments()[0] >> 13 != 1 || SPECIAL_V6.iter().any(|net| net.contains(&v6)),
    }
}

/// Whether a public server may have this address.
pub fn is_public(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !is_special(ip) && !matches!(ip, IpAddr::V6(v6) if SIX_TO_FOUR.contains(&v6))
}

/// Whether a public server may have this host: a public address, or a name with a dot that is not reserved for local
/// use.
pub fn is_public_host(host: &str) -> bool {
    if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return is_public(ip);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let (_, top) = name.rsplit_once('.').unwrap_or(("", ""));
    // A numeric last label means an address in another notation: `127.1`, `0x7f.1`.
    let is_address = top.starts_with(|c: char| c.is_ascii_digit());
    !is_address
        && !matches!(top, "" | "localhost" | "local" | "internal" | "lan" | "home" | "test" | "invalid" | "onion")
        && !name.ends_with("home.arpa")
}

/// Whether a public server may have the URL's host.
pub fn is_public_url(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(is_public_host))
}

/// Whether a public server may have the endpoint's host.
pub fn is_public_endpoint(endpoint: &NodeEndpoint) -> bool {
    match endpoint.authority() {
        Authority::Addr(addr) => is_public(addr.ip()),
        // An IPv6 literal without a port keeps its brackets. A name has at most one colon.
        Authority::Name(name) if name.ends_with(']') => is_public_host(name),
        Authority::Name(name) => is_public_host(name.split(':').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_ranges_are_not_public_however_they_are_spelled() {
        for ip in [
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.1",
            "192.175.48.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "9.9.9.9",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2606:4700::1111",
            "2a01:4f8::1",
            "2003::1",
        ] {
            assert!(is_public(ip.parse().expect("an address")), "{ip}");
        }
    }

    #[test]
    fn names_for_local_use_and_odd_spellings_of_addresses_are_not_public() {
        for host in [
            "localhost",
            "node",
            "a.localhost",
            "printer.local",
            "db.internal",
            "x.lan",
            "127.1",
            "0x7f.0.0.1",
            "10.0.0.1",
            "[::1]",
            "[fe80::1]",
            "localhost.",
            "nas.home.arpa",
            "",
            ".",
        ] {
            assert!(!is_public_host(host), "{host}");
        }
        for host in ["relay.example.org", "relay.example.org.", "8.8.8.8", "[2606:4700::1111]", "a.b.c"] {
            assert!(is_public_host(host), "{host}");
        }
    }
}
