//! Starting and stopping a node.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chappe_common::{
    changed_keys::ChangedKeys, federation::FederationId, keys::NodeId, roots::Roots, signed::SignError,
    task_failure::TaskFailure,
};
use chappe_discovery::{SetupError, net::Net, registry::RegistryClient};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    acme::{
        http_listener,
        runtime::{Acme, AcmeSetupError},
    },
    admin,
    budget::traffic::TrafficBudget,
    budget_runtime,
    call_page::{CallPage, PageError},
    clock::Clock,
    config::{ConfigError, LiveConfig, NodeConfig},
    context::Context,
    core::{ClientLimits, Core},
    federation::{
        external_address,
        membership_runtime::{self, Membership},
        own_addrs::{self, ResolveError},
        registration::Registries,
        root_statements,
    },
    health::Health,
    homes::Homes,
    identity::{Identity, IdentityError, LockedDir},
    levels::levels,
    limits::{
        connection_limiter::ConnectionLimiter, fair_semaphore::FairSemaphore, memory_budget::MemoryBudget,
        rates::SourceRates,
    },
    links::{Links, endpoint},
    listener,
    media_relay::{MediaRelay, OwnServices},
    members::Members,
    membership::{records::Records, view::View},
    metrics::Metrics,
    peer_router,
    placement::Placement,
    presence::Presence,
    publisher::{self, Publisher},
    reachability::{asker, observer, rounds::Rounds},
    reload::{self, ReloadError},
    sessions::{Sessions, event::EndReason},
    sockets::{Bound, PassedSockets, SocketError},
    tasks::Tasks,
    upkeep,
    websocket::tls::{LOOK_EVERY, Tls, TlsError},
};

/// Time limit for closing the links.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a node could not start. No part of it is running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configuration value is out of bounds.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The key or the epoch cannot be loaded or stored.
    #[error("the node's identity cannot be used")]
    Identity(#[from] IdentityError),
    /// An address cannot be bound. Usually another process uses it.
    #[error("cannot listen on {addr} ({key})")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The configuration key that sets the address.
        key: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A socket that a service manager has passed cannot be used.
    #[error("the socket that was passed for {key} cannot be used")]
    Passed {
        /// The configuration key that the socket replaces.
        key: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A name in `federation.advertise` does not resolve to an address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The TLS certificate for clients cannot be loaded.
    #[error("the certificate for clients cannot be used")]
    Tls(#[from] TlsError),
    /// The certificate for clients cannot be obtained with these settings.
    #[error("client.acme cannot be used")]
    Acme(#[from] AcmeSetupError),
    /// The page with which people call cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The node's record cannot be signed, because its URLs and addresses are too long.
    #[error("the node's record cannot be signed: its URLs and addresses together are too long")]
    Record(#[from] SignError),
    /// The HTTP client for registering cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
    /// The client for fetching directories cannot be set up.
    #[error(transparent)]
    Directory(#[from] SetupError),
}

impl From<SocketError> for StartError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Bind { addr, key, source } => Self::Bind { addr, key, source },
            SocketError::Passed { key, source } => Self::Passed { key, source },
        }
    }
}

/// The addresses to which a node is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddrs {
    /// TCP address for client WebSockets.
    pub client: SocketAddr,
    /// UDP address for links to other nodes.
    pub quic: SocketAddr,
    /// TCP address for `/metrics` and `/members`.
    pub admin: Option<SocketAddr>,
    /// UDP address of the node's own STUN and TURN server.
    pub turn: Option<SocketAddr>,
}

/// Current counts of a node, for tests and tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// Client sessions.
    pub sessions: usize,
    /// Live members, including this node.
    pub members: usize,
    /// Links to other nodes.
    pub links: usize,
    /// Leases that this node stores as a home.
    pub leases: usize,
    /// Pairing codes that this node stores as a home.
    pub codes: usize,
    /// Inboxes attached to this node's sessions.
    pub inboxes: usize,
    /// Running tasks.
    pub tasks: usize,
}

/// A running node. Dropping it without [`Node::shutdown`] stops it at once and notifies nobody, as a kill would.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    addrs: NodeAddrs,
    /// Accepts clients. Ends before the clients are disconnected.
    listener: Tasks,
    /// Joins and registers. Ends before the node leaves.
    presence: Arc<Presence>,
    tls: Option<Arc<Tls>>,
    _locked: LockedDir,
}

