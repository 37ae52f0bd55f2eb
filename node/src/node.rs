//! A running node: how it starts, what it bound, and how it stops.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::SignError,
    task_failure::TaskFailure,
};
use chappe_discovery::{SetupError, net::Net, registry::RegistryClient};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc, watch},
};

use crate::{
    admin,
    clock::Clock,
    config::{ConfigError, NodeConfig},
    context::Context,
    core::{ClientLimits, Core},
    federation::{
        join,
        membership_runtime::{self, Membership},
        own_addrs::{self, ResolveError},
        registration::{self, Registries},
        revocations,
    },
    health::Health,
    homes::Homes,
    identity::{Identity, IdentityError, LockedDir},
    levels::levels,
    limits::{fair_semaphore::FairSemaphore, memory_budget::MemoryBudget, rates::SourceRates},
    links::{Links, endpoint},
    listener,
    members::Members,
    membership::{event::Event, records::Records, view::View},
    metrics::Metrics,
    peer_router,
    placement::Placement,
    publisher::{self, Publisher},
    sessions::{
        Sessions,
        event::{EndReason, SessionEvent},
    },
    tasks::Tasks,
    websocket::tls::{LOOK_EVERY, Tls, TlsError},
};

/// Connections that may wait to be accepted: those of a second in which another node's ten thousand sessions come. The
/// system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// How often what has expired is forgotten.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// How often this machine's clock is compared with the monotonic one.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(1);
/// How long links and registries have for the goodbye, after the clients have left.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a node could not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration is out of its bounds.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The key or the epoch cannot be used.
    #[error("the node's identity cannot be used")]
    Identity(#[from] IdentityError),
    /// An address cannot be bound: mostly, another process has it.
    #[error("cannot listen on {addr} ({key})")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The key of the configuration that names it.
        key: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A name under which other nodes dial this one has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The certificate for clients cannot be used.
    #[error("the certificate for clients cannot be used")]
    Tls(#[from] TlsError),
    /// The record that the configuration makes cannot be signed.
    #[error("the node's record cannot be signed: its URLs and addresses together are too long")]
    Record(#[from] SignError),
    /// The registry's HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
    /// The same, of the directory's.
    #[error(transparent)]
    Directory(#[from] SetupError),
}

/// What a node listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddrs {
    /// Clients' WebSockets, TCP.
    pub client: SocketAddr,
    /// Other nodes' links, UDP.
    pub quic: SocketAddr,
    /// Metrics and members, TCP.
    pub admin: Option<SocketAddr>,
}

/// Counts of what a node holds at the moment, for tests and tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// Sessions of clients.
    pub sessions: usize,
    /// Live members, this node among them.
    pub members: usize,
    /// Links to other nodes.
    pub links: usize,
    /// Leases kept as a home.
    pub leases: usize,
    /// Pairing codes kept as a home.
    pub codes: usize,
    /// Inboxes attached here.
    pub inboxes: usize,
    /// Tasks.
    pub tasks: usize,
}

/// A running node. Dropped without [`Node::shutdown`] it stops too, without a word to anybody, as if it were killed.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    addrs: NodeAddrs,
    /// What accepts clients: it ends before they do.
    listener: Tasks,
    /// What joins and registers: it ends before the node leaves.
    joining: Tasks,
    registries: Option<Registries>,
    members_file: PathBuf,
    _locked: LockedDir,
}

impl Node {
    /// Starts a node: binds its listeners, then joins in the background.
    ///
    /// # Errors
    /// Says which part of the configuration, the disk or the network stands in the way.
    pub async fn spawn(config: NodeConfig) -> Result<Self, StartError> {
        Self::spawn_by(config, Clock::default()).await
    }

