//! Which peer addresses packets may be sent to.
//!
//! The filter refuses all special-purpose addresses, also in each IPv6 spelling of an IPv4 address. It refuses the services
//! of this machine and of other members, and the networks that the operator denies. Information about a machine only closes
//! its ports; it never opens an address. The filter is called for each CreatePermission, ChannelBind and Send, with the
//! address that is then used.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use chappe_common::special::is_special;
use ipnet::IpNet;

/// The ports of a machine with a relay that packets may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayHost {
    /// The ports of its relay's allocations.
    pub relay_ports: RangeInclusive<u16>,
    /// Ports among them that belong to its services, and are refused.
    pub services: Vec<u16>,
}

/// The peer addresses that packets may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFilter {
    /// Special-purpose networks that the operator opens, such as a laboratory's.
    pub allowed: Vec<IpNet>,
    /// Networks that the operator closes.
    pub denied: Vec<IpNet>,
    /// The addresses of this machine and of other members. Packets may be sent only to the ports of their relays.
    pub relay_hosts: HashMap<IpAddr, RelayHost>,
}

impl PeerFilter {
    /// Whether packets may be sent to a peer.
    pub fn allows(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && self.allows_ip(peer.ip(), peer.port())
    }

    /// Whether packets may be sent to at least one port of an address.
    pub fn allows_some_port(&self, ip: IpAddr) -> bool {
        let hosts: Vec<_> = spelled(ip).filter_map(|ip| self.relay_hosts.get(&ip)).collect();
        let start = hosts.iter().map(|host| *host.relay_ports.start()).max().unwrap_or(1).max(1);
        let services: usize = hosts.iter().map(|host| host.services.len()).sum();
        // At least one of these `services + 1` ports is not a service.
        (0..=services)
            .filter_map(|more| start.checked_add(u16::try_from(more).ok()?))
            .any(|port| self.allows_ip(ip, port))
    }

    fn allows_ip(&self, ip: IpAddr, port: u16) -> bool {
        spelled(ip).all(|ip| {
            let is_relay = |host: &RelayHost| host.relay_ports.contains(&port) && !host.services.contains(&port);
            self.relay_hosts.get(&ip).is_none_or(is_relay)
                && !self.denied.iter().any(|net| net.contains(&ip))
                && (has_embedded(ip) || !is_special(ip) || self.allowed.iter().any(|net| net.contains(&ip)))
        })
    }
}

/// The address, and the IPv4 addresses to which packets to it may be forwarded.
fn spelled(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match ip {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(v6) => embedded(v6),
    };
    std::iter::once(ip).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

/// Whether the address embeds an IPv4 address, which is checked in its place.
fn has_embedded(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if embedded(v6)[0].is_some())
}

