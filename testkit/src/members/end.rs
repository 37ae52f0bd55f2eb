//! A member's end of its link with the real node: it dials or accepts, greets, and serves the link until it ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, SecretKey},
    link_tls,
    record::NodeRecord,
    signed::Signed,
};
use chappe_node::membership::{Greeting, Verdict, admission::AdmissionRefusal, exchange::ExchangeMessage};
use quinn::{
    Connection, Endpoint, IdleTimeout, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig,
    crypto::rustls::QuicServerConfig,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    engines::MESSAGES,
    home::{self, Conduct},
};
use crate::link::{
    self,
    words::{self, Hello},
};

/// The timeout of a dial with its greeting; the node's own.
const DIAL_WAIT: Duration = Duration::from_secs(4);
/// The timeout of an exchange; the node's own.
const EXCHANGE_WAIT: Duration = Duration::from_secs(6);
/// Two dials cross if they begin within this time; the node's own.
const CROSSING: Duration = Duration::from_secs(1);
/// The idle timeout of a link; the node's own. QUIC uses the shorter of the two ends' timeouts.
const LINK_IDLE: Duration = Duration::from_secs(30 * 60);

/// An event at a member's end, for its engine.
#[derive(Debug)]
pub(super) enum Event {
    /// The node has greeted with this record.
    Greet {
        greeting: Greeting,
        /// Whether the connection's remote address is the first address of that record.
        reached: bool,
        reply: oneshot::Sender<Verdict>,
    },
    /// A link is up.
    Up(Connection),
    /// A dial failed: nobody answered with the node's key.
    Unreachable,
    /// A dial failed for another reason.
    Undialled,
    /// A packet has arrived.
    Packet(Bytes),
    /// The member opens an exchange.
    OpenExchange(oneshot::Sender<ExchangeMessage>),
    /// A message of an exchange has arrived.
    Exchange(ExchangeMessage, oneshot::Sender<Option<ExchangeMessage>>),
}

/// One member's end.
#[derive(Debug)]
pub(super) struct End {
    /// The member's index.
    member: usize,
    key: SecretKey,
    endpoint: Endpoint,
    node: (NodeId, SocketAddr),
    /// The record in its greeting.
    record: Bytes,
    home: Conduct,
    /// Whether its own dial is in progress.
    dialling: AtomicBool,
    /// When its last dial began.
    dialled: Mutex<Option<Instant>>,
    events: mpsc::Sender<(usize, Event)>,
}

/// Binds a member's own socket.
///
/// # Panics
/// No port is free, or TLS rejects the key.
pub(super) fn bind(key: &SecretKey) -> Endpoint {
    let tls = link_tls::server_config(key).expect("TLS parameters");
    let tls = QuicServerConfig::try_from(tls).expect("TLS 1.3");
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("a free port")
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(LINK_IDLE).expect("half an hour is a valid timeout")));
    transport
}

impl End {
    pub(super) const fn new(
        member: usize,
        key: SecretKey,
        endpoint: Endpoint,
        node: (NodeId, SocketAddr),
        record: Bytes,
        home: Conduct,
        events: mpsc::Sender<(usize, Event)>,
    ) -> Self {
        Self {
            member,
            key,
            endpoint,
            node,
            record,
            home,
            dialling: AtomicBool::new(false),
            dialled: Mutex::new(None),
            events,
        }
    }

    /// Accepts the node's links, and serves them.
    ///
    /// # Panics
    /// A task that serves a link panics.
    pub(super) async fn accept(self: Arc<Self>) {
        let mut links = JoinSet::new();
        while let Some(incoming) = self.endpoint.accept().await {
            while let Some(joined) = links.try_join_next() {
                joined.expect("a link that is served without a mistake");
            }
            let end = self.clone();
            links.spawn(async move {
                if let Ok(Some(connection)) = timeout(DIAL_WAIT, end.accept_one(incoming)).await {
                    end.serve(connection).await;
                }
            });
        }
    }

    async fn accept_one(&self, incoming: Incoming) -> Option<Connection> {
        let connection = incoming.await.ok()?;
        let peer = connection.peer_identity().and_then(|identity| link_tls::peer_id_of_any(&*identity));
        if peer != Some(self.node.0) {
            return None;
        }
        // A peer that only verified the key closes the connection here.
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        if !words::is_hello(&mut receive).await {
            return None;
        }
        let greeting = greeting(words::hear_hello(&mut receive).await?)?;
        // Of two dials that cross, the lower key's link stays.
        let dialled = *self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        if dialled.is_some_and(|since| since.elapsed() < CROSSING) && self.key.node_id() < self.node.0 {
            words::say_hello(&mut send, &Hello::Refused(AdmissionRefusal::Duplicate, SystemTime::now().into())).await?;
            connection.closed().await;
            return None;
        }
        if self.judge(greeting, &connection).await? != Verdict::Welcome {
            return None;
        }
        words::say_hello(&mut send, &self.hello()).await?;
        Some(connection)
    }

