//! Loss and partitions, by nftables on the bridge's side.
//!
//! Each packet from one node to another passes the relay of one of them, and so the bridge's addresses. There it is
//! dropped with the given probability, or if the two hosts are partitioned.

use std::net::{Ipv4Addr, SocketAddr};

use super::topology::{BRIDGE, HostNumber, RELAY_PORT, run};

/// Rules for packets between hosts.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    /// The percentage of packets lost in each direction.
    pub loss: u32,
    /// Two groups of hosts that can't reach each other.
    pub cut: Option<(Vec<HostNumber>, Vec<HostNumber>)>,
}

impl Firewall {
    /// Replaces the rules in force by these.
    ///
    /// # Panics
    /// nftables refuses.
    pub fn apply(&self) {
        run("nft", &["-f", "-"], &self.script());
    }

    fn script(&self) -> String {
        let mut to_relay = String::new();
        let mut from_relay = String::new();
        if let Some((one, other)) = &self.cut {
            for (these, those) in [(one, other), (other, one)] {
                let (hosts, relays) = (list(these, |host| host.addr()), list(those, relay_addr));
                to_relay.push_str(&format!("    ip saddr {hosts} ip daddr {relays} drop\n"));
                from_relay.push_str(&format!("    ip saddr {relays} ip daddr {hosts} drop\n"));
            }
        }
        if self.loss > 0 {
            let lost = format!("numgen random mod 100 < {} drop", self.loss);
            to_relay.push_str(&format!("    iifname \"{BRIDGE}\" udp dport {RELAY_PORT} {lost}\n"));
            from_relay.push_str(&format!("    oifname \"{BRIDGE}\" udp sport {RELAY_PORT} {lost}\n"));
        }
        format!(
            "add table inet hosts\ndelete table inet hosts\ntable inet hosts {{\n  \
             chain input {{\n    type filter hook input priority 0\n{to_relay}  }}\n  \
             chain output {{\n    type filter hook output priority 0\n{from_relay}  }}\n}}\n"
        )
    }
}

fn relay_addr(host: HostNumber) -> Ipv4Addr {
    match host.relay() {
        SocketAddr::V4(addr) => *addr.ip(),
        SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn list(hosts: &[HostNumber], addr: impl Fn(HostNumber) -> Ipv4Addr) -> String {
    let addrs: Vec<_> = hosts.iter().map(|host| addr(*host).to_string()).collect();
    format!("{{ {} }}", addrs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_holds_in_both_directions_and_before_any_loss() {
        let firewall = Firewall { loss: 5, cut: Some((vec![HostNumber(1), HostNumber(2)], vec![HostNumber(3)])) };
        let script = firewall.script();
        let place = |text: &str| script.find(text).unwrap_or_else(|| panic!("{text} is not in {script}"));
        let lost = place("iifname \"bridge\" udp dport 7000 numgen random mod 100 < 5 drop");
        assert!(place("ip saddr { 10.77.1.1, 10.77.2.1 } ip daddr { 10.77.3.254 } drop") < lost);
        assert!(place("ip saddr { 10.77.3.1 } ip daddr { 10.77.1.254, 10.77.2.254 } drop") < lost);
        let lost = place("oifname \"bridge\" udp sport 7000 numgen random mod 100 < 5 drop");
        assert!(place("ip saddr { 10.77.1.254, 10.77.2.254 } ip daddr { 10.77.3.1 } drop") < lost);
        assert!(!Firewall::default().script().contains("drop"), "nothing is lost unless it is said");
    }
}
