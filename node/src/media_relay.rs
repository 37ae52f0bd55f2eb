//! The node's own STUN and TURN server: how it is configured, which peers it refuses, and under which URLs clients reach it.
//!
//! The server itself is the crate `chappe-turn`, which knows nothing of a node. It runs on a thread of its own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
};

use chappe_common::record::NodeRecord;
use chappe_turn::{
    budget::BudgetLevel,
    credentials::CredentialSecret,
    limits::{Limits, RelayAddress, RelayAddresses},
    peer_filter::{PeerFilter, RelayHost},
    runtime::{NewStream, Relay, RelayBusy, RelayConfig, Snapshot},
    server::Config,
};
use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;
use url::Url;

use crate::config::{NodeConfig, TurnSection};

pub(crate) mod external_address;
pub(crate) mod known_members;

/// The relay ports of other members: the range of RFC 8656, 7.2. Their records do not contain the ports.
const MEMBER_PORTS: [u16; 2] = [49_152, 65_535];

/// The port of `wss://` and `ws://` URLs without one.
const DEFAULT_PORTS: [u16; 2] = [443, 80];

/// The running relay.
#[derive(Debug)]
pub(crate) struct MediaRelay {
    relay: Relay,
    secret: CredentialSecret,
    reach: Mutex<Reach>,
    /// The ports of this machine that are not peers.
    own_ports: RelayHost,
    /// The addresses of this machine that the configuration names.
    bound: Vec<IpAddr>,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    client_urls: Vec<String>,
    has_certificate: bool,
}

/// Whether the relay makes new allocations, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayState {
    /// It does.
    Open,
    /// No external address is known yet.
    NoAddress,
    /// The budget of the month, or the rate of the last minute, does not allow it.
    Budget,
    /// The node is stopping.
    Draining,
    /// Its thread has ended.
    Stopped,
}

impl RelayState {
    /// The name in `/health`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NoAddress => "no_address",
            Self::Budget => "budget",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// What depends on the external addresses and on the members.
#[derive(Debug)]
struct Reach {
    /// Of IPv4 and of IPv6.
    externals: [Option<IpAddr>; 2],
    urls: Vec<String>,
    /// The members' addresses, each with the ports of its services.
    members: Vec<(IpAddr, Vec<u16>)>,
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
    pub(crate) fn spawn(config: &NodeConfig, services: OwnServices<'_>, passed: Vec<UdpSocket>) -> io::Result<Self> {
        let turn = &config.turn;
        let mut random = [0; 64];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (secret, seed) = random.split_at(32);
        let secret = CredentialSecret::new(secret);
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let externals = families.map(|is_family| turn.external(is_family));
        let bind = |is_family: fn(&IpAddr) -> bool| turn.listen.iter().map(SocketAddr::ip).find(is_family);
        let address = |index: usize| {
            let has_family = turn.listen.iter().map(SocketAddr::ip).any(|ip| families[index](&ip));
            has_family.then(|| RelayAddress { external: externals[index], ports: turn.port_range() })
        };
        let own_ports = own_ports(turn, services);
        let bound = turn.listen.iter().chain(services.bound).map(SocketAddr::ip);
        let bound: Vec<_> = bound.filter(|ip| !ip.is_unspecified()).collect();
        let filter = PeerFilter {
            allowed: turn.allowed_peers.clone(),
            denied: turn.denied_peers.clone(),
            relay_hosts: own_hosts(externals, &bound, &own_ports),
        };
        let relay = Relay::spawn(RelayConfig {
            listen: turn.listen.clone(),
            passed,
            relay_bind: families.into_iter().filter_map(bind).collect(),
            server: Config {
                limits: Limits {
                    allocations: turn.max_allocations,
                    allocations_per_credential: turn.credential_allocations,
                    allocations_per_source: turn.source_allocations,
                    allocation_bytes_per_second: turn.allocation_rate,
                    total_bytes_per_second: config.budget.limit_relay(turn.total_rate),
                },
                addresses: RelayAddresses { v4: address(0), v6: address(1) },
                secret: secret.clone(),
                filter,
                listening: Vec::new(),
                seed: seed.try_into().expect("32 bytes"),
            },
        })?;
        let has_certificate = config.client.has_tls();
        let urls = urls(relay.addrs(), externals, has_certificate, services.client_urls);
        let reach = Mutex::new(Reach { externals, urls, members: Vec::new() });
        let (allowed, denied) = (turn.allowed_peers.clone(), turn.denied_peers.clone());
        let client_urls = services.client_urls.to_vec();
        Ok(Self { relay, secret, reach, own_ports, bound, allowed, denied, client_urls, has_certificate })
    }