    /// Dials the node and serves the link, unless a dial is in progress.
    pub(super) async fn dial(self: Arc<Self>) {
        if self.dialling.swap(true, Ordering::Relaxed) {
            return;
        }
        *self.dialled.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let dialled = timeout(DIAL_WAIT, self.dial_once()).await.unwrap_or(Err(Event::Unreachable));
        self.dialling.store(false, Ordering::Relaxed);
        match dialled {
            Ok(connection) => self.serve(connection).await,
            Err(event) => {
                let _ = self.tell(event).await;
            }
        }
    }

    async fn dial_once(&self) -> Result<Connection, Event> {
        let connected = link::connect(&self.endpoint, &self.key, self.node, transport()).await;
        let connection = connected.ok_or(Event::Unreachable)?;
        // If the greeting is refused as a duplicate, the node's own dial is about to arrive.
        let hello = words::greet(&connection, &self.hello()).await;
        let greeting = hello.and_then(greeting).ok_or(Event::Undialled)?;
        match self.judge(greeting, &connection).await {
            Some(Verdict::Welcome) => Ok(connection),
            _ => Err(Event::Undialled),
        }
    }

    fn hello(&self) -> Hello {
        Hello::Record(self.record.clone(), None, SystemTime::now().into())
    }

    async fn judge(&self, greeting: Greeting, connection: &Connection) -> Option<Verdict> {
        let reached = greeting.record.quic_addrs.first() == Some(&connection.remote_address());
        let (reply, verdict) = oneshot::channel();
        self.tell(Event::Greet { greeting, reached, reply }).await?;
        verdict.await.ok()
    }

    /// The driver ends with the process.
    async fn tell(&self, event: Event) -> Option<()> {
        self.events.send((self.member, event)).await.ok()
    }

    /// Serves a link until it ends.
    async fn serve(&self, connection: Connection) {
        let _ = self.tell(Event::Up(connection.clone())).await;
        tokio::join!(
            self.hear_packets(&connection),
            self.answer_exchanges(&connection),
            home::run(self.node.0, self.home.clone(), &connection),
        );
    }

    async fn hear_packets(&self, connection: &Connection) {
        while let Ok(packet) = connection.read_datagram().await {
            let _ = self.tell(Event::Packet(packet)).await;
        }
    }

    async fn answer_exchanges(&self, connection: &Connection) {
        while let Ok((send, mut receive)) = connection.accept_bi().await {
            let answered = async {
                if words::is_exchange(&mut receive).await {
                    self.answer_exchange(send, receive).await;
                }
            };
            let _ = timeout(EXCHANGE_WAIT, answered).await;
        }
    }

    async fn answer_exchange(&self, mut send: SendStream, mut receive: RecvStream) -> Option<()> {
        for _ in 0..MESSAGES {
            let theirs = words::hear(&mut receive).await?;
            words::say(&mut send, &self.answer_to(theirs).await?).await?;
        }
        Some(())
    }

    /// Begins an exchange over a link.
    pub(super) async fn exchange(self: Arc<Self>, connection: Connection) {
        let _ = timeout(EXCHANGE_WAIT, self.ask(&connection)).await;
    }

    async fn ask(&self, connection: &Connection) -> Option<()> {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        words::begin_exchange(&mut send).await?;
        let (reply, first) = oneshot::channel();
        self.tell(Event::OpenExchange(reply)).await?;
        let mut next = first.await.ok()?;
        for _ in 0..MESSAGES {
            words::say(&mut send, &next).await?;
            next = self.answer_to(words::hear(&mut receive).await?).await?;
        }
        Some(())
    }

    async fn answer_to(&self, message: ExchangeMessage) -> Option<ExchangeMessage> {
        let (reply, answer) = oneshot::channel();
        self.tell(Event::Exchange(message, reply)).await?;
        answer.await.ok().flatten()
    }
}

/// The record of a greeting that has one.
fn greeting(hello: Hello) -> Option<Greeting> {
    let Hello::Record(record, ticket, _) = hello else { return None };
    Some(Greeting { record: Signed::<NodeRecord>::decode(record).ok()?, ticket })
}
