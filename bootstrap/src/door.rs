//! Tries the doors of listed nodes as a client does: TCP, TLS, and a WebSocket over which the node proves its key.
//!
//! A record names URLs that its sender has chosen. So each address that a host leads to is checked as in a dial-back, and
//! the address that was checked is the one that is dialled.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use chappe_common::{
    reachability::{DoorFault, Outcome},
    record::{MAX_ADDRESSES, NodeRecord},
};
use chappe_discovery::{SetupError, doh::Provider, door::Door, net::Net, reach::NameError};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Host;

use crate::{
    dial::may_dial,
    limits::{ExemptNetworks, SourceLimiter},
    live::LiveConfig,
    lookup_limiter::LookupLimiter,
    metrics::Metrics,
    rules::{DoorTry, Fault, Listing, is_of_network},
};

/// Time limit for resolving a name.
const NAME_WAIT: Duration = Duration::from_secs(2);
/// Time limit for trying an address: seven round trips of half a second, and a lost packet. It occupies a place of a probe.
const DOOR_WAIT: Duration = Duration::from_secs(5);
/// Addresses that are tried at the same time: as many as a record has URLs, and as the resolver returns for a name.
const MAX_TRIES: usize = MAX_ADDRESSES;

/// Tries doors.
pub(crate) struct DoorProber {
    net: Net,
    exempt: ExemptNetworks,
    /// The tries at each address, for all nodes together: many records may name one.
    targets: Arc<SourceLimiter>,
    lookups: LookupLimiter,
    metrics: Arc<Metrics>,
}

/// Why a URL has no targets.
enum NotResolved {
    /// Its name does not exist any more.
    NoName,
    /// The registry cannot find out now.
    Unknown,
}

/// The results of a node's URLs, none of which worked.
#[derive(Default)]
struct Tried {
    faults: Vec<Fault>,
    /// The registry could not try all that it may try.
    is_incomplete: bool,
}

impl Tried {
    /// What the registry has seen itself counts more than what a network between may have caused.
    fn result(self) -> DoorTry {
        if self.is_incomplete {
            return DoorTry::NotTried;
        }
        let key = |fault: &Fault| (is_of_network(fault.fault.outcome), fault.fault.place);
        self.faults.into_iter().min_by_key(key).map_or(DoorTry::NotTried, DoorTry::Fails)
    }
}

/// A URL and an address of its host.
struct Target {
    /// The index of the address among those of the host's family.
    rank: usize,
    place: u8,
    door: Door,
    addr: SocketAddr,
}

impl DoorProber {
    /// Trusts certificates that `tls` trusts. Names are resolved as clients resolve them: over HTTPS.
    ///
    /// # Errors
    /// A provider of DNS over HTTPS is invalid.
    pub(crate) fn new(live: &LiveConfig, tls: Arc<ClientConfig>, metrics: Arc<Metrics>) -> Result<Self, SetupError> {
        Ok(Self::over(Net::over_https(&Provider::defaults(), tls)?, live, metrics))
    }

