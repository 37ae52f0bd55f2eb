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
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Host;

use crate::{
    config::BootstrapConfig,
    dial::may_dial,
    limits::SourceLimiter,
    rules::{DoorTry, Fault, Listing},
};

/// Time limit for resolving a name.
const NAME_WAIT: Duration = Duration::from_secs(2);
/// Time limit for trying an address: seven round trips of half a second, and a lost packet. It occupies a place of a probe.
const DOOR_WAIT: Duration = Duration::from_secs(5);
/// Addresses that are tried at the same time: as many as a record has URLs.
const MAX_TRIES: usize = MAX_ADDRESSES;

/// Tries doors.
pub(crate) struct DoorProber {
    net: Net,
    exempt: Vec<IpNet>,
    /// The tries at each address, for all nodes together: many records may name one.
    targets: SourceLimiter,
}

/// A URL and an address of its host.
struct Target {
    place: u8,
    door: Door,
    addr: SocketAddr,
}

impl DoorProber {
    /// Trusts certificates that `tls` trusts. Names are resolved as clients resolve them: over HTTPS.
    ///
    /// # Errors
    /// A provider of DNS over HTTPS is invalid.
    pub(crate) fn new(config: &BootstrapConfig, tls: Arc<ClientConfig>) -> Result<Self, SetupError> {
        let limits = &config.limits;
        Ok(Self {
            net: Net::over_https(&Provider::defaults(), tls)?,
            exempt: limits.exempt.clone(),
            targets: SourceLimiter::new(limits.dials_per_minute, &limits.exempt),
        })
    }

    /// Tries the URLs of a listed node until one works. Takes at most 7 s.
    pub(crate) async fn probe(&self, listing: &Listing) -> DoorTry {
        let record: &NodeRecord = &listing.record;
        let urls = (0..).zip(&record.client_urls);
        let resolved = join_all(urls.map(|(place, url)| self.resolve(place, url, listing.proved))).await;
        let mut faults = Vec::new();
        let mut targets = Vec::new();
        for (place, result) in (0..).zip(resolved) {
            match result {
                Ok(found) => targets.extend(found),
                Err(outcome) => faults.push(fault(place, outcome)),
            }
        }
        targets.truncate(MAX_TRIES);
        let mut tries: FuturesUnordered<_> = targets.iter().map(|target| self.try_at(record, target)).collect();
        while let Some(tried) = tries.next().await {
            match tried {
                DoorTry::Works => return DoorTry::Works,
                DoorTry::Fails(fault) => faults.push(fault),
                DoorTry::NotTried => {}
            }
        }
        faults.into_iter().min_by_key(|fault| fault.fault.place).map_or(DoorTry::NotTried, DoorTry::Fails)
    }

    /// Drops the rate limits of addresses that were not tried recently.
    pub(crate) fn drop_inactive(&self) {
        self.targets.drop_inactive();
    }

    /// The addresses of a URL's host that may be tried: one of each family. `proved` is the node's own address.
    ///
    /// # Errors
    /// The name has no address.
    async fn resolve(&self, place: u8, url: &str, proved: IpAddr) -> Result<Vec<Target>, Outcome> {
        let Some(door) = Door::parse(url) else { return Ok(Vec::new()) };
        let ips = match door.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => match timeout(NAME_WAIT, self.net.names().lookup(name)).await {
                Ok(Ok(found)) => found,
                // The providers may be blocked here.
                Err(_) | Ok(Err(NameError::NoAnswer)) => Vec::new(),
                Ok(Err(_)) => return Err(Outcome::NoName),
            },
            None => Vec::new(),
        };
        let may_try = |ip: &IpAddr| may_dial(*ip, proved, &self.exempt) && has_route(*ip);
        let allowed: Vec<_> = ips.into_iter().map(|ip| ip.to_canonical()).filter(may_try).collect();
        let first = |is_v4: bool| allowed.iter().copied().find(|ip| ip.is_ipv4() == is_v4);
        let chosen = [true, false].into_iter().filter_map(first).filter(|ip| self.targets.allows(*ip));
        Ok(chosen.map(|ip| Target { place, addr: SocketAddr::new(ip, door.port()), door: door.clone() }).collect())
    }

    async fn try_at(&self, record: &NodeRecord, target: &Target) -> DoorTry {
        let Target { place, door, addr } = target;
        let Ok(report) = timeout(DOOR_WAIT, door.check(record.node, *addr, self.net.tls())).await else {
            return DoorTry::Fails(fault(*place, Outcome::NoAnswer));
        };
        match report.outcome() {
            Outcome::Works => DoorTry::Works,
            outcome if outcome.was_tried() => {
                DoorTry::Fails(Fault { expired_at: report.expired_at, ..fault(*place, outcome) })
            }
            _ => DoorTry::NotTried,
        }
    }
}

const fn fault(place: u8, outcome: Outcome) -> Fault {
    Fault { fault: DoorFault { place, outcome }, expired_at: None }
}

/// Whether this machine has a route to the address. Without IPv6, it says nothing about a node that has only that.
fn has_route(ip: IpAddr) -> bool {
    let any: SocketAddr =
        if ip.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    // Connecting a UDP socket only selects the route. The port is that of «discard».
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect((ip, 9)).is_ok())
}
