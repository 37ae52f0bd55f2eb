//! Which port to open so that members reach a node, on its machine and on a router in front.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use chappe_common::reachability::{Family, Transport};
use chappe_discovery::{door::Door, outside::OutsideReport};
use chappe_node::NodeConfig;

use crate::firewall::{Firewall, Protocol};

/// A port to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) protocol: Protocol,
    /// On this machine.
    pub(super) port: u16,
    /// The port at the external address.
    external: u16,
    /// This machine's address behind a NAT.
    behind: Option<IpAddr>,
}

impl Opening {
    /// The port behind a target that members did not reach. `None` if the target is not known.
    pub(super) fn of(
        transport: Transport,
        target: Option<&str>,
        family: Family,
        report: &OutsideReport,
        config: &NodeConfig,
    ) -> Option<Self> {
        let (protocol, external, listen) = match transport {
            Transport::Quic => {
                let addr: SocketAddr = target?.parse().ok()?;
                (Protocol::Udp, addr.port(), config.federation.listen.port())
            }
            Transport::StunUdp => {
                let is_family = |addr: &&SocketAddr| addr.is_ipv4() == (family == Family::V4);
                let port = report.turn_addrs.iter().find(is_family)?.port();
                (Protocol::Udp, port, port)
            }
            Transport::Tcp | Transport::Tls | Transport::Client | Transport::StunTcp | Transport::StunTls => {
                let port = Door::parse(target?)?.port();
                // Clients come through a proxy at the port of the URL, or a router forwards it to the node's.
                let has_proxy = !config.client.trusted_proxies.is_empty();
                (Protocol::Tcp, port, if has_proxy { port } else { config.client.listen.port() })
            }
        };
        let ip = report.quic_addrs.iter().map(SocketAddr::ip).find(|ip| ip.is_ipv4() == (family == Family::V4));
        let behind = ip.filter(|ip| !is_own(*ip)).and_then(route_to);
        // Without a NAT, packets arrive at the port that the record names.
        let port = if behind.is_some() && listen != 0 { listen } else { external };
        Some(Self { protocol, port, external, behind })
    }

    /// What to do, in front of the general advice.
    pub(super) fn advice(&self, general: &str, firewall: &Firewall) -> String {
        let mut advice = match firewall {
            Firewall::Ufw | Firewall::Firewalld | Firewall::Nftables(_) => {
                format!("let {} port {} in, with the commands below", self.protocol, self.port)
            }
            Firewall::None | Firewall::Unknown => format!("let {} port {} in", self.protocol, self.port),
        };
        if let Some(remark) = firewall.remark() {
            advice.push_str("; ");
            advice.push_str(remark);
        }
        if let Some(own) = self.behind {
            advice.push_str(&format!(
                "; a router with NAT is in front: have it forward {} port {} to {}",
                self.protocol,
                self.external,
                SocketAddr::new(own, self.port)
            ));
        }
        format!("{advice}; {general}")
    }
}

/// Whether an address is this machine's.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// This machine's address towards another one. No packet is sent.
fn route_to(ip: IpAddr) -> Option<IpAddr> {
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((ip, 9)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_nat_the_router_has_to_forward_to_the_port_of_the_node() {
        // TEST-NET-3 is no address of this machine.
        let text = r#"{"quicAddrs":["203.0.113.7:443"],"turnAddrs":["0.0.0.0:3478"],"lastRound":{"asked":3,"errors":[]},"statements":[]}"#;
        let report = serde_json::from_str(text).expect("a report");
        let config = NodeConfig::default();
        let opening = |transport, target| {
            let opening = Opening::of(transport, Some(target), Family::V4, &report, &config).expect("a port");
            (opening.protocol, opening.external)
        };
        assert_eq!(opening(Transport::Quic, "203.0.113.7:443"), (Protocol::Udp, 443));
        assert_eq!(opening(Transport::Tls, "wss://relay.example"), (Protocol::Tcp, 443));
        assert_eq!(opening(Transport::StunUdp, ""), (Protocol::Udp, 3478));
        let own: IpAddr = [192, 168, 1, 2].into();
        let opening = Opening { protocol: Protocol::Udp, port: 8711, external: 443, behind: Some(own) };
        let advice = opening.advice("and so on", &Firewall::Ufw);
        assert!(advice.contains("let udp port 8711 in, with the commands below"), "{advice}");
        assert!(advice.contains("forward udp port 443 to 192.168.1.2:8711; and so on"), "{advice}");
    }
}
