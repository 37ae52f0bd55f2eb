//! Dialling a node back: only who answers at one of its addresses with its key is listed.
//!
//! Whoever sends a record makes the registry send packets to addresses of the sender's choice. So the number of dials
//! at once is bounded, every address has a rate of its own whoever names it, and nothing is said beyond the handshake. What
//! is at a private address is the registry's own network, which is no stranger's to choose: such an address is dialled where
//! the operator has exempted it, or where it is the one from which the record came.

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
use ipnet::IpNet;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

use crate::{
    config::BootstrapConfig,
    limits::SourceLimiter,
    places::Places,
    rules::{Listing, counted_addrs},
};

/// How long an address that is named earlier has once another has answered: a round trip between continents.
const PREFERENCE: Duration = Duration::from_millis(250);

/// Why a node was not found to be who it says. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// All places are taken; try again later.
    #[error("too many nodes are being dialled back; try again later")]
    Busy,
    /// All addresses were dialled often enough for now; try again later.
    #[error("the addresses were dialled back too often; try again later")]
    TooOften,
    /// All addresses that count are private or special ones.
    #[error(
        "the QUIC addresses are private or special ones, which this registry dials only where its operator allows it \
         (limits.exempt) or for who asks from there"
    )]
    Private,
    /// No address answered with the key in time, of those that count.
    #[error("no QUIC address in the network of the first one answered with the node's key")]
    Unreachable,
}

/// Dials nodes back with a key that lives as long as the process.
pub(crate) struct Dialer {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    key: SecretKey,
    places: Arc<Places>,
    exempt: Vec<IpNet>,
    targets: SourceLimiter,
    limit: Duration,
    transport: Arc<TransportConfig>,
}

impl Dialer {
    /// Binds a UDP socket for each address family that the system has.
    ///
    /// # Errors
    /// There is neither.
    pub(crate) fn bind(config: &BootstrapConfig, key: SecretKey) -> io::Result<Self> {
        let v4 = Endpoint::client(SocketAddr::from(([0; 4], 0)));
        let v6 = Endpoint::client(SocketAddr::from(([0; 16], 0))).ok();
        let (v4, v6) = match (v4, v6) {
            (Err(error), None) => return Err(error),
            (v4, v6) => (v4.ok(), v6),
        };
        let mut transport = TransportConfig::default();
        let limit = config.times.dial;
        // What is longer than the idle timeout can hold is bounded by `timeout` below anyway.
        transport.max_idle_timeout(IdleTimeout::try_from(limit).ok());
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        Ok(Self {
            v4,
            v6,
            key,
            places: Places::new(config.limits.max_dials, &config.limits.exempt),
            exempt: config.limits.exempt.clone(),
            targets: SourceLimiter::new(config.limits.dials_per_minute, &config.limits.exempt),
            limit,
            transport: Arc::new(transport),
        })
    }

    /// Has the node of `record`, which is listed or isn't, prove its key, because `asker` has sent the record. Says where it did.
    ///
    /// # Errors
    /// It didn't, or was not asked.
    pub(crate) async fn prove(&self, record: &NodeRecord, asker: IpAddr, is_listed: bool) -> Result<IpAddr, DialError> {
        let named: Vec<_> = counted_addrs(record).filter(|addr| self.may_dial(addr.ip(), asker)).collect();
        if named.is_empty() {
            return Err(DialError::Private);
        }
        let _place = self.places.try_take(asker, record.node, is_listed).ok_or(DialError::Busy)?;
        let allowed: Vec<_> = named.into_iter().filter(|addr| self.targets.allows(addr.ip())).collect();
        if allowed.is_empty() {
            return Err(DialError::TooOften);
        }
        self.dial_any(&allowed, record.node).await.ok_or(DialError::Unreachable)
    }

    fn may_dial(&self, address: IpAddr, asker: IpAddr) -> bool {
        let (address, asker) = (address.to_canonical(), asker.to_canonical());
        // One machine's two names for itself.
        let is_own = |ip: IpAddr| ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
        special::is_public(address)
            || address == asker
            || (is_own(address) && is_own(asker))
            || self.exempt.iter().any(|range| range.contains(&address))
    }

    /// Whether a listed node proves its key now, at the address where it proved it to be listed: it counts in that one's
    /// network, so an answer from elsewhere would let one machine hold the places of many networks that it was once in.
    ///
    /// How often and how many at once is for the prober to bound: strangers who use up an address's rate must not make
    /// its node seem gone.
    pub(crate) async fn probe(&self, listing: &Listing) -> bool {
        let is_proved = |addr: &SocketAddr| addr.ip().to_canonical() == listing.proved.to_canonical();
        let addrs: Vec<_> = listing.record.quic_addrs.iter().copied().filter(is_proved).collect();
        self.dial_any(&addrs, listing.record.node).await.is_some()
    }

    /// Dials all at once. The address that is named first wins if it answers soon after another: a node with two
    /// networks counts in the same one each time.
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

    /// Forgets the addresses that were not dialled lately.
    pub(crate) fn forget_quiet(&self) {
        self.targets.forget_quiet();
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