    /// The URLs under which clients reach the relay, over UDP, TCP and TLS. Empty until an external address is known.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.reach().urls.clone()
    }

    /// The STUN URLs, which need no allocation.
    pub(crate) fn stun_urls(&self) -> Vec<String> {
        self.reach().urls.iter().filter(|url| url.starts_with("stun:")).cloned().collect()
    }

    /// Whether the operator has allowed a private address as a peer.
    pub(crate) fn is_allowed_peer(&self, ip: IpAddr) -> bool {
        self.allowed.iter().any(|net| net.contains(&ip))
    }

    /// Sets the external address of its family. If it changes, the allocations of that family end.
    pub(crate) fn set_external(&self, ip: IpAddr) {
        let mut reach = self.reach();
        reach.externals[usize::from(ip.is_ipv6())] = Some(ip);
        reach.urls = urls(self.relay.addrs(), reach.externals, self.has_certificate, &self.client_urls);
        // The filter first: no allocation may be made before its services are closed.
        self.relay.set_filter(self.filter(&reach));
        self.relay.set_external(ip);
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
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
        let services = |record: &NodeRecord| {
            // Only the first address is proven. A member must not be able to close ports of others' addresses.
            let addr = record.quic_addrs.first()?;
            let urls = record.client_urls.iter().filter_map(|url| host_and_port(url)).map(|(_, port)| port);
            Some((addr.ip(), std::iter::once(addr.port()).chain(urls).collect()))
        };
        let members = members.filter_map(services).collect();
        let mut reach = self.reach();
        reach.members = members;
        self.relay.set_filter(self.filter(&reach));
    }

    /// Makes the filter. Reads this machine's addresses each time, because they can change while the node runs.
    fn filter(&self, reach: &Reach) -> PeerFilter {
        let mut relay_hosts = own_hosts(reach.externals, &self.bound, &self.own_ports);
        for (ip, services) in &reach.members {
            let [first, last] = MEMBER_PORTS;
            let host = || RelayHost { relay_ports: first..=last, services: Vec::new() };
            relay_hosts.entry(*ip).or_insert_with(host).services.extend(services);
        }
        PeerFilter { allowed: self.allowed.clone(), denied: self.denied.clone(), relay_hosts }
    }

    /// Whether the relay makes new allocations.
    pub(crate) fn makes_allocations(&self) -> bool {
        self.state() == RelayState::Open
    }

    /// What keeps it from new allocations, if anything.
    pub(crate) fn state(&self) -> RelayState {
        let snapshot = self.relay.snapshot();
        if !snapshot.is_running {
            RelayState::Stopped
        } else if self.relay.is_draining() {
            RelayState::Draining
        } else if snapshot.budget != BudgetLevel::Open {
            RelayState::Budget
        } else if !self.is_reachable() {
            RelayState::NoAddress
        } else {
            RelayState::Open
        }
    }

    /// Whether its thread runs.
    pub(crate) fn is_running(&self) -> bool {
        self.relay.snapshot().is_running
    }