    /// The same, by a clock that may be wrong.
    ///
    /// # Errors
    /// As [`Node::spawn`].
    pub async fn spawn_by(config: NodeConfig, clock: Clock) -> Result<Self, StartError> {
        config.check()?;
        let locked = LockedDir::lock(&config.node.data_dir).await?;
        let identity = Identity::load(&config.node.data_dir, clock.now())?;
        let tls = match (&config.client.tls_cert, &config.client.tls_key) {
            (Some(cert), Some(key)) => Some(Arc::new(Tls::load(cert, key)?)),
            _ => None,
        };
        let client = listen(config.client.listen, "client.listen")?;
        let admin = match config.admin.listen {
            Some(addr) => Some(listen(addr, "admin.listen")?),
            None => None,
        };
        let bind_error = |source| StartError::Bind { addr: config.federation.listen, key: "federation.listen", source };
        let endpoint = endpoint::bind(&config.federation, identity.key()).map_err(bind_error)?;
        let addrs = NodeAddrs {
            client: client.local_addr().map_err(bind_error)?,
            quic: endpoint.local_addr().map_err(bind_error)?,
            admin: admin.as_ref().and_then(|admin| admin.local_addr().ok()),
        };
        let quic_addrs = match config.federation.advertise.as_slice() {
            [] => vec![addrs.quic],
            advertised => own_addrs::resolve_patiently(advertised).await?,
        };
        let context = Arc::new(context(config, &identity, addrs, quic_addrs, clock));
        // The longest record that these fields will ever make has to fit too.
        context.sign_record(u64::MAX, u64::MAX)?;
        let (registries, directory) = match context.config.registry.urls.as_slice() {
            [] => (None, None),
            urls => (
                Some(Registries::new(urls).map_err(StartError::Http)?),
                Some(RegistryClient::new(urls.to_vec(), context.config.federation.roots.clone(), &Net::default())?),
            ),
        };
        let revocations_file = context.config.node.data_dir.join(revocations::FILE);
        let revoked = revocations::load(&revocations_file, &context.roots);
        let directory = directory.map(|registry| registry.with_revocations(revoked.clone()));
        let members_file = context.config.node.data_dir.join("members");

        let own_record = context.sign_record(identity.epoch(), 1)?;
        let records = Arc::new(Records::new(context.federation));
        let view = View::new(&Placement::genesis(context.federation), std::iter::once((&*own_record, true)));
        let members = Arc::new(Members::new(records, own_record, view));
        let health = Arc::new(Health::new(context.clone(), members.clone()));
        let (membership, events) = mpsc::channel(membership_runtime::EVENTS);
        let (publisher, commands) = mpsc::channel(publisher::COMMANDS);
        let (links, links_up) =
            Links::new(endpoint, context.clone(), members.clone(), health.clone(), membership.clone());
        let links = Arc::new(links);
        let sessions = Arc::new(Sessions::new(context.config.limits.clone(), &context.metrics));
        let homes = Homes::new(context.clone(), members.clone(), links.clone(), sessions.clone(), publisher.clone());
        let limits = &context.config.limits;
        let clients = ClientLimits {
            attach_turns: FairSemaphore::default(),
            attaching: Arc::new(Semaphore::new(limits.max_pending_leases)),
            held: MemoryBudget::new(limits.memory_budget),
            sources: SourceRates::new(limits),
        };
        let connections = context.tasks.sibling();
        let core = Arc::new(Core {
            context,
            members,
            health,
            links: links.clone(),
            sessions,
            homes,
            revocations: revoked,
            membership,
            publisher,
            connections,
            clients,
        });
        core.context.tasks.spawn_lasting("membership", Membership::new(core.clone(), &identity).run(events));
        core.context.tasks.spawn_lasting("publisher", Publisher::new(core.clone()).run(commands));
        core.context.tasks.spawn_lasting("links", links.accept());
        core.context.tasks.spawn_lasting("router", peer_router::run(core.clone(), links_up));
        let unfit = core.health.unfit_changes();
        core.context.tasks.spawn_lasting("fitness", send_clients_away(core.sessions.clone(), unfit));
        core.context.tasks.spawn_lasting("expiry", expire(core.clone()));
        core.context.tasks.spawn_lasting("clock", watch_clock(core.clone()));
        let joining = core.context.tasks.sibling();
        let revocations = revocations::run(core.clone(), directory.clone(), revocations_file);
        joining.spawn_lasting("revocations", revocations);
        joining.spawn_lasting("joining", join::run(core.clone(), directory, members_file.clone()));
        joining.spawn_lasting("addresses", own_addrs::watch(core.clone()));
        joining.spawn_lasting("records", registration::renew_records(core.clone()));
        if let Some(registries) = registries.clone() {
            joining.spawn_lasting("registries", registries.run(core.clone()));
        }
        let listener = core.context.tasks.sibling();
        if let Some(tls) = tls.clone() {
            core.context.tasks.spawn_lasting("certificate", tls.watch(LOOK_EVERY));
        }
        listener.spawn_lasting("clients", listener::serve_clients(core.clone(), client, tls));
        if let Some(admin) = admin {
            core.context.tasks.spawn_lasting("admin", admin::run(core.clone(), admin));
        }
        Ok(Self { core, addrs, listener, joining, registries, members_file, _locked: locked })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.core.context.me
    }

    /// What the node listens on.
    pub const fn addrs(&self) -> NodeAddrs {
        self.addrs
    }

    /// The first URL that clients use.
    pub fn client_url(&self) -> &str {
        self.core.context.client_urls.first().map_or("", String::as_str)
    }

    /// How many live members the node knows, itself included.
    pub fn members(&self) -> usize {
        self.core.members.view.load().len()
    }

    /// Waits until a task without which the node is none has ended by itself; for ever if none does. `/health` says so from then
    /// on, and [`Node::shutdown`] is what remains to be done.
    pub async fn failed(&self) -> TaskFailure {
        self.core.context.tasks.failed().await
    }

    /// What the node holds at the moment.
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

