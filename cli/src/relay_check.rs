//! Checks whether media can be relayed from here: over each transport that a node offers, a STUN Binding, two
//! allocations, and a packet from one to the other.
//!
//! The client is separate from the relay's own code except for the framing: it must not share its faults.

mod channel;
mod error;
mod message;
mod url;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_client::IceServer;
use chappe_discovery::{net::Net, tls};
use rustls::ClientConfig;
use tokio::time::timeout;

pub(crate) use self::error::RelayError;
pub(crate) use self::url::{RelayUrl, Transport};
use self::{
    channel::Channel,
    message::{Answer, Request},
};

/// Time limit for one URL. A Binding and two allocations take nine round trips.
const MAX_CHECK: Duration = Duration::from_secs(12);

/// Maximum number of URLs that are tried. A node with two addresses and TLS has four.
const MAX_URLS: usize = 8;

/// Time limit for the Binding that finds out whether the relay has another address than it names.
const MAX_PROBE: Duration = Duration::from_secs(2);

/// Sends of the packet through the relay before it counts as lost.
const LOOP_TRIES: usize = 3;

/// How long each of them is awaited.
const LOOP_WAIT: Duration = Duration::from_millis(700);

const PAYLOAD: &[u8] = b"chappe doctor";

/// The result for one URL.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) url: RelayUrl,
    pub(crate) outcome: Result<Worked, RelayError>,
}

/// What a working relay has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worked {
    /// This machine's address as the relay sees it.
    pub(crate) mapped: SocketAddr,
    /// The address that peers send to.
    pub(crate) relayed: SocketAddr,
    /// From sending a packet to one allocation until it arrived at the other.
    pub(crate) took: Duration,
}

/// How to reach relays.
pub(crate) struct RelayChecker<'a> {
    pub(crate) net: &'a Net,
    pub(crate) tls: Arc<ClientConfig>,
    /// Addresses at which the node itself answers.
    pub(crate) node_ips: Vec<IpAddr>,
}

/// A client with an allocation.
struct Allocated {
    channel: Channel,
    relayed: SocketAddr,
}

/// Whether a STUN server answers at a UDP address.
///
/// # Errors
/// Why not.
pub(crate) async fn answers(addr: SocketAddr) -> Result<(), RelayError> {
    let mut channel = Channel::open(Transport::Udp, "", addr, &tls::config()).await?;
    let answer = channel.ask(&Request::binding()).await?;
    answer.mapped.map(drop).ok_or(RelayError::NotARelay)
}

impl RelayChecker<'_> {
    /// Checks each transport of the servers that need credentials. Returns an empty list if there is none.
    pub(crate) async fn check_all(&self, servers: &[IceServer]) -> Vec<Checked> {
        let offered = servers.iter().filter(|server| server.credential.is_some());
        let urls = offered.flat_map(|server| server.urls.iter().map(move |url| (server, url)));
        let checks = urls.filter_map(|(server, text)| Some((server, text.parse::<RelayUrl>().ok()?))).take(MAX_URLS);
        // One after the other: they would delay each other, and the node answers a source ten times a second.
        let mut checked = Vec::new();
        for (server, url) in checks {
            let outcome = self.check(server, &url).await;
            checked.push(Checked { url, outcome });
        }
        checked
    }

    async fn check(&self, server: &IceServer, url: &RelayUrl) -> Result<Worked, RelayError> {
        let ips = self.net.names().lookup(url.host()).await?;
        let addr = SocketAddr::new(*ips.first().ok_or(RelayError::NoAnswer(url.transport()))?, url.port());
        let result = timeout(MAX_CHECK, self.exchange(server, url, addr)).await;
        match result.unwrap_or(Err(RelayError::NoAnswer(url.transport()))) {
            Err(error @ (RelayError::NoAnswer(_) | RelayError::Reach(_))) if url.transport() == Transport::Udp => {
                Err(self.other_address(url, addr).await.unwrap_or(error))
            }
            other => other,
        }
    }

    /// Finds out whether a relay that doesn't answer over UDP answers at the address of its node.
    async fn other_address(&self, url: &RelayUrl, named: SocketAddr) -> Option<RelayError> {
        let others = self.node_ips.iter().filter(|ip| **ip != named.ip() && ip.is_ipv4() == named.is_ipv4());
        for ip in others {
            let probe = async {
                let addr = SocketAddr::new(*ip, named.port());
                let mut channel = Channel::open(Transport::Udp, url.host(), addr, &self.tls).await?;
                channel.ask(&Request::binding()).await
            };
            if matches!(timeout(MAX_PROBE, probe).await, Ok(Ok(Answer { mapped: Some(_), .. }))) {
                return Some(RelayError::OtherAddress { named: named.ip(), answers: *ip });
            }
        }
        None
    }

    async fn exchange(&self, server: &IceServer, url: &RelayUrl, addr: SocketAddr) -> Result<Worked, RelayError> {
        let mut one = Channel::open(url.transport(), url.host(), addr, &self.tls).await?;
        let mapped = one.ask(&Request::binding()).await?.mapped.ok_or(RelayError::NotARelay)?;
        let mut one = allocate(one, server).await?;
        let other = Channel::open(url.transport(), url.host(), addr, &self.tls).await?;
        let mut other = allocate(other, server).await?;
        one.permit(server, other.relayed).await?;
        other.permit(server, one.relayed).await?;
        let took = pass(&mut one, &mut other).await;
        // Otherwise the allocations would stay for ten minutes.
        for allocated in [one, other] {
            allocated.end(server).await;
        }
        Ok(Worked { mapped, relayed: took.1, took: took.0? })
    }
}

/// Sends a packet from one allocation to the other. Returns the time until its arrival, and the address it was sent to.
async fn pass(one: &mut Allocated, other: &mut Allocated) -> (Result<Duration, RelayError>, SocketAddr) {
    let to = other.relayed;
    for _ in 0..LOOP_TRIES {
        let since = Instant::now();
        if let Err(error) = one.channel.send(&message::send_indication(to, PAYLOAD)).await {
            return (Err(error), to);
        }
        let arrives = async {
            loop {
                let packet = other.channel.receive().await?;
                if message::data_of(&packet).is_some_and(|(peer, data)| peer == one.relayed && data == PAYLOAD) {
                    return Ok(since.elapsed());
                }
            }
        };
        if let Ok(result) = timeout(LOOP_WAIT, arrives).await {
            return (result, to);
        }
    }
    (Err(RelayError::Lost), to)
}

/// Makes an allocation.
async fn allocate(mut channel: Channel, server: &IceServer) -> Result<Allocated, RelayError> {
    let challenge = channel.ask(&Request::allocate()).await?;
    channel.remember(challenge);
    let answer = channel.ask_signed(&Request::allocate(), server).await?;
    let relayed = answer.relayed.ok_or_else(|| RelayError::of_code(answer.code))?;
    Ok(Allocated { channel, relayed })
}

impl Allocated {
    async fn permit(&mut self, server: &IceServer, peer: SocketAddr) -> Result<(), RelayError> {
        match self.channel.ask_signed(&Request::permission(peer), server).await?.code {
            None => Ok(()),
            code => Err(RelayError::of_code(code)),
        }
    }

    async fn end(mut self, server: &IceServer) {
        // It ends by itself if this fails.
        let _ = timeout(MAX_PROBE, self.channel.ask_signed(&Request::end(), server)).await;
    }
}

#[cfg(test)]
mod tests;
