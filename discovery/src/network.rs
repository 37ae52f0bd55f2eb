//! The network of an address. Attackers who run many nodes usually rent them in few networks.

use std::net::{IpAddr, SocketAddr};

/// An IPv4 /16, an IPv6 /32, or the registered domain of a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The first two bytes of the address.
    V4([u8; 2]),
    /// The first four bytes of the address.
    V6([u8; 4]),
    /// The last two labels of the name. Finding the registered domain exactly would take the public suffix list. Two
    /// sites below `co.uk` merely count as one network.
    Name(String),
}

impl Network {
    /// The network of an IP address.
    pub fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self::V4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::V6([a, b, c, d])
            }
        }
    }

    /// The network of the host in a WebSocket URL.
    pub fn of_url(url: &str) -> Self {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
        if let Ok(addr) = authority.parse::<SocketAddr>() {
            return Self::of_ip(addr.ip());
        }
        if let Ok(ip) = authority.trim_matches(['[', ']']).parse() {
            return Self::of_ip(ip);
        }
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let start = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        Self::Name(name[start..].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_different_networks_are_distinguished() {
        for (a, b, same) in [
            ("ws://192.0.2.1:80", "wss://192.0.99.1:8710/ws", true),
            ("ws://192.0.2.1:80", "ws://192.1.2.1:80", false),
            ("ws://[2001:db8:1::1]:80", "wss://[2001:db8:2::1]", true),
            ("ws://[2001:db8::1]:80", "ws://[2001:db9::1]:80", false),
            ("ws://[::ffff:192.0.2.1]:80", "ws://192.0.9.9", true),
            ("wss://a.example.org", "wss://B.Example.org.:443/", true),
            ("wss://example.org", "wss://example.net", false),
        ] {
            assert_eq!(Network::of_url(a) == Network::of_url(b), same, "{a} {b}");
        }
    }
}