    /// Whether an external address is known.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reach().externals.iter().any(Option::is_some)
    }

    /// Whether the node's record can offer the relay.
    pub(crate) fn is_offered(&self) -> bool {
        self.is_running() && self.is_reachable()
    }

    /// Sets what the budget allows. Does not wait.
    pub(crate) fn set_budget(&self, level: BudgetLevel) {
        self.relay.set_budget(level);
    }

    /// Stops making new allocations.
    pub(crate) fn drain(&self) {
        self.relay.drain();
    }

    /// Whether the relay may have allocations. Until its thread has taken [`Self::drain`] or a lower budget, it may make
    /// new ones, and those of the last second may not be counted.
    pub(crate) fn may_have_allocations(&self) -> bool {
        let snapshot = self.relay.snapshot();
        snapshot.is_running && (snapshot.budget == BudgetLevel::Open || snapshot.allocations > 0)
    }

    /// Stops the relay, and waits until its thread has ended. Blocks for a moment.
    pub(crate) fn stop(&self) {
        self.relay.stop();
    }

    /// The relay's state, at most a second old.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.relay.snapshot()
    }
}

/// Returns the ports of this machine that packets may be sent to, and its services among them.
fn own_ports(turn: &TurnSection, services: OwnServices<'_>) -> RelayHost {
    let ports = turn.listen.iter().chain(services.bound).map(SocketAddr::port);
    let urls = services.client_urls.iter().filter_map(|url| host_and_port(url)).map(|(_, port)| port);
    RelayHost { relay_ports: turn.port_range(), services: ports.chain(urls).collect() }
}

