//! Which addresses of a record a member may try: those at the address from which it was asked. Pure.

use std::net::{IpAddr, SocketAddr};

use chappe_common::{
    reachability::{Family, Finding, Outcome, Transport},
    record::NodeRecord,
};
use chappe_discovery::door::Door;
use url::Host;

/// The family of an address.
pub(super) fn family_of(ip: IpAddr) -> Family {
    if ip.to_canonical().is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Where the host of a client URL leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To the asker's address, so it may be tried there.
    Here,
    /// To other addresses of the asker's family only. Nothing is sent to them.
    Elsewhere,
    /// To addresses of the other family only, so there is nothing to try in this one.
    OtherFamily,
}

/// Returns where a host with these addresses leads for an asker at `asker`.
pub(super) fn leads(ips: impl IntoIterator<Item = IpAddr>, asker: IpAddr) -> Leads {
    let asker = asker.to_canonical();
    ips.into_iter().fold(Leads::OtherFamily, |leads, ip| match ip.to_canonical() {
        ip if ip == asker => Leads::Here,
        ip if leads != Leads::Here && family_of(ip) == family_of(asker) => Leads::Elsewhere,
        _ => leads,
    })
}

/// The QUIC addresses of a record that may be tried, with their places, and the findings about those that may not.
pub(super) fn quic(record: &NodeRecord, asker: IpAddr) -> (Vec<(u8, SocketAddr)>, Vec<Finding>) {
    let (mut tried, mut findings) = (Vec::new(), Vec::new());
    for (place, addr) in (0..).zip(&record.quic_addrs) {
        match leads([addr.ip()], asker) {
            Leads::Here => tried.push((place, SocketAddr::new(asker.to_canonical(), addr.port()))),
            Leads::Elsewhere => {
                findings.push(Finding { transport: Transport::Quic, place, outcome: Outcome::Elsewhere });
            }
            Leads::OtherFamily => {}
        }
    }
    (tried, findings)
}

/// The address of a door, if its host is one. Otherwise its name.
pub(super) fn address_or_name(door: &Door) -> Option<Result<IpAddr, String>> {
    Some(match door.host()? {
        Host::Ipv4(ip) => Ok(ip.into()),
        Host::Ipv6(ip) => Ok(ip.into()),
        Host::Domain(name) => Err(name.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use chappe_common::{federation::FederationId, keys::SecretKey, record::Abilities, time::UnixTime};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn record(quic_addrs: &[&str]) -> NodeRecord {
        NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: SecretKey::from_bytes(&[1; 32]).node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(0),
            expires_at: UnixTime::from_secs(0),
            client_urls: Vec::new(),
            quic_addrs: quic_addrs.iter().map(|addr| addr.parse().expect("an address")).collect(),
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        }
    }

    #[test]
    fn only_the_address_that_asks_is_tried_in_either_spelling() {
        let named = record(&["192.0.2.1:1", "192.0.2.2:2", "[2001:db8::1]:3", "[::ffff:192.0.2.1]:4"]);
        let tried = |asker| quic(&named, ip(asker)).0;
        let here = |port: u16| SocketAddr::new(ip("192.0.2.1"), port);
        assert_eq!(tried("192.0.2.1"), [(0, here(1)), (3, here(4))]);
        assert_eq!(tried("::ffff:192.0.2.1"), [(0, here(1)), (3, here(4))]);
        assert_eq!(tried("2001:db8::1"), [(2, "[2001:db8::1]:3".parse().expect("an address"))]);
        assert!(tried("198.51.100.1").is_empty());
        let elsewhere = |asker| quic(&named, ip(asker)).1.iter().map(|finding| finding.place).collect::<Vec<_>>();
        assert_eq!(elsewhere("192.0.2.1"), [1]);
        assert!(elsewhere("2001:db8::1").is_empty());
    }

    #[test]
    fn a_name_is_tried_only_where_one_of_its_addresses_asks() {
        let leads = |ips: &[&str]| leads(ips.iter().map(|text| ip(text)), ip("192.0.2.1"));
        assert_eq!(leads(&["192.0.2.9", "::ffff:192.0.2.1"]), Leads::Here);
        assert_eq!(leads(&["192.0.2.1", "192.0.2.9"]), Leads::Here);
        assert_eq!(leads(&["192.0.2.9", "2001:db8::1"]), Leads::Elsewhere);
        assert_eq!(leads(&["2001:db8::1"]), Leads::OtherFamily);
        assert_eq!(leads(&[]), Leads::OtherFamily);
    }
}
