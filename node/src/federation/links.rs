//! All links of this node: dialling, accepting, and which of two stays.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, SecretKey},
    link_tls,
    record::{MAX_CLOCK_SKEW, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use dashmap::DashMap;
use futures_util::{FutureExt as _, StreamExt as _, future::Shared, stream::FuturesUnordered};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep,
};

use super::{
    hello::{self, HELLO_STREAM, Hello},
    link::{CloseReason, Link},
    membership::Event,
};
use crate::{
    core::Core,
    membership::{Greeting, Verdict, admission::Refusal},
    placement::Network,
};

/// How long a dial may take: a few round trips of the longest paths, and a dial-back of the other side.
const DIAL_WAIT: Duration = Duration::from_secs(4);
/// How long a dial-back may take; less than the other side waits for its outcome.
const DIAL_BACK_WAIT: Duration = Duration::from_secs(2);
/// How long an accepted connection may take to show its record.
const HELLO_WAIT: Duration = Duration::from_secs(5);
/// Dials at once; beyond, the caller is told that the peer is unreachable. A joiner dials a whole federation.
const MAX_DIALS: usize = 512;
/// Packets that wait for a link to come up: probes of one or two periods.
const EARLY_PACKETS: usize = 4;
/// Handshakes of others at once, half a millisecond of CPU each.
const MAX_INCOMING: usize = 256;
/// Handshakes from one /24 or /48 in a second, with a burst of ten times as many: a restart of a whole test network.
const HANDSHAKES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// After this silence a link is closed; membership opens it again when it has something to say.
const LINK_IDLE: Duration = Duration::from_secs(60);
/// Two dials that cross are at most this far apart: the first words of the longest paths.
const CROSSING: Duration = Duration::from_secs(1);
/// How long the next address of a peer waits for the one before it: a black hole costs no more.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

/// Why there is no link to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// No record of the node is known, so there is no address to dial.
    #[error("no record of the node is known")]
    Unknown,
    /// No address of the node answered with its key in time.
    #[error("no address of the node answered with its key")]
    Unreachable,
    /// The node refused.
    #[error("the node refused the link: {0}")]
    Refused(Refusal),
    /// Too many dials are under way.
    #[error("too many dials are under way")]
    Busy,
}

type Dialled = Shared<oneshot::Receiver<Result<Arc<Link>, DialError>>>;

/// A dial under way.
#[derive(Clone, Debug)]
struct Dial {
    since: Instant,
    link: Dialled,
    early: Arc<Early>,
}

/// Packets that are sent as soon as a new connection can carry them: they spare a round trip.
#[derive(Debug, Default)]
struct Early(Mutex<Vec<Bytes>>);

impl Early {
    /// Beyond the bound a packet is lost, as packets may be.
    fn push(&self, packet: Bytes) {
        let mut packets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if packets.len() < EARLY_PACKETS {
            packets.push(packet);
        }
    }

    fn send(&self, connection: &Connection) {
        let packets = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for packet in packets {
            // It may be lost, as packets may be.
            let _ = connection.send_datagram(packet);
        }
    }
}

/// The links of a node, by peer.
#[derive(Debug)]
pub(crate) struct Links {
    endpoint: Endpoint,
    key: SecretKey,
    max_links: usize,
    table: DashMap<NodeId, Arc<Link>>,
    dials: Mutex<HashMap<NodeId, Dial>>,
    handshakes: DefaultKeyedRateLimiter<Network>,
    /// Room for handshakes and first words of others.
    incoming: Arc<Semaphore>,
}

impl Links {
    /// Binds the UDP socket.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn bind(listen: SocketAddr, key: SecretKey, max_links: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        let crypto = link_tls::server_config(&key).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport()))
            .max_incoming(MAX_INCOMING)
            // The first packets of connections that are not accepted yet: one flight each.
            .incoming_buffer_size(8 * 1024)
            .incoming_buffer_size_total(MAX_INCOMING as u64 * 8 * 1024)
            .migration(false);
        let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no tokio runtime"))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)?;
        let burst = HANDSHAKES_PER_SECOND.saturating_mul(NonZeroU32::new(10).expect("not zero"));
        let handshakes = RateLimiter::dashmap(Quota::per_second(HANDSHAKES_PER_SECOND).allow_burst(burst));
        let incoming = Arc::new(Semaphore::new(MAX_INCOMING));
        Ok(Self { endpoint, key, max_links, table: DashMap::new(), dials: Mutex::default(), handshakes, incoming })
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The link to a node, if it is up.
    pub(crate) fn find(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.table.get(node).filter(|link| link.is_open()).map(|link| link.clone())
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

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(LINK_IDLE).expect("a minute is a valid timeout")))
        // Two lanes; first words or exchanges.
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        // One lane at 100 Mbit/s over a round trip of 80 ms; four streams of it.
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .send_window(4 * 1024 * 1024)
        .datagram_receive_buffer_size(Some(64 * 1024))
        .datagram_send_buffer_size(64 * 1024);
    transport
}