/// Returns this machine's addresses, each with the ports that packets may be sent to.
fn own_hosts(externals: [Option<IpAddr>; 2], bound: &[IpAddr], host: &RelayHost) -> HashMap<IpAddr, RelayHost> {
    let configured = externals.into_iter().flatten().chain(bound.iter().copied());
    configured.chain(interface_addrs()).map(|ip| (ip, host.clone())).collect()
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
    has_certificate: bool,
    client_urls: &[String],
) -> Vec<String> {
    let mut urls = Vec::new();
    for addr in addrs {
        let Some(external) = externals[usize::from(addr.is_ipv6())] else { continue };
        let external = SocketAddr::new(external, addr.port());
        urls.push(format!("stun:{external}"));
        urls.push(format!("turn:{external}?transport=udp"));
    }
    // The relayed address would be unknown to peers.
    if urls.is_empty() {
        return urls;
    }
    // A proxy that terminates TLS in front of this node would not forward STUN.
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
    use chappe_common::{federation::FederationId, keys::SecretKey, record::Abilities, time::UnixTime};

    use super::*;

    const CLIENT_URL: &str = "wss://relay.example:50443/ws";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A relay at an address of this machine. All networks are allowed, so that only services are refused.
    fn relay(listen: &str) -> MediaRelay {
        let mut config = NodeConfig::default();
        config.turn.listen = vec![SocketAddr::new(ip(listen), 0)];
        config.turn.allowed_peers = vec!["0.0.0.0/0".parse().expect("a network")];
        let bound = ["127.0.0.2:8710", "127.0.0.2:50011"].map(|addr| addr.parse().expect("an address"));
        let client_urls = [CLIENT_URL.to_owned()];
        let services = OwnServices { bound: &bound, client_urls: &client_urls };
        MediaRelay::spawn(&config, services, Vec::new()).expect("a relay")
    }

    /// Those of these ports of an address to which packets may be sent.
    fn open<const N: usize>(relay: &MediaRelay, at: &str, ports: [u16; N]) -> Vec<u16> {
        let filter = relay.filter(&relay.reach());
        ports.into_iter().filter(|port| filter.allows(SocketAddr::new(ip(at), *port))).collect()
    }

    fn member(quic_addrs: &[&str], client_urls: &[&str]) -> NodeRecord {
        NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: SecretKey::from_bytes(&[1; 32]).node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(0),
            expires_at: UnixTime::from_secs(0),
            client_urls: client_urls.iter().map(|url| (*url).to_owned()).collect(),
            quic_addrs: quic_addrs.iter().map(|addr| addr.parse().expect("an address")).collect(),
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        }
    }

    // Class 5 of docs/protocol/turn.md.
    #[test]
    fn own_services_are_no_peers_at_any_address_of_this_machine() {
        let relay = relay("127.0.0.2");
        let ports = [22, 8710, 50_011, 50_443, 50_000];
        // 127.0.0.1 is known by its interface alone.
        for at in ["127.0.0.2", "127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(open(&relay, at, ports), [50_000], "{at}");
        }
        assert_eq!(open(&relay, "127.0.0.3", ports), ports);
    }

    // Class 5.
    #[test]
    fn a_member_closes_the_ports_of_its_first_address_alone_and_opens_none() {
        let relay = relay("127.0.0.2");
        let ports = [22, 50_001, 50_002, 50_003, 50_000];
        let members = [
            member(&["8.8.4.4:50001", "9.9.9.9:50002"], &["wss://other.example:50003"]),
            // This node's own address.
            member(&["127.0.0.2:22"], &[]),
            member(&["[2001:db8::1]:50000"], &[]),
        ];
        relay.set_members(members.iter());
        assert_eq!(open(&relay, "8.8.4.4", ports), [50_002, 50_000]);
        assert_eq!(open(&relay, "9.9.9.9", ports), ports, "it is not proven");
        assert_eq!(open(&relay, "127.0.0.2", [22, 8710, 50_000]), [50_000]);
        assert!(open(&relay, "2001:db8::1", ports).is_empty(), "a special address");
        relay.set_members([].iter());
        assert_eq!(open(&relay, "8.8.4.4", ports), ports, "it has left");
    }

    #[test]
    fn a_found_external_address_is_offered_and_its_services_are_no_peers() {
        let relay = relay("0.0.0.0");
        assert!(!relay.is_offered() && relay.urls().is_empty() && relay.stun_urls().is_empty());
        assert_eq!(relay.state(), RelayState::NoAddress);
        let ports = [22, 50_443, 50_000];
        for (now, before) in [("9.9.9.9", "9.9.9.8"), ("9.9.9.10", "9.9.9.9")] {
            relay.set_external(ip(now));
            assert_eq!(open(&relay, now, ports), [50_000]);
            assert_eq!(open(&relay, before, ports), ports, "it may be anybody's");
            let stun = format!("stun:{now}:{}", relay.addrs()[0].port());
            assert_eq!((relay.stun_urls(), relay.urls()[0].clone()), (vec![stun.clone()], stun));
            assert!(relay.is_offered() && relay.makes_allocations());
        }
        assert!(relay.may_have_allocations(), "it makes new ones");
        relay.stop();
        assert!(!relay.is_offered() && !relay.may_have_allocations());
        assert_eq!(relay.state(), RelayState::Stopped);
    }

    #[test]
    fn clients_get_urls_for_each_transport_that_reaches_the_relay() {
        let all = |has_certificate: bool, client_urls: &[&str]| {
            let client_urls: Vec<_> = client_urls.iter().map(|url| (*url).to_owned()).collect();
            let externals = [Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().expect("an address"))];
            let addrs = [([0, 0, 0, 0], 3478).into(), "[::]:3479".parse().expect("an address")];
            urls(&addrs, externals, has_certificate, &client_urls).join(" ")
        };
        let udp = "stun:192.0.2.1:3478 turn:192.0.2.1:3478?transport=udp \
                   stun:[2001:db8::1]:3479 turn:[2001:db8::1]:3479?transport=udp";
        // A proxy terminates TLS.
        assert_eq!(all(false, &["wss://relay.example"]), udp);
        assert_eq!(all(false, &["ws://relay.example:8710/ws"]), format!("{udp} turn:relay.example:8710?transport=tcp"));
        assert_eq!(all(true, &["wss://relay.example"]), format!("{udp} turns:relay.example:443?transport=tcp"));
        assert_eq!(all(true, &["wss://[2001:db8::1]:8443"]), format!("{udp} turns:[2001:db8::1]:8443?transport=tcp"));
    }
}