    fn over(net: Net, live: &LiveConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            net,
            exempt: live.exempt.clone(),
            targets: Arc::clone(&live.door_targets),
            lookups: LookupLimiter::new(),
            metrics,
        }
    }

    /// Tries the URLs of a listed node until one works, first those that lead to the address of its links: others may lead to
    /// somebody else. Takes at most 12 s.
    pub(crate) async fn probe(&self, listing: &Listing) -> DoorTry {
        let urls = (0..).zip(&listing.record.client_urls);
        let resolved = join_all(urls.map(|(place, url)| self.resolve(place, url, listing))).await;
        let mut tried = Tried::default();
        let mut targets = Vec::new();
        for (place, result) in (0..).zip(resolved) {
            match result {
                Ok(found) => targets.extend(found),
                Err(NotResolved::NoName) => tried.faults.push(fault(place, Outcome::NoName)),
                Err(NotResolved::Unknown) => tried.is_incomplete = true,
            }
        }
        tried.is_incomplete |= keep_first(&mut targets, listing.proved.to_canonical());
        let (own, others): (Vec<_>, Vec<_>) =
            targets.into_iter().partition(|target| target.addr.ip() == listing.proved.to_canonical());
        for targets in [own, others] {
            let mut tries: FuturesUnordered<_> =
                targets.iter().map(|target| self.try_at(&listing.record, target)).collect();
            while let Some(result) = tries.next().await {
                match result {
                    DoorTry::Works => return DoorTry::Works,
                    DoorTry::Fails(fault) => tried.faults.push(fault),
                    DoorTry::NotTried => tried.is_incomplete = true,
                }
            }
        }
        tried.result()
    }

    /// Drops the rate limits of nodes whose names were not looked up recently.
    pub(crate) fn drop_inactive(&self) {
        self.lookups.drop_inactive();
    }

    /// The addresses of a URL's host that may be tried. A client may get any of them from its resolver.
    ///
    /// # Errors
    /// It is not known where the URL leads to, or whether the registry's own limits allow a try.
    async fn resolve(&self, place: u8, url: &str, listing: &Listing) -> Result<Vec<Target>, NotResolved> {
        let Some(door) = Door::parse(url) else { return Ok(Vec::new()) };
        let ips = match door.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => {
                let allowed = self.lookups.try_lookup(listing.record.node);
                self.metrics.name_lookup(allowed);
                if allowed.is_err() {
                    return Err(NotResolved::Unknown);
                }
                match timeout(NAME_WAIT, self.net.names().lookup(name)).await {
                    Ok(Ok(found)) => found,
                    // A name that never led anywhere may be one of a private network, which only its own servers know.
                    Ok(Err(NameError::NoSuchName)) if listing.door.was_reached() => return Err(NotResolved::NoName),
                    // The providers may be blocked here.
                    Err(_) | Ok(Err(NameError::NoAnswer)) => return Err(NotResolved::Unknown),
                    Ok(Err(_)) => Vec::new(),
                }
            }
            None => Vec::new(),
        };
        let proved = listing.proved.to_canonical();
        let may_try = |ip: &IpAddr| may_dial(*ip, proved, &self.exempt) && is_elsewhere(*ip);
        let allowed: Vec<_> = ips.into_iter().map(|ip| ip.to_canonical()).filter(may_try).collect();
        let mut targets: Vec<Target> = Vec::new();
        for ip in allowed {
            // Strangers must not use up the tries at a node's own address.
            if ip != proved && !self.targets.allows(ip) {
                return Err(NotResolved::Unknown);
            }
            let addr = SocketAddr::new(ip, door.port());
            let rank = targets.iter().filter(|target| target.addr.is_ipv4() == addr.is_ipv4()).count();
            targets.push(Target { rank, place, addr, door: door.clone() });
        }
        Ok(targets)
    }

    async fn try_at(&self, record: &NodeRecord, target: &Target) -> DoorTry {
        let Target { place, door, addr, rank: _ } = target;
        let Ok(report) = timeout(DOOR_WAIT, door.check(record.node, *addr, self.net.tls())).await else {
            return DoorTry::Fails(fault(*place, Outcome::NoAnswer));
        };
        match report.outcome() {
            Outcome::Works => DoorTry::Works,
            // A node that is unavailable is full, or about to restart.
            outcome if outcome.was_tried() && outcome != Outcome::Unavailable => {
                DoorTry::Fails(Fault { expired_at: report.expired_at, ..fault(*place, outcome) })
            }
            _ => DoorTry::NotTried,
        }
    }
}

/// Keeps as many addresses as are tried: first that of the node's links, then those that come first for their URL and family.
/// Returns whether a URL is left out.
fn keep_first(targets: &mut Vec<Target>, proved: IpAddr) -> bool {
    targets.sort_by_key(|target| (target.addr.ip() != proved, target.rank, target.place));
    let left_out = targets.split_off(MAX_TRIES.min(targets.len()));
    left_out.iter().any(|target| targets.iter().all(|kept| kept.place != target.place))
}

const fn fault(place: u8, outcome: Outcome) -> Fault {
    Fault { fault: DoorFault { place, outcome }, expired_at: None }
}

