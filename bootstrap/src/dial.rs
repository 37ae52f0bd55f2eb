//! Dial-backs: a node is listed only if it proves its key at one of its addresses.
//!
//! A record makes the registry send packets to addresses that its sender has chosen. So concurrent dials are limited,
//! each address has a rate limit for all senders together, and nothing is sent beyond the handshake.
//!
//! Private addresses are in the registry's own network. They are dialled only if the operator has exempted them, or if
//! the record came from the same address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chappe_common::{
    keys::{NodeId, SecretKey},
    link_tls::{SERVER_NAME, client_config},
    record::NodeRecord,
    special,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

use crate::{
    dial_limiter::DialLimiter,
    limits::{ExemptNetworks, SourceLimiter},
    live::LiveConfig,
    rules::{Listing, counted_addrs},
};

/// How long a dial to a preferred address may take after another one has succeeded: a round trip between continents.
const PREFERENCE: Duration = Duration::from_millis(250);

/// Why a node did not prove its key. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// The limit of concurrent dials is reached. Retry later.
    #[error("too many nodes are being dialled back; try again later")]
    Busy,
    /// The rate limits of all addresses are reached. Retry later.
    #[error("the addresses were dialled back too often; try again later")]
    TooOften,
    /// All usable addresses are private or special.
    #[error(
        "the QUIC addresses are private or special; this registry dials them only if its operator exempts them \
                 (limits.exempt), or for a request from the same address"
    )]
    Private,
    /// No usable address answered with the node's key in time.
    #[error("no QUIC address in the network of the first one answered with the node's key")]
    Unreachable,
}

/// Whether packets may be sent to `address` for a node or client at `client`.
pub(crate) fn may_dial(address: IpAddr, client: IpAddr, exempt: &ExemptNetworks) -> bool {
    let (address, client) = (address.to_canonical(), client.to_canonical());
    // Both loopback addresses are this machine.
    let is_own = |ip: IpAddr| ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
    special::is_public(address) || address == client || (is_own(address) && is_own(client)) || exempt.contains(address)
}

/// Dials nodes back, with a key that is created at start.
pub(crate) struct Dialer {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    key: SecretKey,
    dial_limiter: Arc<DialLimiter>,
    exempt: ExemptNetworks,
    /// The dial-backs to each address, for all sources together.
    targets: Arc<SourceLimiter>,
    limit: Duration,
    transport: Arc<TransportConfig>,
}

impl Dialer {
    /// Binds a UDP socket for each address family that the system has. `limit` is for dialling one address.
    ///
    /// # Errors
    /// There is neither.
    pub(crate) fn bind(limit: Duration, live: &LiveConfig, key: SecretKey) -> io::Result<Self> {
        let v4 = Endpoint::client(SocketAddr::from(([0; 4], 0)));
        let v6 = Endpoint::client(SocketAddr::from(([0; 16], 0))).ok();
        let (v4, v6) = match (v4, v6) {
            (Err(error), None) => return Err(error),
            (v4, v6) => (v4.ok(), v6),
        };
        let mut transport = TransportConfig::default();
        // What is longer than the idle timeout can hold is bounded by `timeout` below anyway.
        transport.max_idle_timeout(IdleTimeout::try_from(limit).ok());
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        Ok(Self {
            v4,
            v6,
            key,
            dial_limiter: Arc::clone(&live.dials),
            exempt: live.exempt.clone(),
            targets: Arc::clone(&live.dial_targets),
            limit,
            transport: Arc::new(transport),
        })
    }

    /// Makes the node of `record` prove its key, for a request from `asker`. Returns the address at which it did.
    ///
    /// # Errors
    /// The node did not prove its key, or was not dialled.
    pub(crate) async fn prove(
        &self,
        record: &NodeRecord,
        client: IpAddr,
        is_listed: bool,
    ) -> Result<IpAddr, DialError> {
        let named: Vec<_> = counted_addrs(record).filter(|addr| may_dial(addr.ip(), client, &self.exempt)).collect();
        if named.is_empty() {
            return Err(DialError::Private);
        }
        let _permit = self.dial_limiter.try_acquire(client, record.node, is_listed).ok_or(DialError::Busy)?;
        let allowed: Vec<_> = named.into_iter().filter(|addr| self.targets.allows(addr.ip())).collect();
        if allowed.is_empty() {
            return Err(DialError::TooOften);
        }
        self.dial_any(&allowed, record.node).await.ok_or(DialError::Unreachable)
    }

    /// Whether a listed node proves its key at the address for which it is listed. Other addresses do not count:
    /// otherwise one machine could occupy the limits of many networks in which it once was.
    ///
    /// The prober limits rate and concurrency. The rate limit for strangers does not apply, because they could use it
    /// up to make a node look unresponsive.
    pub(crate) async fn probe(&self, listing: &Listing) -> bool {
        let is_proved = |addr: &SocketAddr| addr.ip().to_canonical() == listing.proved.to_canonical();
        let addrs: Vec<_> = listing.record.quic_addrs.iter().copied().filter(is_proved).collect();
        self.dial_any(&addrs, listing.record.node).await.is_some()
    }

    /// Dials all addresses concurrently. The first one in the list is preferred if it answers soon after another, so
    /// that a node in two networks always counts in the same one.
    async fn dial_any(&self, addrs: &[SocketAddr], node: NodeId) -> Option<IpAddr> {
        let dial = |(rank, addr): (usize, SocketAddr)| async move { self.dial(addr, node).await.then_some(rank) };
        let mut dials: FuturesUnordered<_> = addrs.iter().copied().enumerate().map(dial).collect();
        let mut best = loop {
            match dials.next().await? {
                Some(rank) => break rank,
                None => continue,
            }
        };
        let better = async {
            while best > 0 {
                match dials.next().await {
                    Some(rank) => best = rank.map_or(best, |rank| best.min(rank)),
                    None => return,
                }
            }
        };
        let _ = timeout(PREFERENCE, better).await;
        addrs.get(best).map(|addr| addr.ip())
    }

    async fn dial(&self, addr: SocketAddr, node: NodeId) -> bool {
        let endpoint = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let (Some(endpoint), Some(config)) = (endpoint, self.config(node)) else { return false };
        let Ok(connecting) = endpoint.connect_with(config, addr, SERVER_NAME) else { return false };
        match timeout(self.limit, connecting).await {
            Ok(Ok(connection)) => {
                connection.close(VarInt::from_u32(0), b"proved");
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    fn config(&self, expected: NodeId) -> Option<ClientConfig> {
        let crypto = QuicClientConfig::try_from(client_config(&self.key, expected).ok()?).ok()?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        Some(config)
    }
}
