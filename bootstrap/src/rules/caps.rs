//! How many listed nodes may stand in one network: what keeps one operator with many addresses from filling the list.
//!
//! A node counts where it proved its key, not where it says that it is: otherwise a stranger could fill a network's
//! places by naming its addresses.

use std::net::{IpAddr, SocketAddr};

use chappe_common::record::NodeRecord;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::CapsSection;

/// The most nodes in each network, and the networks that have no bound.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    section: CapsSection,
    exempt: Vec<IpNet>,
}

impl Caps {
    /// The caps of a config; `exempt` are test networks.
    pub(crate) fn new(section: CapsSection, exempt: &[IpNet]) -> Self {
        Self { section, exempt: exempt.to_vec() }
    }

    /// Whether there is room for one more node at `address`, where `others` are the addresses of the listed ones.
    pub(crate) fn have_room(&self, address: IpAddr, others: impl Iterator<Item = IpAddr> + Clone) -> bool {
        let address = address.to_canonical();
        // Nobody but this machine is on loopback: no operator fills a list that way.
        if address.is_loopback() || self.are_exempt(address) {
            return true;
        }
        self.networks(address).into_iter().all(|(network, most)| {
            let inside = others.clone().filter(|other| network.contains(&other.to_canonical())).count();
            inside < most
        })
    }

    /// Whether those at `address` have no caps, because it is in a test network.
    pub(crate) fn are_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|net| net.contains(&address.to_canonical()))
    }

    fn networks(&self, address: IpAddr) -> [(IpNet, usize); 2] {
        let (lengths, most) = match address {
            IpAddr::V4(_) => ([24, 16], [self.section.ipv4_24, self.section.ipv4_16]),
            IpAddr::V6(_) => ([48, 32], [self.section.ipv6_48, self.section.ipv6_32]),
        };
        [0, 1].map(|index| (network(address, lengths[index]), most[index]))
    }
}

/// The network of `address` with that prefix length.
fn network(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).trunc().into(),
    }
}

/// The network that stands for an operator or a provider: an IPv4 /16 or an IPv6 /32.
pub(crate) fn wide_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => network(v4, 16),
        v6 @ IpAddr::V6(_) => network(v6, 32),
    }
}

/// The addresses of a record that lie in the wide network of its first one: where its node has to prove its key.
///
/// The first address is what others tell a node's network by, as they know the record alone. One that nobody has to
/// answer at would put a crowd into as many networks as it cares to name.
pub(crate) fn counted_addrs(record: &NodeRecord) -> impl Iterator<Item = SocketAddr> {
    let network = record.quic_addrs.first().map(|first| wide_network(first.ip()));
    record.quic_addrs.iter().copied().filter(move |addr| Some(wide_network(addr.ip())) == network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps() -> Caps {
        let section = CapsSection { ipv4_24: 1, ipv4_16: 2, ipv6_48: 1, ipv6_32: 2 };
        Caps::new(section, &["10.0.0.0/8".parse().expect("a network")])
    }

    fn room(address: &str, others: &[&str]) -> bool {
        let parse = |text: &&str| text.parse().expect("an address");
        caps().have_room(parse(&address), others.iter().map(parse))
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
