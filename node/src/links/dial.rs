//! Dialling. Concurrent callers for the same node share one dial, and its first packets are sent with the hello.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{keys::NodeId, link_tls, record::SignedRecord};
use futures_util::{FutureExt as _, StreamExt as _, future::Shared, stream::FuturesUnordered};
use quinn::{Connection, crypto::rustls::QuicClientConfig};
use tokio::{sync::oneshot, time::sleep};
use tracing::Instrument as _;

use super::{
    Links,
    admission::PeerHello,
    endpoint::transport,
    hello::{self, HELLO_STREAM, Hello},
    link::{CloseReason, Link},
};
use crate::membership::{admission::AdmissionRefusal, event::Event};

/// Time limit for a dial: a few round trips of the longest paths, and the peer's dial-back.
const DIAL_WAIT: Duration = Duration::from_secs(4);
/// Packets buffered until a link is open: the probes of one or two periods.
const EARLY_PACKETS: usize = 4;
/// Delay between dials of a peer's addresses, so that an unreachable one costs no more than this.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

/// Why there is no link to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// No record of the node is known, so its address is unknown.
    #[error("no record of the node is known")]
    Unknown,
    /// No address proved the node's key in time.
    #[error("no address of the node answered with its key")]
    Unreachable,
    #[error("the node refused the link: {0}")]
    Refused(AdmissionRefusal),
    #[error("too many dials in progress")]
    Busy,
}

type Dialled = Shared<oneshot::Receiver<Result<Arc<Link>, DialError>>>;

/// A dial in progress.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) since: Instant,
    link: Dialled,
    early: Arc<Early>,
}

/// Packets to send as soon as a new connection is ready, which saves a round trip.
#[derive(Debug, Default)]
struct Early(Mutex<Vec<Bytes>>);

impl Early {
    /// Packets beyond the bound are dropped; the protocol tolerates loss.
    fn push(&self, packet: Bytes) {
        let mut packets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if packets.len() < EARLY_PACKETS {
            packets.push(packet);
        }
    }

    fn send(&self, connection: &Connection) {
        let packets = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for packet in packets {
            // Datagrams may be lost.
            let _ = connection.send_datagram(packet);
        }
    }
}

impl Links {
    /// Returns the link to a node. Dials if there is none; concurrent callers share one dial.
    pub(crate) async fn connect(self: &Arc<Self>, node: NodeId) -> Result<Arc<Link>, DialError> {
        if let Some(link) = self.find(&node) {
            return Ok(link);
        }
        let record = self.members.records.any(&node).ok_or(DialError::Unknown)?;
        let dial = self.start_dial(node, &self.seen.own_addrs(&record))?;
        dial.link.await.unwrap_or(Err(DialError::Unreachable))
    }

    /// Opens a new link by a record, even if one is open. Concurrent callers share one dial. Dials only the first
    /// address: it is the one that determines the network, and the others may be somebody else's.
    pub(crate) async fn redial(self: &Arc<Self>, record: &SignedRecord) -> Result<Arc<Link>, DialError> {
        let first = record.quic_addrs.first().map(std::slice::from_ref).unwrap_or_default();
        let dial = self.start_dial(record.node, first)?;
        dial.link.await.unwrap_or(Err(DialError::Unreachable))
    }

    fn start_dial(self: &Arc<Self>, node: NodeId, addrs: &[SocketAddr]) -> Result<Dial, DialError> {
        let mut dials = self.dials();
        if let Some(dial) = dials.get(&node) {
            return Ok(dial.clone());
        }
        if dials.len() >= self.context.config.federation.max_dials {
            self.context.metrics.dials_refused.inc();
            return Err(DialError::Busy);
        }
        let (sender, receiver) = oneshot::channel();
        let dial = Dial { since: Instant::now(), link: receiver.shared(), early: Arc::default() };
        dials.insert(node, dial.clone());
        drop(dials);
        let (links, addrs, early) = (self.clone(), addrs.to_vec(), dial.early.clone());
        let span = tracing::debug_span!("dial", peer = node.short());
        let task = async move {
            let dialling = tokio::time::timeout(DIAL_WAIT, links.dial_node(node, &addrs, &early));
            // Even after a panic, the waiting callers have to get a result.
            let result = match links.context.tasks.catch_panic(dialling).await {
                Some(Ok(result)) => result,
                Some(Err(_)) | None => Err(DialError::Unreachable),
            };
            links.dials().remove(&node);
            if let Ok(link) = &result {
                early.send(link.connection());
            }
            // The callers may be gone. The link is in the table all the same.
            let _ = sender.send(result);
        };
        self.context.tasks.spawn(task.instrument(span));
        Ok(dial)
    }