/// Returns the IPv4 addresses to which a packet to this IPv6 address may be forwarded.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let octets = ip.octets();
    let at = |index: usize| {
        let four: [u8; 4] = octets[index..index + 4].try_into().expect("four bytes");
        Ipv4Addr::from(four)
    };
    match ip.segments() {
        // The unspecified and loopback addresses of IPv6 are not IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible (RFC 4291, 2.5.5.1), IPv4-mapped (2.5.5.2), and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [Some(at(12)), None],
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [Some(at(12)), None],
        // Teredo (RFC 4380, 4): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => [Some(at(4)), Some(Ipv4Addr::from(!u32::from(at(12))))],
        // 6to4 (RFC 3056).
        [0x2002, ..] => [Some(at(2)), None],
        // ISATAP (RFC 5214, 6.1). Its prefix is checked as well.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] if !is_special(ip.into()) => [Some(at(12)), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use chappe_common::special::{SPECIAL_V4, SPECIAL_V6};
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;

    /// The IPv6 spellings of an IPv4 address.
    fn spellings(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = ip.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let inverted = (!high, !low);
        let mut all = vec![
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2002, high, low, 7, 1, 2, 3, 4),
            Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0x8000, 0x1234, inverted.0, inverted.1),
            Ipv6Addr::new(0x2001, 0, high, low, 0x8000, 0x1234, !0x0808, !0x0808),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, high, low),
            Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, high, low),
        ];
        // For 0.0.0.0 and 0.0.0.1 these are `::` and `::1`, which are refused as well.
        all.push(Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low));
        all
    }

    fn is_allowed(filter: &PeerFilter, ip: impl Into<IpAddr>) -> bool {
        filter.allows(SocketAddr::new(ip.into(), 40_000))
    }

    // Class 3 of docs/protocol/turn.md.
    fn is_the_same_in_each_spelling(filter: &PeerFilter, ip: Ipv4Addr) {
        for spelled in spellings(ip) {
            assert_eq!(is_allowed(filter, spelled), is_allowed(filter, ip), "{ip} as {spelled}");
        }
    }

    proptest! {
        #[test]
        fn each_spelling_of_an_address_is_allowed_if_the_address_is(ip: u32, opened: u32, prefix in 0_u8..=32) {
            let opened = Ipv4Net::new(opened.into(), prefix).expect("a prefix").trunc();
            is_the_same_in_each_spelling(&PeerFilter::default(), ip.into());
            // 8.8.8.8 is the other end of the Teredo spellings.
            prop_assume!(!opened.contains(&Ipv4Addr::new(8, 8, 8, 8)));
            let filter = PeerFilter { denied: vec![opened.into()], ..PeerFilter::default() };
            is_the_same_in_each_spelling(&filter, ip.into());
        }

        #[test]
        fn each_spelling_of_a_special_address_is_refused(block in 0..SPECIAL_V4.len(), host: u32) {
            let block = SPECIAL_V4[block];
            let ip = Ipv4Addr::from(u32::from(block.network()) | (host & u32::from(block.hostmask())));
            prop_assert!(!is_allowed(&PeerFilter::default(), ip));
            is_the_same_in_each_spelling(&PeerFilter::default(), ip);
        }

        #[test]
        fn each_special_ipv6_address_is_refused(block in 0..SPECIAL_V6.len(), host: u128) {
            let block = SPECIAL_V6[block];
            let ip = Ipv6Addr::from(u128::from(block.network()) | (host & u128::from(block.hostmask())));
            // Teredo with a public server and client is not special.
            prop_assume!(embedded(ip)[0].is_none());
            prop_assert!(!is_allowed(&PeerFilter::default(), ip));
        }
    }

    // Classes 1 and 2 of docs/protocol/turn.md.
    #[test]
    fn the_addresses_of_known_attacks_are_refused() {
        for ip in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "10.1.2.3",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2002:7f00:1::",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2001:db8::1",
            "200::1",
            "4000::1",
            "2001:20::1",
            "3fff::1",
            "5f00::1",
            "100::1",
            "fe80::5efe:808:808",
        ] {
            assert!(!is_allowed(&PeerFilter::default(), ip.parse::<IpAddr>().expect("an address")), "{ip}");
        }
        for ip in ["8.8.8.8", "::ffff:8.8.8.8", "2a00:1450::1", "2606:4700::1", "64:ff9b::808:808"] {
            assert!(is_allowed(&PeerFilter::default(), ip.parse::<IpAddr>().expect("an address")), "{ip}");
        }
    }

    // Class 4 of docs/protocol/turn.md: ranges are prefixes, so an operator can't write one that is compared byte by byte.
    #[test]
    fn a_denied_prefix_holds_the_addresses_between_its_ends() {
        let net: IpNet = "2a00:0:0:fe00::/55".parse().expect("a prefix");
        let filter = PeerFilter { denied: vec![net], ..PeerFilter::default() };
        let (first, last) =
            (u128::from(0x2a00_u16) << 112 | 0xfe00 << 64, u128::from(0x2a00_u16) << 112 | 0xffff << 64);
        for ip in [first, first + 1, first + (0x100 << 64), last, last + u128::from(u64::MAX)] {
            assert!(!is_allowed(&filter, Ipv6Addr::from(ip)));
        }
        for ip in [first - 1, last + (1 << 64)] {
            assert!(is_allowed(&filter, Ipv6Addr::from(ip)));
        }
        assert!("2a00::1-2a00::9".parse::<IpNet>().is_err());
    }

    // Class 5 of docs/protocol/turn.md.
    #[test]
    fn of_a_relay_host_only_its_allocations_may_be_sent_to() {
        let ip: IpAddr = "8.8.4.4".parse().expect("an address");
        let host = RelayHost { relay_ports: 49_152..=65_535, services: vec![50_000] };
        let filter = PeerFilter { relay_hosts: HashMap::from([(ip, host)]), ..PeerFilter::default() };
        assert!(filter.allows_some_port(ip));
        for (port, expected) in
            [(0, false), (22, false), (8710, false), (49_152, true), (50_000, false), (65_535, true)]
        {
            assert_eq!(filter.allows(SocketAddr::new(ip, port)), expected, "{port}");
            let mapped = "::ffff:8.8.4.4".parse().expect("an address");
            assert_eq!(filter.allows(SocketAddr::new(mapped, port)), expected, "{port}");
        }
    }

    // Class 5.
    #[test]
    fn a_known_machine_opens_no_special_address() {
        let host = RelayHost { relay_ports: 49_152..=65_535, services: vec![] };
        let ips: [IpAddr; 3] = [[127, 0, 0, 1].into(), [10, 0, 0, 5].into(), [169, 254, 169, 254].into()];
        let filter = PeerFilter { relay_hosts: ips.map(|ip| (ip, host.clone())).into(), ..PeerFilter::default() };
        for ip in ips {
            assert!(!filter.allows(SocketAddr::new(ip, 50_000)) && !filter.allows_some_port(ip), "{ip}");
        }
        assert!(!filter.allows("[::ffff:127.0.0.1]:50000".parse().expect("an address")));
    }

    #[test]
    fn some_port_is_allowed_if_one_is_not_a_service() {
        let host = RelayHost { relay_ports: 65_534..=65_535, services: vec![65_534, 65_534] };
        let ip: IpAddr = [8, 8, 4, 4].into();
        let mut filter = PeerFilter { relay_hosts: HashMap::from([(ip, host)]), ..PeerFilter::default() };
        let spelled: IpAddr = "2002:808:404::1".parse().expect("an address");
        assert!(filter.allows_some_port(ip) && filter.allows_some_port(spelled));
        filter.relay_hosts.get_mut(&ip).expect("it is there").services.push(65_535);
        assert!(!filter.allows_some_port(ip) && !filter.allows_some_port(spelled));
    }

    // A change of the filter looks at each permission, on the relay's thread.
    #[test]
    fn an_address_without_an_open_port_is_refused_without_a_look_at_each_port() {
        let ip = |last: u8| IpAddr::from([8, 8, 4, last]);
        let host = RelayHost { relay_ports: 49_152..=65_535, services: vec![8710] };
        let mut denied: Vec<IpNet> =
            (0..1000_u32).map(|net| Ipv4Addr::from(0x0900_0000 + net).into()).map(net).collect();
        denied.push("8.8.4.0/24".parse().expect("a network"));
        let relay_hosts = (0..200).map(|last| (ip(last), host.clone())).collect();
        let filter = PeerFilter { denied, relay_hosts, ..PeerFilter::default() };
        let since = Instant::now();
        assert!((0..200).all(|last| !filter.allows_some_port(ip(last))));
        // It takes milliseconds. With a look at each port, it takes minutes.
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }

    fn net(ip: IpAddr) -> IpNet {
        ip.into()
    }

    #[test]
    fn an_opened_network_opens_neither_services_nor_what_is_denied() {
        let host = RelayHost { relay_ports: 49_152..=65_535, services: vec![50_000] };
        let filter = PeerFilter {
            allowed: vec!["10.0.0.0/8".parse().expect("a network")],
            denied: vec!["10.1.0.0/16".parse().expect("a network")],
            relay_hosts: HashMap::from([([10, 0, 0, 5].into(), host)]),
        };
        for (peer, expected) in [
            ("10.0.0.4:22", true),
            ("10.0.0.5:22", false),
            ("10.0.0.5:50000", false),
            ("10.0.0.5:50001", true),
            ("[::ffff:10.0.0.5]:22", false),
            ("10.1.0.4:22", false),
            ("[2002:a01:4::1]:22", false),
        ] {
            assert_eq!(filter.allows(peer.parse().expect("an address")), expected, "{peer}");
        }
    }

    #[test]
    fn opened_networks_are_open_in_each_spelling() {
        let filter = PeerFilter { allowed: vec!["127.0.0.0/8".parse().expect("a network")], ..PeerFilter::default() };
        assert!(is_allowed(&filter, Ipv4Addr::LOCALHOST));
        is_the_same_in_each_spelling(&filter, Ipv4Addr::LOCALHOST);
        assert!(!is_allowed(&filter, Ipv6Addr::LOCALHOST));
    }
}
