//! The node's own STUN and TURN server: how it is configured, which peers it refuses, and under which URLs clients reach it.
//!
//! The server itself is the crate `chappe-turn`, which knows nothing of a node. It runs on a thread of its own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use chappe_common::record::NodeRecord;
use chappe_turn::{
    budget::{Budget, BudgetLevel},
    credentials::CredentialSecret,
    limits::{Limits, RelayAddress, RelayAddresses},
    peer_filter::{PeerFilter, RelayHost},
    runtime::{NewStream, Relay, RelayBusy, RelayConfig, Snapshot, month},
    server::Config,
};
use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;
use url::Url;

use crate::config::{NodeConfig, TurnSection};

mod budget_file;

/// The relay ports of other members: the range of RFC 8656, 7.2. Their records do not contain the ports.
const MEMBER_PORTS: [u16; 2] = [49_152, 65_535];

/// The port of `wss://` and `ws://` URLs without one.
const DEFAULT_PORTS: [u16; 2] = [443, 80];

/// The running relay.
#[derive(Debug)]
pub(crate) struct MediaRelay {
    relay: Relay,
    secret: CredentialSecret,
    urls: Vec<String>,
    own: HashMap<IpAddr, RelayHost>,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    budget_file: PathBuf,
}

/// This node's own services. The relay sends no packets to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnServices<'a> {
    /// The bound addresses for clients, for QUIC and for the operator.
    pub(crate) bound: &'a [SocketAddr],
    /// URLs for clients.
    pub(crate) client_urls: &'a [String],
}

impl MediaRelay {
    /// Starts the relay.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(crate) fn spawn(config: &NodeConfig, services: OwnServices<'_>, now: u64) -> io::Result<Self> {
        let turn = &config.turn;
        let mut random = [0; 64];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (secret, seed) = random.split_at(32);
        let secret = CredentialSecret::new(secret);
        let address = |external: IpAddr| RelayAddress { external, ports: turn.port_range() };
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let externals = families.map(|is_family| turn.external(is_family));
        let bind = |is_family: fn(&IpAddr) -> bool| turn.listen.iter().map(SocketAddr::ip).find(is_family);
        let own = own_hosts(turn, externals, services);
        let filter = PeerFilter {
            allowed: turn.allowed_peers.clone(),
            denied: turn.denied_peers.clone(),
            relay_hosts: own.clone(),
        };
        let limit = (turn.monthly_bytes > 0).then_some(turn.monthly_bytes);
        let (month, budget_file) = (month(now), config.node.data_dir.join(budget_file::FILE));
        let relay = Relay::spawn(RelayConfig {
            listen: turn.listen.clone(),
            relay_bind: families.into_iter().filter_map(bind).collect(),
            server: Config {
                limits: Limits {
                    allocations: turn.max_allocations,
                    allocations_per_credential: turn.credential_allocations,
                    allocations_per_source: turn.source_allocations,
                    allocation_bytes_per_second: turn.allocation_rate,
                    total_bytes_per_second: turn.total_rate,
                },
                addresses: RelayAddresses { v4: externals[0].map(address), v6: externals[1].map(address) },
                secret: secret.clone(),
                filter,
                listening: Vec::new(),
                seed: seed.try_into().expect("32 bytes"),
            },
            budget: Budget::new(limit, month, budget_file::load(&budget_file, month)),
        })?;
        let urls = urls(relay.addrs(), externals, config, services.client_urls);
        let (allowed, denied) = (turn.allowed_peers.clone(), turn.denied_peers.clone());
        Ok(Self { relay, secret, urls, own, allowed, denied, budget_file })
    }

    /// The URLs under which clients reach the relay, over UDP, TCP and TLS.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The STUN URLs, which need no allocation.
    pub(crate) fn stun_urls(&self) -> Vec<String> {
        self.urls.iter().filter(|url| url.starts_with("stun:")).cloned().collect()
    }

    /// The secret from which passwords are derived.
    pub(crate) const fn secret(&self) -> &CredentialSecret {
        &self.secret
    }

    /// The bound UDP addresses.
    pub(crate) fn addrs(&self) -> &[SocketAddr] {
        self.relay.addrs()
    }

    /// Hands over the connection of a STUN client.
    ///
    /// # Errors
    /// The relay accepts no connection now.
    pub(crate) fn add_stream(&self, stream: NewStream) -> Result<(), RelayBusy> {
        self.relay.add_stream(stream)
    }

    /// Refuses the services of these members as peers, in addition to this node's own. Their relays' ports are allowed.
    pub(crate) fn set_members<'a>(&self, members: impl Iterator<Item = &'a NodeRecord>) {
        let mut relay_hosts = self.own.clone();
        for record in members {
            // Only the first address is proven. A member must not be able to close ports of others' addresses.
            let Some(addr) = record.quic_addrs.first() else { continue };
            let [first, last] = MEMBER_PORTS;
            let host = || RelayHost { relay_ports: first..=last, services: Vec::new() };
            let services = &mut relay_hosts.entry(addr.ip()).or_insert_with(host).services;
            services.push(addr.port());
            services.extend(record.client_urls.iter().filter_map(|url| host_and_port(url)).map(|(_, port)| port));
        }
        let (allowed, denied) = (self.allowed.clone(), self.denied.clone());
        self.relay.set_filter(PeerFilter { allowed, denied, relay_hosts });
    }

    /// Whether the relay makes new allocations: it runs, and the month's budget allows it.
    pub(crate) fn makes_allocations(&self) -> bool {
        let snapshot = self.relay.snapshot();
        snapshot.is_running && snapshot.budget.level() == BudgetLevel::Open && !self.relay.is_draining()
    }

    /// Whether the node's record offers the relay.
    pub(crate) fn is_offered(&self) -> bool {
        let snapshot = self.relay.snapshot();
        snapshot.is_running && snapshot.budget.level() < BudgetLevel::NotOffered
    }

    /// Writes the bytes of this month to disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn store_budget(&self) -> io::Result<()> {
        budget_file::store(&self.budget_file, &self.relay.snapshot().budget)
    }

    /// Stops making new allocations.
    pub(crate) fn drain(&self) {
        self.relay.drain();
    }

    /// The relay's state, at most a second old.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.relay.snapshot()
    }
}