    /// Stops: tells the clients to go elsewhere and gives them `times.drain` to do so, leaves the federation and the
    /// registries with a signed word, and ends. Takes at most `times.drain` and a few seconds.
    pub async fn shutdown(self) {
        let core = &self.core;
        core.health.start_draining();
        core.context.tasks.expect_ends();
        self.listener.cancel().await;
        if let Some(registries) = &self.registries {
            // A registration under way is answered first: the leave has to come after it.
            let _ = tokio::time::timeout(GOODBYE, registries.stop()).await;
        }
        self.joining.cancel().await;
        core.sessions.for_each(|session| {
            // A session whose queue is full ends by that.
            let _ = session.try_send(SessionEvent::GoingAway);
        });
        // Before the leave: a node that has left knows nobody.
        let _ = tokio::time::timeout(GOODBYE, join::store(core, self.members_file.clone())).await;
        let leave = tokio::time::timeout(GOODBYE, registration::leave_members(core)).await.ok().flatten();
        let told = async {
            if let (Some(registries), Some(leave)) = (&self.registries, &leave) {
                registries.leave(leave).await;
            }
        };
        let drained = self.drain();
        let ((), _) = tokio::join!(drained, tokio::time::timeout(GOODBYE, told));
        core.connections.cancel().await;
        // Datagrams of the goodbye are on their way; closing the links tells whoever did not get them.
        let _ = tokio::time::timeout(GOODBYE, core.links.shutdown()).await;
        core.context.tasks.cancel().await;
    }

    /// Waits until the clients have left, and closes the rest.
    async fn drain(&self) {
        let core = &self.core;
        let deadline = Instant::now() + core.context.config.times.drain;
        while core.sessions.sessions() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        core.sessions.for_each(|session| session.end(EndReason::GoingAway));
        core.connections.wait(Duration::from_secs(1)).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listener.stop();
        self.joining.stop();
        self.core.connections.stop();
        self.core.context.tasks.stop();
    }
}

/// Forgets, every few seconds, what nobody has said again.
async fn expire(core: Arc<Core>) {
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    loop {
        tick.tick().await;
        core.homes.expire();
        core.clients.sources.expire();
        core.sessions.shrink();
        core.links.expire();
    }
}

/// Tells the clients to go elsewhere each time that the node can't serve them any more.
async fn send_clients_away(sessions: Arc<Sessions>, mut unfit: watch::Receiver<()>) {
    while unfit.changed().await.is_ok() {
        // A session whose queue is full ends by that.
        sessions.for_each(|session| {
            let _ = session.try_send(SessionEvent::GoingAway);
        });
    }
}

/// Looks whether this machine's clock was set, and has everything done again that depends on it.
async fn watch_clock(core: Arc<Core>) {
    let mut tick = tokio::time::interval(LOOK_AT_CLOCK_EVERY);
    loop {
        tick.tick().await;
        if core.health.check_clock_step().is_some() && core.membership.send(Event::ClockSet).await.is_err() {
            return;
        }
    }
}

fn listen(addr: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Signalling is small messages that people wait for. Accepted connections inherit it.
        socket.set_nodelay(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| StartError::Bind { addr, key, source })
}

fn context(
    config: NodeConfig,
    identity: &Identity,
    addrs: NodeAddrs,
    quic_addrs: Vec<SocketAddr>,
    clock: Clock,
) -> Context {
    let me = identity.key().node_id();
    // A node without roots is a federation of its own: it trusts itself.
    let own: [PublicKey; 1] = [*me.key()];
    let roots = if config.federation.roots.is_empty() { &own[..] } else { &config.federation.roots };
    let federation = FederationId::of_roots(roots);
    let client_urls = match config.client.urls.as_slice() {
        [] => vec![format!("{}://{}", if config.client.tls_cert.is_some() { "wss" } else { "ws" }, addrs.client)],
        urls => urls.to_vec(),
    };
    Context {
        clock,
        key: identity.key().clone(),
        me,
        federation,
        roots: roots.to_vec(),
        client_urls,
        quic_addrs: ArcSwap::from_pointee(quic_addrs),
        region: config.node.region.clone(),
        abilities: membership_runtime::abilities(&config),
        record_lifetime: config.registry.record_lifetime,
        started: Instant::now(),
        metrics: Metrics::default(),
        tasks: Tasks::default(),
        config,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn health(node: &Node) -> String {
        let mut stream = TcpStream::connect(node.addrs().client).await.expect("it listens");
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_loses_a_task_says_which_and_still_stops_in_order() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = NodeConfig::default();
        config.node.data_dir = dir.path().join("data");
        config.client.listen = ([127, 0, 0, 1], 0).into();
        config.federation.listen = ([127, 0, 0, 1], 0).into();
        let node = Node::spawn(config).await.expect("a node");
        assert!(health(&node).await.starts_with("HTTP/1.1 200"));
        node.core.context.tasks.spawn_lasting("of a test", async { panic!("on purpose") });
        assert_eq!(node.failed().await, TaskFailure::Panicked("of a test"));
        let told = health(&node).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("\"failing\""), "{told}");
        assert!(told.contains("the task «of a test» has panicked"), "{told}");
        node.shutdown().await;
    }
}