/// Whether this machine has a route to the address, and it is not its own, behind its own firewall. Loopback addresses are
/// allowed by configuration alone. Without IPv6, nothing is known about a node that has only that.
fn is_elsewhere(ip: IpAddr) -> bool {
    let any: SocketAddr =
        if ip.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let Ok(socket) = UdpSocket::bind(any) else { return false };
    // Connecting a UDP socket only selects the route. The port is that of «discard».
    socket.connect((ip, 9)).is_ok() && (ip.is_loopback() || socket.local_addr().is_ok_and(|own| own.ip() != ip))
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        federation::FederationId, keys::SecretKey, list_request::Load, record::Abilities, signed::Signed,
        time::UnixTime,
    };

    use super::*;
    use crate::{
        config::BootstrapConfig,
        rules::{DoorHistory, Millis, ProbeHistory},
    };

    /// A listed node with as many names as a record may have.
    fn listing_with_names() -> Listing {
        let key = SecretKey::from_bytes(&[1; 32]);
        let record = NodeRecord {
            federation: FederationId::of_roots(&[key.public()]),
            node: key.node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(0),
            expires_at: UnixTime::from_secs(1),
            client_urls: (0..MAX_ADDRESSES).map(|name| format!("wss://{name}.example/ws")).collect(),
            quic_addrs: vec![([198, 51, 100, 1], 1).into()],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        };
        Listing {
            record: Signed::sign(record, &key).expect("a record within its bounds"),
            registered_at: Millis(0),
            last_seen: Millis(0),
            proved: [198, 51, 100, 1].into(),
            probes: ProbeHistory::after_registration(Millis(0), Duration::from_secs(1)),
            load: Load::default(),
            asked: 0,
            door: DoorHistory::default(),
        }
    }

    #[tokio::test]
    async fn a_node_that_is_probed_often_has_its_names_looked_up_a_few_times_a_minute() {
        let metrics = Arc::new(Metrics::default());
        // Without providers, each lookup fails at once.
        let net = Net::over_https(&[], chappe_discovery::tls::config()).expect("no provider is invalid");
        let doors = DoorProber::over(net, &LiveConfig::new(&BootstrapConfig::default()), Arc::clone(&metrics));
        let listing = listing_with_names();
        for _ in 0..5 {
            assert_eq!(doors.probe(&listing).await, DoorTry::NotTried);
        }
        let text = metrics.encode();
        let has = |line: &str| text.lines().any(|found| found == line);
        assert!(has("chappe_bootstrap_name_lookups_total{outcome=\"made\"} 8"), "{text}");
        assert!(has("chappe_bootstrap_name_lookups_total{outcome=\"node_rate\"} 12"), "{text}");
    }

    #[test]
    fn the_reported_fault_is_one_that_the_registry_has_seen_itself() {
        let faults =
            vec![fault(0, Outcome::NoAnswer), fault(2, Outcome::WrongService), fault(1, Outcome::CertificateExpired)];
        let tried = Tried { faults, is_incomplete: false };
        assert_eq!(tried.result(), DoorTry::Fails(fault(1, Outcome::CertificateExpired)));
    }

    #[test]
    fn nothing_follows_from_failures_beside_a_url_that_was_not_tried() {
        assert_eq!(Tried::default().result(), DoorTry::NotTried);
        let tried = Tried { faults: vec![fault(0, Outcome::Refused)], is_incomplete: true };
        assert_eq!(tried.result(), DoorTry::NotTried);
    }

    #[test]
    fn the_first_addresses_of_each_url_are_tried_and_before_them_that_of_the_links() {
        let target = |place, rank, last| Target {
            rank,
            place,
            addr: ([198, 51, 100, last], 443).into(),
            door: Door::parse("wss://a.example").expect("a URL"),
        };
        let ips = |targets: &[Target]| targets.iter().map(|target| target.addr.ip().to_string()).collect::<Vec<_>>();
        let proved = [198, 51, 100, 3].into();
        let mut several = vec![target(0, 0, 1), target(0, 1, 2), target(0, 2, 3), target(1, 0, 9)];
        assert!(!keep_first(&mut several, proved));
        assert_eq!(ips(&several), ["198.51.100.3", "198.51.100.1", "198.51.100.9", "198.51.100.2"]);
        several.push(target(1, 1, 8));
        assert!(!keep_first(&mut several, proved), "each URL is tried");
        assert_eq!(ips(&several), ["198.51.100.3", "198.51.100.1", "198.51.100.9", "198.51.100.2"]);
        let mut urls: Vec<_> = (0..5).map(|place| target(place, 0, 10 + place)).collect();
        assert!(keep_first(&mut urls, proved), "nothing follows if a URL was not tried");
    }

    #[test]
    fn this_machine_is_not_elsewhere() {
        assert!(is_elsewhere(Ipv4Addr::LOCALHOST.into()));
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        // Needs no packet: the address by which this machine would reach others, if it has one.
        if socket.connect(("198.51.100.1", 9)).is_ok() {
            assert!(!is_elsewhere(socket.local_addr().expect("an address").ip()));
        }
    }
}