/// The link to a node; dials where there is none. Callers that want the same node share one dial.
pub(crate) async fn connect(core: &Arc<Core>, node: NodeId) -> Result<Arc<Link>, DialError> {
    if let Some(link) = core.links.find(&node) {
        return Ok(link);
    }
    let record = core.records.any(&node).ok_or(DialError::Unknown)?;
    redial(core, &record).await
}

/// A new link by a record, even where there is one. Callers that want the same node share one dial.
pub(crate) async fn redial(core: &Arc<Core>, record: &SignedRecord) -> Result<Arc<Link>, DialError> {
    let dial = start_dial(core, record)?;
    dial.link.await.unwrap_or(Err(DialError::Unreachable))
}

fn start_dial(core: &Arc<Core>, record: &SignedRecord) -> Result<Dial, DialError> {
    let node = record.node;
    let mut dials = core.links.dials.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dial) = dials.get(&node) {
        return Ok(dial.clone());
    }
    if dials.len() >= MAX_DIALS {
        core.metrics.dials_refused.inc();
        return Err(DialError::Busy);
    }
    let (sender, receiver) = oneshot::channel();
    let dial = Dial { since: Instant::now(), link: receiver.shared(), early: Arc::default() };
    dials.insert(node, dial.clone());
    drop(dials);
    let (core, addrs, early) = (core.clone(), record.quic_addrs.clone(), dial.early.clone());
    core.tasks.clone().spawn(async move {
        let result = match tokio::time::timeout(DIAL_WAIT, dial_node(&core, node, &addrs, &early)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Unreachable),
        };
        core.links.dials.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Ok(link) = &result {
            early.send(link.connection());
        }
        // Nobody may be waiting any more; the link is in the table all the same.
        let _ = sender.send(result);
    });
    Ok(dial)
}

/// Sends a membership packet, over a new link where there is none yet.
pub(crate) fn send_datagram(core: &Arc<Core>, node: NodeId, packet: Bytes) {
    if let Some(link) = core.links.find(&node) {
        link.send_datagram(packet);
        return;
    }
    let dial = core.records.any(&node).and_then(|record| start_dial(core, &record).ok());
    match dial {
        Some(dial) => dial.early.push(packet),
        None => {
            core.metrics.datagrams_dropped.inc();
        }
    }
}

async fn dial_node(
    core: &Arc<Core>,
    node: NodeId,
    addrs: &[SocketAddr],
    early: &Early,
) -> Result<Arc<Link>, DialError> {
    match greet(core, node, handshake(core, node, addrs).await?, early).await {
        Err(DialError::Refused(Refusal::Duplicate)) => {
            // The peer's own dial is on its way: wait for it here.
            while core.links.find(&node).is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            core.links.find(&node).ok_or(DialError::Unreachable)
        }
        result => result,
    }
}

/// A connection to the first address that answers with the node's key; each starts a moment after the one before.
async fn handshake(core: &Core, node: NodeId, addrs: &[SocketAddr]) -> Result<Connection, DialError> {
    let mut stagger = Duration::ZERO;
    let mut dials = FuturesUnordered::new();
    for addr in addrs {
        let wait = stagger;
        stagger += ADDRESS_STAGGER;
        dials.push(async move {
            sleep(wait).await;
            handshake_with(core, node, *addr).await
        });
    }
    while let Some(connection) = dials.next().await {
        if let Some(connection) = connection {
            return Ok(connection);
        }
    }
    Err(DialError::Unreachable)
}

async fn handshake_with(core: &Core, node: NodeId, addr: SocketAddr) -> Option<Connection> {
    let crypto = link_tls::client_config(&core.links.key, node).ok()?;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).ok()?));
    config.transport_config(Arc::new(transport()));
    core.links.endpoint.connect_with(config, addr, link_tls::SERVER_NAME).ok()?.await.ok()
}

/// The first words on a connection that this node has dialled.
async fn greet(core: &Arc<Core>, node: NodeId, connection: Connection, early: &Early) -> Result<Arc<Link>, DialError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| DialError::Unreachable)?;
    send.write_all(&[HELLO_STREAM]).await.map_err(|_| DialError::Unreachable)?;
    hello::send(&mut send, &core.hello()).await.map_err(|_| DialError::Unreachable)?;
    // The other side reads them once it has taken the link.
    early.send(&connection);
    match hello::receive(&mut receive).await {
        Ok(Hello::Record { record, ticket, clock }) => {
            core.note_clock(node, clock);
            match judge(core, node, record, ticket, clock, true).await {
                Ok(epoch) => Ok(up(core, node, epoch, true, connection)),
                Err(refusal) => {
                    CloseReason::Refused.close(&connection);
                    Err(DialError::Refused(refusal))
                }
            }
        }
        Ok(Hello::Refused { refusal, clock }) => {
            core.note_clock(node, clock);
            core.note_refusal(node, refusal);
            Err(DialError::Refused(refusal))
        }
        Err(_) => Err(DialError::Unreachable),
    }
}