impl Node {
    /// Starts a node: binds its listeners, then joins the federation in the background.
    ///
    /// # Errors
    /// Returns an error if the configuration, the disk or the network prevents the start.
    pub async fn spawn(config: NodeConfig) -> Result<Self, StartError> {
        Self::spawn_by(config, Clock::default()).await
    }

    /// Like [`Node::spawn`], on the sockets that the service manager has bound. It binds those that were not passed.
    ///
    /// # Errors
    /// See [`Node::spawn`].
    pub async fn spawn_on(passed: PassedSockets, config: NodeConfig) -> Result<Self, StartError> {
        Self::start(config, passed, Clock::default()).await
    }

    /// Like [`Node::spawn`], but with a clock that may be wrong.
    ///
    /// # Errors
    /// See [`Node::spawn`].
    pub async fn spawn_by(config: NodeConfig, clock: Clock) -> Result<Self, StartError> {
        Self::start(config, PassedSockets::default(), clock).await
    }

    async fn start(config: NodeConfig, passed: PassedSockets, clock: Clock) -> Result<Self, StartError> {
        config.check()?;
        let locked = LockedDir::lock(&config.node.data_dir).await?;
        let identity = Identity::load(&config.node.data_dir, clock.now())?;
        let tls = match (&config.client.tls_cert, &config.client.tls_key) {
            (Some(cert), Some(key)) => Some(Arc::new(Tls::load(cert, key)?)),
            _ => None,
        };
        let acme = Acme::load(&config, clock.clone())?;
        let tls = tls.or_else(|| acme.as_ref().map(|acme| acme.tls().clone()));
        let call_page = config.client.page.as_deref().map(CallPage::load).transpose()?;
        let bound = Bound::bind(&config, passed, acme.as_ref().is_some_and(Acme::needs_http))?;
        let bind_error = |source| StartError::Bind { addr: config.federation.listen, key: "federation.listen", source };
        let client_error = |source| StartError::Bind { addr: config.client.listen, key: "client.listen", source };
        let (endpoint, server_config) =
            endpoint::on(bound.federation, &config.federation, identity.key()).map_err(bind_error)?;
        let (client, admin, http, turn) = (bound.client, bound.admin, bound.http, bound.turn);
        let mut addrs = NodeAddrs {
            client: client.local_addr().map_err(client_error)?,
            quic: endpoint.local_addr().map_err(bind_error)?,
            admin: admin.as_ref().and_then(|admin| admin.local_addr().ok()),
            turn: None,
        };
        let quic_addrs = match config.federation.advertise.as_slice() {
            [] => vec![addrs.quic],
            advertised => own_addrs::resolve_with_retries(advertised).await?,
        };
        let pinned = pinned_roots(&config, &identity);
        let trust =
            root_statements::load(&config.node.data_dir.join(root_statements::FILE), pinned.clone(), clock.now());
        let context = Arc::new(context(config, &identity, pinned.federation(), addrs, quic_addrs, clock));
        let media_relay = spawn_media_relay(&context, addrs, turn)?;
        addrs.turn = media_relay.as_ref().and_then(|relay| relay.addrs().first().copied());
        // Later records have larger numbers, so the longest possible record has to fit too.
        context.sign_record(u64::MAX, u64::MAX)?;
        let (registries, directory) = match context.config.registry.urls.as_slice() {
            [] => (None, None),
            urls => (
                Some(Registries::new(urls).map_err(StartError::Http)?),
                Some(RegistryClient::new(urls.to_vec(), trust.clone(), &Net::default())?),
            ),
        };

        let budget = TrafficBudget::load(&context.config, context.me).map(Arc::new);
        if let Some(budget) = &budget {
            let level = budget.status(context.clock.now()).level;
            let abilities = budget_runtime::abilities_at(level, &context.config, context.config.turn.is_on());
            context.abilities.store(Arc::new(abilities));
        }
        let own_record = context.sign_record(identity.epoch(), 1)?;
        let records = Arc::new(Records::new(context.federation));
        let view = View::new(&Placement::genesis(context.federation), std::iter::once((&*own_record, true)));
        let members = Arc::new(Members::new(records, own_record, view));
        let health = Arc::new(Health::new(context.clone(), members.clone()));
        let (membership, events) = mpsc::channel(membership_runtime::EVENTS);
        let (publisher, commands) = mpsc::channel(publisher::COMMANDS);
        let (links, arrivals) =
            Links::new((endpoint, server_config), context.clone(), members.clone(), health.clone(), membership.clone());
        let links = Arc::new(links);
        let sessions = Arc::new(Sessions::new(context.live.clone(), &context.metrics));
        let homes = Homes::new(context.clone(), members.clone(), links.clone(), sessions.clone(), publisher.clone());
        let limits = &context.config.limits;
        let clients = ClientLimits {
            attach_turns: FairSemaphore::default(),
            attaching: Arc::new(Semaphore::new(limits.max_pending_leases)),
            memory_budget: MemoryBudget::new(limits.memory_budget),
            sources: ArcSwap::from_pointee(SourceRates::new(limits)),
            // The listener's semaphore bounds the total.
            source_connections: ConnectionLimiter::new(usize::MAX, limits.source_connections),
        };
        let connections = context.tasks.sibling();
        let core = Arc::new(Core {
            members,
            health,
            links: links.clone(),
            sessions,
            homes,
            tls: tls.clone(),
            media_relay,
            call_page,
            budget,
            trust,
            reachability: Rounds::default(),
            membership,
            publisher,
            connections,
            clients,
            context,
        });
        let has_certificate = acme.as_ref().map(Acme::has_certificate);
        let presence = Arc::new(Presence::new(core.clone(), registries, directory, has_certificate));
        // Subscribed before a task can report a reason.
        let unfit = core.health.unfit_changes();
        core.context.tasks.spawn_essential("fitness", upkeep::send_clients_away(core.clone(), unfit));
        core.context.tasks.spawn_essential("membership", Membership::new(core.clone(), &identity).run(events));
        core.context.tasks.spawn_essential("publisher", Publisher::new(core.clone()).run(commands));
        core.context.tasks.spawn_essential("links", links.accept());
        core.context.tasks.spawn_essential("router", peer_router::run(core.clone(), arrivals.links));
        core.context.tasks.spawn_essential("checks", observer::serve(core.clone(), arrivals.checks));
        core.context.tasks.spawn_essential("reachability", asker::watch(core.clone()));
        core.context.tasks.spawn_essential("expiry", upkeep::expire(core.clone()));
        core.context.tasks.spawn_essential("clock", upkeep::watch_clock(core.clone()));
        core.context.tasks.spawn_essential("relay peers", upkeep::watch_members_for_relay(core.clone()));
        core.context.tasks.spawn_essential("relay address", external_address::watch(core.clone()));
        if let Some(acme) = acme {
            acme.update_fitness(&core);
            if let Some(http) = http {
                let challenges = acme.challenges().clone();
                core.context.tasks.spawn_essential("challenges", http_listener::run(core.clone(), http, challenges));
            }
            core.context.tasks.spawn_essential("certificate", acme.run(core.clone()));
        } else if let Some(tls) = tls.clone() {
            core.context.tasks.spawn_essential("certificate", tls.watch(LOOK_EVERY));
        }
        core.context.tasks.spawn_essential("budget", budget_runtime::run(core.clone(), presence.clone()));
        let listener = core.context.tasks.sibling();
        listener.spawn_essential("clients", listener::serve_clients(core.clone(), client, tls.clone()));
        if let Some(admin) = admin {
            core.context.tasks.spawn_essential("admin", admin::run(core.clone(), admin));
        }
        Ok(Self { core, addrs, listener, presence, tls, _locked: locked })
    }