    /// Sends a membership packet. Dials if there is no link.
    pub(crate) fn send_datagram(self: &Arc<Self>, node: NodeId, packet: Bytes) {
        if let Some(link) = self.find(&node) {
            link.send_datagram(packet);
            return;
        }
        let dial = self
            .members
            .records
            .any(&node)
            .and_then(|record| self.start_dial(node, &self.seen.own_addrs(&record)).ok());
        match dial {
            Some(dial) => dial.early.push(packet),
            None => {
                self.context.metrics.datagrams_dropped.inc();
            }
        }
    }

    async fn dial_node(
        self: &Arc<Self>,
        node: NodeId,
        addrs: &[SocketAddr],
        early: &Early,
    ) -> Result<Arc<Link>, DialError> {
        match self.exchange_hellos(node, self.handshake(node, addrs).await?, early).await {
            Err(DialError::Refused(AdmissionRefusal::Duplicate)) => {
                // The peer's own dial is in progress: wait for its link.
                while self.find(&node).is_none() {
                    sleep(Duration::from_millis(20)).await;
                }
                self.find(&node).ok_or(DialError::Unreachable)
            }
            result => result,
        }
    }

    /// Connects to the first address that proves the node's key. The dials start [`ADDRESS_STAGGER`] apart.
    pub(super) async fn handshake(&self, node: NodeId, addrs: &[SocketAddr]) -> Result<Connection, DialError> {
        let mut stagger = Duration::ZERO;
        let mut dials = FuturesUnordered::new();
        for addr in addrs {
            let wait = stagger;
            stagger += ADDRESS_STAGGER;
            dials.push(async move {
                sleep(wait).await;
                self.handshake_with(node, *addr).await
            });
        }
        while let Some(connection) = dials.next().await {
            if let Some(connection) = connection {
                return Ok(connection);
            }
        }
        Err(DialError::Unreachable)
    }

    async fn handshake_with(&self, node: NodeId, addr: SocketAddr) -> Option<Connection> {
        let crypto = link_tls::client_config(&self.context.key, node).ok()?;
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).ok()?));
        config.transport_config(Arc::new(transport()));
        self.endpoint.connect_with(config, addr, link_tls::SERVER_NAME).ok()?.await.ok()
    }

    /// Exchanges hellos on a connection that this node dialled.
    async fn exchange_hellos(
        self: &Arc<Self>,
        node: NodeId,
        connection: Connection,
        early: &Early,
    ) -> Result<Arc<Link>, DialError> {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_| DialError::Unreachable)?;
        send.write_all(&[HELLO_STREAM]).await.map_err(|_| DialError::Unreachable)?;
        hello::send(&mut send, &self.hello()).await.map_err(|_| DialError::Unreachable)?;
        // The peer reads these after it has accepted the link.
        early.send(&connection);
        match hello::receive(&mut receive).await {
            Ok(Hello::Record { record, ticket, clock }) => {
                self.health.note_clock(node, clock);
                match self.check_admission(node, connection.remote_address(), PeerHello { record, ticket, clock }).await
                {
                    Ok(epoch) => self.link_up(node, epoch, true, connection).await.ok_or(DialError::Unreachable),
                    Err(refusal) => {
                        CloseReason::Refused.close(&connection);
                        Err(DialError::Refused(refusal))
                    }
                }
            }
            Ok(Hello::Refused { refusal, clock }) => {
                self.health.note_clock(node, clock);
                if refusal == AdmissionRefusal::Stale {
                    // If the queue is full, the next dial reports it again.
                    let _ = self.membership.try_send(Event::Overtaken(node));
                } else {
                    self.health.warn_refused(node, refusal);
                }
                Err(DialError::Refused(refusal))
            }
            Err(_) => Err(DialError::Unreachable),
        }
    }
}