/// Accepts links until the endpoint is closed.
pub(crate) async fn accept(core: Arc<Core>) {
    while let Some(incoming) = core.links.endpoint.accept().await {
        if !incoming.remote_address_validated() {
            // An unvalidated address gets a Retry, which costs no state. It fails only where one was sent already.
            let _ = incoming.retry();
            continue;
        }
        if core.links.handshakes.check_key(&Network::of(&incoming.remote_address())).is_err() {
            core.metrics.handshakes_refused.inc();
            incoming.refuse();
            continue;
        }
        let Ok(place) = core.links.incoming.clone().try_acquire_owned() else {
            core.metrics.handshakes_refused.inc();
            incoming.refuse();
            continue;
        };
        let core = core.clone();
        core.tasks.clone().spawn(async move {
            if tokio::time::timeout(HELLO_WAIT, accept_one(&core, incoming)).await.is_err() {
                core.metrics.handshakes_refused.inc();
            }
            drop(place);
        });
    }
}

async fn accept_one(core: &Arc<Core>, incoming: Incoming) {
    let Ok(connection) = incoming.await else { return };
    let Some(peer) = connection.peer_identity().and_then(|identity| link_tls::peer_id_of_any(&*identity)) else {
        CloseReason::Protocol.close(&connection);
        return;
    };
    // Who only wanted to see this node's key proven closes now, and this ends.
    let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
    let mut first = [0];
    if receive.read_exact(&mut first).await.is_err() || first[0] != HELLO_STREAM {
        core.metrics.link_protocol_errors.inc();
        CloseReason::Protocol.close(&connection);
        return;
    }
    let refusal = match hello::receive(&mut receive).await {
        Ok(Hello::Record { record, ticket, clock }) => {
            core.note_clock(peer, clock);
            match judge(core, peer, record, ticket, clock, false).await {
                Ok(epoch) if core.links.gives_way(core.me, peer, epoch) => Refusal::Duplicate,
                Ok(epoch) => {
                    if hello::send(&mut send, &core.hello()).await.is_ok() {
                        up(core, peer, epoch, false, connection);
                    }
                    return;
                }
                Err(refusal) => refusal,
            }
        }
        _ => Refusal::Record,
    };
    core.metrics.handshakes_refused.inc();
    tracing::debug!(peer = peer.short(), %refusal, "refused a link");
    let _ = hello::send(&mut send, &Hello::Refused { refusal, clock: core.clock.now() }).await;
    // The reason has to arrive before the connection ends; the peer closes when it has read it.
    connection.closed().await;
}

/// Has membership judge what a peer has shown, and gives its epoch back. `reached`: this node has dialled it.
async fn judge(
    core: &Arc<Core>,
    peer: NodeId,
    record: Bytes,
    ticket: Option<Bytes>,
    clock: UnixTime,
    reached: bool,
) -> Result<u64, Refusal> {
    // One of the two would take the other's records for expired or from the future: both see it now, and alike.
    let ours = core.clock.now();
    if ours.saturating_since(clock).max(clock.saturating_since(ours)) > MAX_CLOCK_SKEW {
        return Err(Refusal::Clock);
    }
    let record: SignedRecord = Signed::<NodeRecord>::decode(record).map_err(|_| Refusal::Record)?;
    // Whoever is dialled by an old record may have moved on to new addresses, but not be another node.
    if record.node != peer {
        return Err(Refusal::Record);
    }
    let epoch = record.epoch;
    let greeting = Greeting { record, ticket };
    match ask_membership(core, greeting.clone(), reached).await? {
        Verdict::Welcome => return Ok(epoch),
        Verdict::Refused(refusal) => return Err(refusal),
        Verdict::DialBack => {}
    }
    let seen = tokio::time::timeout(DIAL_BACK_WAIT, handshake(core, peer, &greeting.record.quic_addrs)).await;
    let Ok(Ok(connection)) = seen else { return Err(Refusal::Unreachable) };
    CloseReason::Seen.close(&connection);
    match ask_membership(core, greeting, true).await? {
        Verdict::Welcome => Ok(epoch),
        Verdict::Refused(refusal) => Err(refusal),
        // It was reached just now.
        Verdict::DialBack => Err(Refusal::Unreachable),
    }
}

async fn ask_membership(core: &Core, greeting: Greeting, reached: bool) -> Result<Verdict, Refusal> {
    let (reply, verdict) = oneshot::channel();
    core.membership.send(Event::Greet { greeting, reached, reply }).await.map_err(|_| Refusal::Full)?;
    verdict.await.map_err(|_| Refusal::Full)
}

fn up(core: &Arc<Core>, peer: NodeId, epoch: u64, dialled: bool, connection: Connection) -> Arc<Link> {
    let (link, lanes) = Link::new(peer, epoch, dialled, connection, core.config.times.delivery);
    core.links.insert(&link);
    core.metrics.links_opened.inc();
    tracing::debug!(peer = peer.short(), dialled, "link up");
    let (core, running) = (core.clone(), link.clone());
    core.tasks.clone().spawn(async move {
        let started = Instant::now();
        super::link::run(core.clone(), running.clone(), lanes).await;
        core.links.remove(&running);
        core.metrics.links_closed.inc();
        tracing::debug!(peer = peer.short(), after = ?started.elapsed(), "link down");
    });
    link
}
