//! All links of this node: the table of them, and which of two stays.

mod accept;
mod dial;
mod judge;

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chappe_common::{
    keys::{NodeId, SecretKey},
    link_tls,
    record::NodeRecord,
};
use dashmap::DashMap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quinn::{
    AckFrequencyConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use tokio::sync::Semaphore;

use self::dial::Dial;
pub(crate) use self::{
    accept::accept,
    dial::{DialError, connect, redial, send_datagram},
};
use super::link::{CloseReason, Link};
use crate::{
    config::{FederationSection, HANDSHAKES_PART},
    core::Core,
    placement::Network,
    places::Places,
};

/// The first packets of a connection that is not accepted yet, in bytes: one flight.
const FIRST_FLIGHT: u64 = 8 * 1024;
/// The burst of handshakes, as a multiple of what a second allows.
const HANDSHAKES_BURST: u32 = 10;

/// After this silence a link is closed. Two of a thousand members have something to say to each other every twelve
/// minutes or so, and a new link for that costs more traffic, and more false alarms where packets are lost, than the
/// 36 KiB that a link takes meanwhile.
const LINK_IDLE: Duration = Duration::from_secs(30 * 60);
/// Of how many nodes it is kept where they were seen, and how many addresses of each: as many nodes as are known, and as many
/// addresses as a record has.
const MAX_SEEN: usize = 4096;
const MAX_SEEN_OF_ONE: usize = 4;
/// Two dials that cross are at most this far apart: the first words of the longest paths.
const CROSSING: Duration = Duration::from_secs(1);

/// The links of a node, by peer.
#[derive(Debug)]
pub(crate) struct Links {
    endpoint: Endpoint,
    key: SecretKey,
    max_links: usize,
    max_dials: usize,
    table: DashMap<NodeId, Arc<Link>>,
    dials: Mutex<HashMap<NodeId, Dial>>,
    handshakes: DefaultKeyedRateLimiter<Network>,
    /// Room for handshakes and first words of others.
    incoming: Arc<Places<Network>>,
    /// Where nodes have been seen with their keys, other than at their records' first addresses.
    seen: DashMap<NodeId, Vec<SocketAddr>>,
    dial_backs: DefaultKeyedRateLimiter<Network>,
    dialling_back: Semaphore,
}

impl Links {
    /// Binds the UDP socket.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn bind(config: &FederationSection, key: SecretKey) -> io::Result<Self> {
        let socket = UdpSocket::bind(config.listen)?;
        let crypto = link_tls::server_config(&key).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport()))
            .max_incoming(config.max_handshakes)
            .incoming_buffer_size(FIRST_FLIGHT)
            .incoming_buffer_size_total(FIRST_FLIGHT.saturating_mul(config.max_handshakes as u64))
            .migration(false);
        let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no tokio runtime"))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)?;
        let rate = |rate| NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let per_second = rate(config.handshakes_per_second);
        let burst = rate(config.handshakes_per_second.saturating_mul(HANDSHAKES_BURST));
        Ok(Self {
            endpoint,
            key,
            max_links: config.max_links,
            max_dials: config.max_dials,
            table: DashMap::new(),
            dials: Mutex::default(),
            handshakes: RateLimiter::dashmap(Quota::per_second(per_second).allow_burst(burst)),
            incoming: Places::new(config.max_handshakes, config.max_handshakes / HANDSHAKES_PART),
            seen: DashMap::new(),
            dial_backs: RateLimiter::dashmap(Quota::per_minute(rate(config.dial_backs_per_minute))),
            dialling_back: Semaphore::new(config.max_dial_backs),
        })
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The link to a node, if it is up.
    pub(crate) fn find(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.table.get(node).filter(|link| link.is_open()).map(|link| link.clone())
    }

    /// The addresses of a record that are its node's own: the first, at which it is a member, those of its network, and those at
    /// which it has been seen with its key. The record may name anybody's besides, who is to get no packets by it.
    pub(super) fn own_addrs(&self, record: &NodeRecord) -> Vec<SocketAddr> {
        let Some(first) = record.quic_addrs.first() else { return Vec::new() };
        let seen = self.seen.get(&record.node);
        let is_own = |addr: &&SocketAddr| {
            Network::of(addr) == Network::of(first)
                || seen.as_ref().is_some_and(|seen| seen.contains(&canonical(**addr)))
        };
        record.quic_addrs.iter().filter(is_own).copied().collect()
    }

    /// The node has proved its key at this address.
    fn note_seen(&self, node: NodeId, addr: SocketAddr) {
        if self.seen.len() >= MAX_SEEN && !self.seen.contains_key(&node) {
            return;
        }
        let mut seen = self.seen.entry(node).or_default();
        let addr = canonical(addr);
        seen.retain(|one| *one != addr);
        if seen.len() >= MAX_SEEN_OF_ONE {
            seen.remove(0);
        }
        seen.push(addr);
    }

    /// Forgets where nodes were seen that are not known any more.
    pub(crate) fn forget_seen(&self, is_known: impl Fn(&NodeId) -> bool) {
        self.seen.retain(|node, _| is_known(node));
    }

    /// Closes the link to a node that doesn't answer any more.
    pub(crate) fn close(&self, node: &NodeId) {
        if let Some((_, link)) = self.table.remove(node) {
            link.close(CloseReason::Lost);
        }
    }

    /// Closes the link to a former self of a node, which has started anew since.
    pub(crate) fn close_former(&self, node: &NodeId, epoch: u64) {
        if let Some((_, link)) = self.table.remove_if(node, |_, link| link.epoch() < epoch) {
            link.close(CloseReason::Replaced);
        }
    }

    /// Closes everything, and waits until the peers have been told.
    pub(crate) async fn shutdown(&self) {
        self.endpoint.close(VarInt::from_u32(CloseReason::Shutdown as u32), b"");
        self.endpoint.wait_idle().await;
    }

    /// How many links are up.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Forgets the networks that haven't dialled for a while.
    pub(crate) fn expire(&self) {
        self.handshakes.retain_recent();
        self.dial_backs.retain_recent();
    }

    /// Two nodes that dial each other at once keep the lower key's dial. Whether one from `peer`, which shows this epoch,
    /// has to give way. A dial that takes long may never arrive, and a link to a former self is dead: neither counts.
    fn gives_way(&self, me: NodeId, peer: NodeId, epoch: u64) -> bool {
        let dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        let dialling = dials.get(&peer).is_some_and(|dial| dial.since.elapsed() < CROSSING);
        drop(dials);
        let just_dialled = self
            .table
            .get(&peer)
            .is_some_and(|link| link.is_open() && link.dialled() && link.age() < CROSSING && link.epoch() >= epoch);
        me < peer && (dialling || just_dialled)
    }

    fn insert(&self, link: &Arc<Link>) {
        // The greeting of a former run may have been on its way when the new one's came.
        if self.table.get(&link.peer()).is_some_and(|known| known.epoch() > link.epoch() && known.is_open()) {
            link.close(CloseReason::Replaced);
            return;
        }
        if self.table.len() >= self.max_links && !self.table.contains_key(&link.peer()) {
            let idlest = self.table.iter().min_by_key(|entry| entry.last_used()).map(|entry| entry.clone());
            if let Some(idlest) = idlest {
                self.table.remove(&idlest.peer());
                idlest.close(CloseReason::Evicted);
            }
        }
        if let Some(old) = self.table.insert(link.peer(), link.clone()) {
            old.close(CloseReason::Replaced);
        }
    }

    fn remove(&self, link: &Arc<Link>) {
        self.table.remove_if(&link.peer(), |_, current| Arc::ptr_eq(current, link));
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Every other packet would be acknowledged at once, each time by a packet of its own. Five are half of what a new link
    // may have under way, and the delay is short, so that nobody waits for an acknowledgement to send on. A packet out of
    // order is told at once, as without this, so that loss is found as early.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(5))
        .max_ack_delay(Some(Duration::from_millis(2)))
        .reordering_threshold(VarInt::from_u32(1));
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(LINK_IDLE).expect("half an hour is a valid timeout")))
        // Two lanes; first words or exchanges.
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        // One lane at 100 Mbit/s over a round trip of 80 ms; four streams of it.
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .send_window(4 * 1024 * 1024)
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(64 * 1024))
        .datagram_send_buffer_size(64 * 1024);
    transport
}

fn up(core: &Arc<Core>, peer: NodeId, epoch: u64, dialled: bool, connection: Connection) -> Arc<Link> {
    core.links.note_seen(peer, connection.remote_address());
    let (link, queues) = Link::new(peer, epoch, dialled, connection, &core.config);
    core.links.insert(&link);
    core.metrics.links_opened.inc();
    tracing::debug!(peer = peer.short(), dialled, "link up");
    let (core, running) = (core.clone(), link.clone());
    core.tasks.clone().spawn(async move {
        let started = Instant::now();
        super::lanes::run(core.clone(), running.clone(), queues).await;
        core.links.remove(&running);
        core.metrics.links_closed.inc();
        tracing::debug!(peer = peer.short(), after = ?started.elapsed(), "link down");
    });
    link
}
