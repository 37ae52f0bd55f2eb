//! The settings of the node's own STUN and TURN server.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use chappe_common::config_error::{ConfigError, check_rules};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Maximum number of networks in a list.
const MAX_NETWORKS: usize = 64;
/// Minimum number of relay ports: a call of two clients with two addresses, while both restart ICE.
const MIN_PORTS: u16 = 8;
/// Minimum of all rates, in bytes per second: one packet of the maximum size.
const MIN_RATE: u32 = 1 << 16;

/// The node's own STUN and TURN server for media. It is off unless `listen` has an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnSection {
    /// UDP addresses for clients, at most one of each family. If it is not empty, clients can also use TURN on
    /// `client.listen`, over TCP or TLS.
    pub listen: Vec<SocketAddr>,
    /// Addresses under which clients and peers reach the relay, at most one of each family. If empty, those of `listen`. In
    /// place of an unspecified one, members say what they see.
    pub external: Vec<IpAddr>,
    /// First and last UDP port of allocations.
    pub relay_ports: [u16; 2],
    /// Maximum concurrent allocations.
    pub max_allocations: usize,
    /// Maximum concurrent allocations of one credential.
    pub credential_allocations: usize,
    /// Maximum concurrent allocations of one client network: an IPv4 address or an IPv6 /64.
    pub source_allocations: usize,
    /// Bytes per second of one allocation, in each direction.
    pub allocation_rate: u32,
    /// Bytes per second of all allocations.
    pub total_rate: u32,
    /// Private networks whose addresses may be peers, such as those of a laboratory.
    pub allowed_peers: Vec<IpNet>,
    /// Networks whose addresses may not be peers.
    pub denied_peers: Vec<IpNet>,
}

impl Default for TurnSection {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            external: Vec::new(),
            // The range of RFC 8656, 7.2.
            relay_ports: [49_152, 65_535],
            max_allocations: 2000,
            credential_allocations: 16,
            source_allocations: 256,
            allocation_rate: 1_500_000,
            total_rate: 125_000_000,
            allowed_peers: Vec::new(),
            denied_peers: Vec::new(),
        }
    }
}

impl TurnSection {
    /// Whether the relay is on.
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty()
    }

    pub(crate) const fn port_range(&self) -> RangeInclusive<u16> {
        self.relay_ports[0]..=self.relay_ports[1]
    }

    /// Returns the configured external address of a family.
    pub(crate) fn external(&self, is_family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let listened: Vec<_> = self.listen.iter().map(SocketAddr::ip).collect();
        let reached = if self.external.is_empty() { &listened } else { &self.external };
        reached.iter().copied().find(|ip| is_family(ip) && !ip.is_unspecified())
    }

    /// Whether the relay listens on a family, and its external address is not configured.
    pub(crate) fn finds_external(&self, is_family: fn(&IpAddr) -> bool) -> bool {
        self.listen.iter().any(|addr| is_family(&addr.ip())) && self.external(is_family).is_none()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let [first, last] = self.relay_ports;
        let listened: Vec<_> = self.listen.iter().map(SocketAddr::ip).collect();
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let count = |ips: &[IpAddr], is_family: fn(&IpAddr) -> bool| ips.iter().filter(|ip| is_family(ip)).count();
        let is_single = |ips: &[IpAddr]| families.into_iter().all(|is_family| count(ips, is_family) <= 1);
        let rules: &[(bool, &'static str, &'static str)] = &[
            (is_single(&listened), "turn.listen", "one IPv4 and one IPv6 address are allowed"),
            (is_single(&self.external), "turn.external", "one IPv4 and one IPv6 address are allowed"),
            (
                self.external.is_empty()
                    || families
                        .into_iter()
                        .all(|is_family| count(&self.external, is_family) == count(&listened, is_family)),
                "turn.external",
                "name an address of each family of turn.listen, and of no other",
            ),
            (
                self.external.iter().all(|ip| !ip.is_unspecified() && !ip.is_multicast()),
                "turn.external",
                "addresses that others can reach are allowed",
            ),
            (
                first >= 1024 && last.saturating_sub(first) >= MIN_PORTS - 1,
                "turn.relay_ports",
                "the first and the last port of a range of at least 8, from 1024 on, are allowed",
            ),
            (
                (1..=100_000).contains(&self.max_allocations)
                    && self.credential_allocations >= 1
                    && self.source_allocations >= 1,
                "turn.max_allocations",
                "1 to 100000 are allowed, and at least 1 of a credential and of a source",
            ),
            (
                self.allocation_rate >= MIN_RATE && self.total_rate >= MIN_RATE,
                "turn.allocation_rate",
                "at least 65536 bytes per second are allowed, also for turn.total_rate",
            ),
            (
                self.allowed_peers.len() <= MAX_NETWORKS && self.denied_peers.len() <= MAX_NETWORKS,
                "turn.denied_peers",
                "at most 64 networks are allowed, also in turn.allowed_peers",
            ),
        ];
        check_rules(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl Fn(&mut TurnSection)) -> String {
        let mut section = TurnSection { listen: vec![([192, 0, 2, 1], 3478).into()], ..TurnSection::default() };
        change(&mut section);
        section.check().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn each_error_names_its_key() {
        assert_eq!(error(|_| {}), "");
        assert!(error(|turn| turn.external = vec![[8, 8, 8, 8].into(), [8, 8, 4, 4].into()]).contains("one IPv4"));
        assert!(error(|turn| turn.relay_ports = [50_000, 50_006]).contains("turn.relay_ports"));
        assert!(error(|turn| turn.relay_ports = [60_000, 50_000]).contains("turn.relay_ports"));
        assert!(error(|turn| turn.max_allocations = 0).contains("turn.max_allocations"));
        assert!(error(|turn| turn.total_rate = 1).contains("turn.total_rate"));
    }

    #[test]
    fn a_relay_is_reached_at_its_external_addresses_or_where_it_listens() {
        let v6 = "[2001:db8::1]:3478".parse().expect("an address");
        let mut section = TurnSection { listen: vec![([0, 0, 0, 0], 3478).into(), v6], ..TurnSection::default() };
        assert_eq!(section.external(IpAddr::is_ipv6), Some(v6.ip()));
        assert!(section.finds_external(IpAddr::is_ipv4) && !section.finds_external(IpAddr::is_ipv6));
        section.external = vec![[192, 0, 2, 7].into()];
        assert!(section.check().is_err(), "none for IPv6");
        section.external.push(v6.ip());
        assert!(section.check().is_ok());
        assert_eq!(section.external(IpAddr::is_ipv4), Some([192, 0, 2, 7].into()));
        assert!(!section.finds_external(IpAddr::is_ipv4));
    }
}