    /// Returns the node's id.
    pub fn id(&self) -> NodeId {
        self.core.context.me
    }

    /// Returns the addresses to which the node is bound.
    pub const fn addrs(&self) -> NodeAddrs {
        self.addrs
    }

    /// Returns the first client URL.
    pub fn client_url(&self) -> &str {
        self.core.context.client_urls.first().map_or("", String::as_str)
    }

    /// Returns the number of live members, including this node.
    pub fn members(&self) -> usize {
        self.core.members.view.load().len()
    }

    /// Replaces the values that may change while the node runs: the limits, the trusted proxies and the certificate, which
    /// is read again in any case. Returns the keys that differ from those in use, also those that need a restart.
    ///
    /// # Errors
    /// The configuration is not valid, or the certificate cannot be used. Nothing is replaced.
    pub async fn reload(&self, config: &NodeConfig) -> Result<ChangedKeys, ReloadError> {
        reload::apply(&self.core, self.tls.as_ref(), config).await
    }

    /// Waits until an essential task ends unexpectedly. Never returns if none does. From then on `/health` reports the
    /// failure, and the caller should call [`Node::shutdown`].
    pub async fn failed(&self) -> TaskFailure {
        self.core.context.tasks.failed().await
    }

    /// Returns the node's current counts.
    pub fn stats(&self) -> NodeStats {
        let levels = levels(&self.core);
        NodeStats {
            sessions: levels.sessions,
            members: levels.members,
            links: levels.links,
            leases: levels.leases,
            codes: levels.codes,
            inboxes: levels.inboxes,
            tasks: levels.tasks,
        }
    }

