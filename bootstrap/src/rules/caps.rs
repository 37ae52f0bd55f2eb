//! Limits the listed nodes of one network, so that an operator with many addresses cannot fill the list.
//!
//! A node counts at the address where it proved its key, not at the addresses that it claims. Otherwise a stranger
//! could use up a network's limit by claiming its addresses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use chappe_common::record::NodeRecord;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{config::CapsSection, limits::ExemptNetworks};

/// The limits for each network, and the networks without a limit. Clones share them, so that a reload replaces them.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    section: Arc<ArcSwap<CapsSection>>,
    exempt: ExemptNetworks,
}

impl Caps {
    /// The configured caps. `exempt` are test networks.
    pub(crate) fn new(section: CapsSection, exempt: ExemptNetworks) -> Self {
        Self { section: Arc::new(ArcSwap::from_pointee(section)), exempt }
    }

    /// Replaces the caps. A node that is listed already stays.
    pub(crate) fn replace(&self, section: CapsSection) {
        self.section.store(Arc::new(section));
    }

    /// Whether one more node fits at `address`, if `others` are the addresses of the listed nodes.
    pub(crate) fn allow(&self, address: IpAddr, others: impl Iterator<Item = IpAddr> + Clone) -> bool {
        let address = address.to_canonical();
        // Only this machine can use loopback addresses, so nobody can fill the list with them.
        if address.is_loopback() || self.is_exempt(address) {
            return true;
        }
        self.networks(address).into_iter().all(|(network, most)| {
            let inside = others.clone().filter(|other| network.contains(&other.to_canonical())).count();
            inside < most
        })
    }

    /// Whether `address` is in a test network, which has no caps.
    pub(crate) fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.contains(address)
    }

    fn networks(&self, address: IpAddr) -> [(IpNet, usize); 2] {
        let section = self.section.load();
        let (lengths, most) = match address {
            IpAddr::V4(_) => ([24, 16], [section.ipv4_24, section.ipv4_16]),
            IpAddr::V6(_) => ([48, 32], [section.ipv6_48, section.ipv6_32]),
        };
        [0, 1].map(|index| (network(address, lengths[index]), most[index]))
    }
}

/// The network of `address` with the prefix length `length`.
fn network(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).trunc().into(),
    }
}

/// The network that stands for an operator or hosting provider: an IPv4 /16 or an IPv6 /32.
pub(crate) fn wide_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => network(v4, 16),
        v6 @ IpAddr::V6(_) => network(v6, 32),
    }
}

/// The addresses of a record in the wide network of its first one. The node has to prove its key at one of these.
///
/// Others determine a node's network by its first address, because they know only the record. If it did not have to be
/// reachable, an attacker could claim to be in any number of networks.
pub(crate) fn counted_addrs(record: &NodeRecord) -> impl Iterator<Item = SocketAddr> {
    let network = record.quic_addrs.first().map(|first| wide_network(first.ip()));
    record.quic_addrs.iter().copied().filter(move |addr| Some(wide_network(addr.ip())) == network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps() -> Caps {
        let section = CapsSection { ipv4_24: 1, ipv4_16: 2, ipv6_48: 1, ipv6_32: 2 };
        Caps::new(section, ["10.0.0.0/8".parse().expect("a network")].as_slice().into())
    }

    fn room(address: &str, others: &[&str]) -> bool {
        let parse = |text: &&str| text.parse().expect("an address");
        caps().allow(parse(&address), others.iter().map(parse))
    }

    #[test]
    fn a_small_network_is_full_before_the_one_around_it() {
        assert!(room("192.0.2.1", &["192.0.3.1", "198.51.100.1"]));
        assert!(!room("192.0.2.1", &["192.0.2.200"]));
        assert!(!room("192.0.2.1", &["192.0.3.1", "192.0.4.1"]));
        assert!(room("2001:db8:1::1", &["2001:db8:2::1"]));
        assert!(!room("2001:db8:1::1", &["2001:db8:1:ffff::1"]));
        assert!(!room("2001:db8:1::1", &["2001:db8:2::1", "2001:db8:3::1"]));
    }

    #[test]
    fn an_ipv4_address_counts_the_same_in_either_spelling() {
        assert!(!room("::ffff:192.0.2.1", &["192.0.2.2"]));
        assert!(!room("192.0.2.1", &["::ffff:192.0.2.2"]));
    }

    #[test]
    fn test_networks_and_loopback_are_never_full() {
        assert!(room("10.0.0.1", &["10.0.0.2", "10.0.0.3"]));
        assert!(room("127.0.0.1", &["127.0.0.1", "127.0.0.1"]));
    }
}