/// Returns this machine's addresses, each with the ports that packets may be sent to.
fn own_hosts(
    turn: &TurnSection,
    externals: [Option<IpAddr>; 2],
    services: OwnServices<'_>,
) -> HashMap<IpAddr, RelayHost> {
    let ports = turn.listen.iter().chain(services.bound).map(SocketAddr::port);
    let urls = services.client_urls.iter().filter_map(|url| host_and_port(url)).map(|(_, port)| port);
    let host = RelayHost { relay_ports: turn.port_range(), services: ports.chain(urls).collect() };
    let bound = turn.listen.iter().chain(services.bound).map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    externals.into_iter().flatten().chain(bound).chain(interface_addrs()).map(|ip| (ip, host.clone())).collect()
}

/// Returns the addresses of this machine's network interfaces. If they cannot be read, only configured addresses are known.
fn interface_addrs() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip_of = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    interfaces.filter_map(|interface| ip_of(interface.address?)).collect()
}

/// Returns the URLs for clients: UDP at each external address, and TCP or TLS where clients connect.
fn urls(
    addrs: &[SocketAddr],
    externals: [Option<IpAddr>; 2],
    config: &NodeConfig,
    client_urls: &[String],
) -> Vec<String> {
    let mut urls = Vec::new();
    for addr in addrs {
        let Some(external) = externals[usize::from(addr.is_ipv6())] else { continue };
        let external = SocketAddr::new(external, addr.port());
        urls.push(format!("stun:{external}"));
        urls.push(format!("turn:{external}?transport=udp"));
    }
    // A proxy that terminates TLS in front of this node would not forward STUN.
    let has_certificate = config.client.tls_cert.is_some();
    for url in client_urls {
        let Some((host, port)) = host_and_port(url) else { continue };
        if url.starts_with("wss://") && has_certificate {
            urls.push(format!("turns:{host}:{port}?transport=tcp"));
        } else if url.starts_with("ws://") && !has_certificate {
            urls.push(format!("turn:{host}:{port}?transport=tcp"));
        }
    }
    urls
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    let default = DEFAULT_PORTS[usize::from(url.scheme() != "wss")];
    Some((url.host_str()?.to_owned(), url.port().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_urls_for_each_transport_that_reaches_the_relay() {
        let mut config = NodeConfig::default();
        let all = |config: &NodeConfig, client_urls: &[&str]| {
            let client_urls: Vec<_> = client_urls.iter().map(|url| (*url).to_owned()).collect();
            let externals = [Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().expect("an address"))];
            let addrs = [([0, 0, 0, 0], 3478).into(), "[::]:3479".parse().expect("an address")];
            urls(&addrs, externals, config, &client_urls).join(" ")
        };
        let udp = "stun:192.0.2.1:3478 turn:192.0.2.1:3478?transport=udp \
                   stun:[2001:db8::1]:3479 turn:[2001:db8::1]:3479?transport=udp";
        // A proxy terminates TLS.
        assert_eq!(all(&config, &["wss://relay.example"]), udp);
        assert_eq!(
            all(&config, &["ws://relay.example:8710/ws"]),
            format!("{udp} turn:relay.example:8710?transport=tcp")
        );
        config.client.tls_cert = Some("cert.pem".into());
        assert_eq!(all(&config, &["wss://relay.example"]), format!("{udp} turns:relay.example:443?transport=tcp"));
        assert_eq!(
            all(&config, &["wss://[2001:db8::1]:8443"]),
            format!("{udp} turns:[2001:db8::1]:8443?transport=tcp")
        );
    }
}