    /// Stops the node. Asks the clients to connect elsewhere, gives them `times.drain` to do so, and sends members and
    /// registries a signed leave. Takes at most `times.drain` and a few seconds.
    pub async fn shutdown(self) {
        let core = &self.core;
        core.health.start_draining();
        core.context.tasks.expect_ends();
        if let Some(relay) = &core.media_relay {
            relay.drain();
        }
        self.listener.cancel().await;
        self.presence.leave(core.context.config.times.drain).await;
        core.sessions.for_each(|session| session.end(EndReason::GoingAway));
        core.connections.wait(Duration::from_secs(1)).await;
        core.connections.cancel().await;
        if let Some(relay) = &core.media_relay {
            let relay = relay.clone();
            // A panic of the thread was logged when it happened.
            let _ = tokio::task::spawn_blocking(move || relay.stop()).await;
        }
        budget_runtime::store(core, &mut false).await;
        // The leave is sent in datagrams. Closing the links informs peers that did not receive it.
        let _ = tokio::time::timeout(GOODBYE, core.links.shutdown()).await;
        core.context.tasks.cancel().await;
    }
}

/// Loads the files that a start loads for clients: what `client.acme` has stored, its roots, and the page for calls. Returns the
/// address at which the node would answer http-01, if it would.
///
/// # Errors
/// A file cannot be used, so the node would not start.
pub fn check_client_files(config: &NodeConfig) -> Result<Option<SocketAddr>, StartError> {
    config.client.page.as_deref().map(CallPage::load).transpose()?;
    let acme = Acme::load(config, Clock::default())?;
    Ok(acme.filter(Acme::needs_http).map(|_| config.client.acme.http_listen))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listener.stop();
        self.presence.stop();
        self.core.connections.stop();
        self.core.context.tasks.stop();
    }
}

/// Starts the relay for media, if it is on.
fn spawn_media_relay(
    context: &Context,
    addrs: NodeAddrs,
    passed: Vec<UdpSocket>,
) -> Result<Option<Arc<MediaRelay>>, StartError> {
    let turn = &context.config.turn;
    let Some(addr) = turn.listen.first().copied() else {
        if !passed.is_empty() {
            tracing::warn!("a socket named turn was passed, but turn.listen is empty: the relay for media is off");
        }
        return Ok(None);
    };
    let bound: Vec<_> = [Some(addrs.client), Some(addrs.quic), addrs.admin].into_iter().flatten().collect();
    let services = OwnServices { bound: &bound, client_urls: &context.client_urls };
    let relay = MediaRelay::spawn(&context.config, services, passed);
    relay.map(|relay| Some(Arc::new(relay))).map_err(|source| StartError::Bind { addr, key: "turn.listen", source })
}

/// A node without roots forms a federation of its own, with its own key as the root.
fn pinned_roots(config: &NodeConfig, identity: &Identity) -> Roots {
    if config.federation.roots.is_empty() {
        return Roots::from([*identity.key().node_id().key()]);
    }
    config.federation.roots()
}

fn context(
    config: NodeConfig,
    identity: &Identity,
    federation: FederationId,
    addrs: NodeAddrs,
    quic_addrs: Vec<SocketAddr>,
    clock: Clock,
) -> Context {
    let me = identity.key().node_id();
    let client_urls = match config.client.urls.as_slice() {
        [] => vec![format!("{}://{}", if config.client.has_tls() { "wss" } else { "ws" }, addrs.client)],
        urls => urls.to_vec(),
    };
    Context {
        live: Arc::new(ArcSwap::from_pointee(LiveConfig::of(&config))),
        clock,
        key: identity.key().clone(),
        me,
        federation,
        client_urls,
        quic_addrs: ArcSwap::from_pointee(quic_addrs),
        region: config.node.region.clone(),
        abilities: ArcSwap::from_pointee(membership_runtime::abilities(
            &config,
            config.turn.is_on(),
            config.node.reserve,
        )),
        record_lifetime: config.registry.record_lifetime,
        started: Instant::now(),
        metrics: Metrics::default(),
        tasks: Tasks::default(),
        config,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use chappe_turn::runtime::NewStream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    async fn health(node: &Node) -> String {
        let mut stream = TcpStream::connect(node.addrs().client).await.expect("it listens");
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    async fn node_in(dir: &std::path::Path) -> Node {
        node_with(dir, |_| {}).await
    }

    async fn node_with(dir: &std::path::Path, change: impl FnOnce(&mut NodeConfig)) -> Node {
        let mut config = NodeConfig::default();
        config.node.data_dir = dir.join("data");
        config.client.listen = ([127, 0, 0, 1], 0).into();
        config.federation.listen = ([127, 0, 0, 1], 0).into();
        change(&mut config);
        Node::spawn(config).await.expect("a node")
    }

    /// The relay's thread drops this when it closes the connection or stops, and then waits for the test.
    struct Held {
        is_dropped: Option<oneshot::Sender<()>>,
        release: mpsc::Receiver<()>,
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.is_dropped.take().expect("it is dropped once").send(());
            let _ = self.release.recv_timeout(Duration::from_secs(20));
        }
    }

    fn with_relay(config: &mut NodeConfig) {
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
    }

    /// A connection of the relay.
    struct Holding {
        _other_end: std::net::TcpListener,
        /// The relay's thread closes the connection, and waits.
        closed: oneshot::Receiver<()>,
        release: mpsc::Sender<()>,
    }

    /// Gives the relay a connection that has sent these bytes.
    fn hold(relay: &MediaRelay, received: &[u8]) -> Holding {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let addr = socket.local_addr().expect("an address");
        let ((is_dropped, closed), (release, released)) = (oneshot::channel(), mpsc::channel());
        let guard = Box::new(Held { is_dropped: Some(is_dropped), release: released });
        let received = received.to_vec();
        relay.add_stream(NewStream { socket, addr, tls: None, received, guard }).expect("it is taken");
        Holding { _other_end: listener, closed, release }
    }

    // All tasks of the node share one thread.
    #[tokio::test]
    async fn a_node_that_waits_for_the_end_of_its_relay_goes_on_with_its_other_tasks() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node = node_with(dir.path(), with_relay).await;
        let relay = node.core.media_relay.clone().expect("it is on");
        let Holding { _other_end, closed, release } = hold(&relay, b"");
        let release = async {
            closed.await.expect("the relay's thread ends");
            release.send(()).expect("it still waits");
        };
        tokio::join!(node.shutdown(), release);
        assert!(!relay.is_running());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_leaves_does_not_trust_a_count_of_allocations_from_before() {
        const DRAIN: Duration = Duration::from_millis(500);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node = node_with(dir.path(), with_relay).await;
        tokio::time::timeout(Duration::from_secs(20), async {
            while !node.presence.is_present() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it joins");
        let relay = node.core.media_relay.clone().expect("it is on");
        // The relay closes a connection that is no STUN.
        let Holding { _other_end, closed, release } = hold(&relay, b"\xff\xff\xff\xff");
        closed.await.expect("it is closed");
        relay.drain();
        let since = Instant::now();
        node.presence.leave(DRAIN).await;
        assert!(since.elapsed() >= DRAIN, "{:?}", since.elapsed());
        drop(release);
        node.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_stops_does_not_return_to_its_federation() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node = node_in(dir.path()).await;
        node.presence.leave(Duration::ZERO).await;
        // The run of a node that returns is a later one.
        let run = || node.core.members.own_record.load().epoch;
        let before = run();
        node.core.health.start_draining();
        node.presence.wake().await;
        // Its answer comes after the events before it.
        crate::federation::registration::leave_members(&node.core).await;
        assert_eq!(run(), before);
        node.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_whose_essential_task_ends_reports_it_and_still_shuts_down() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node = node_in(dir.path()).await;
        let response = health(&node).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.contains("access-control-allow-origin: *"), "a page may read it: {response}");
        node.core.context.tasks.spawn_essential("of a test", async { panic!("on purpose") });
        assert_eq!(node.failed().await, TaskFailure::Panicked("of a test"));
        let response = health(&node).await;
        assert!(response.starts_with("HTTP/1.1 503") && response.contains("\"failing\""), "{response}");
        assert!(response.contains("the task «of a test» has panicked"), "{response}");
        node.shutdown().await;
    }
}
