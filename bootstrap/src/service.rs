//! A running registry: starts its tasks in order, and stops them in order within a deadline.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use axum::Router;
use chappe_common::{
    changed_keys::ChangedKeys, directory::Delegation, keys::SecretKey, signed::Signed, task_failure::TaskFailure,
};
use chappe_discovery::{SetupError, tls, trust::Trust};
use futures_util::FutureExt as _;
use rustls::ClientConfig;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Duration, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    beacon::BeaconFile,
    config::{BootstrapConfig, ConfigError},
    dial::Dialer,
    directory::OnlineKey,
    door::DoorProber,
    http::{AppState, admin_router, health_router, router},
    keys::{KeyFileError, load_delegations, load_secret_key, load_statements},
    limits::{NodeLimiter, SourceLimiter},
    live::LiveConfig,
    metrics::Metrics,
    owner::{Owner, SigningConfig, clock},
    probe,
    published::Published,
    root_statements::StatementsFile,
    rules::{Caps, RegistryState, RuleConfig},
    server::{MAX_ADMIN_CONNECTIONS, Server},
    storage::{self, StoreError},
};

/// How often inactive sources are dropped.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(30);
/// Time for shutting down after the drain time, to close the store.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Why a registry did not start. Nothing is running, and the store is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configured value is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// No root of the configuration signed the delegation, or it is for another federation.
    #[error("the delegation is not signed by one of federation.roots")]
    Root,
    /// The delegation is for another online key.
    #[error("the delegation is for another key than federation.online_key")]
    Delegate,
    /// The delegation has expired, or is not valid yet.
    #[error("the delegation has expired or is not valid yet; sign a new one with the root key, or set the clock")]
    DelegationTime,
    /// The system returned no random bytes.
    #[error("cannot generate a key: no random bytes")]
    Random(#[source] getrandom::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first directory cannot be signed or stored.
    #[error("cannot publish the first directory")]
    FirstDirectory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The registry cannot listen on an address.
    #[error("cannot listen on {addr} ({key})")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The configuration key of the address.
        key: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A listener that a service manager has passed cannot be used.
    #[error("the socket that was passed for {key} cannot be used")]
    Passed {
        /// The configuration key that the listener replaces.
        key: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The online key is revoked, so clients would reject what it signs.
    #[error(
        "the online key is revoked; create a new one with `chappe bootstrap delegate --new-key FILE` and the root key, and \
                 set federation.online_key"
    )]
    Revoked,
    /// No UDP socket for dial-backs could be opened.
    #[error("cannot open a UDP socket for dial-backs")]
    Dialer(#[source] io::Error),
    /// The client of DNS over HTTPS cannot be set up.
    #[error("cannot set up the resolution of nodes' names")]
    Names(#[source] SetupError),
}

/// Bound listeners that a service manager passes. Each replaces the one that its key would bind.
#[derive(Debug, Default)]
pub struct PassedListeners {
    /// For `http.listen`.
    pub http: Option<StdTcpListener>,
    /// For `admin.listen`.
    pub admin: Option<StdTcpListener>,
}

/// A running registry. Dropping it stops it at once; [`Bootstrap::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Bootstrap {
    addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    published: Arc<ArcSwap<Published>>,
    stop: CancellationToken,
    drain: Duration,
    live: Arc<LiveConfig>,
    servers: ServiceTasks,
    tasks: ServiceTasks,
    tasks_stop: CancellationToken,
}

impl Bootstrap {
    /// Opens the store, signs the first directory, and listens.
    ///
    /// # Errors
    /// A file, key or address is not usable.
    pub async fn spawn(config: BootstrapConfig) -> Result<Self, StartError> {
        Self::spawn_on(PassedListeners::default(), config).await
    }

    /// The same, on listeners that a service manager has bound, and on others that it binds.
    ///
    /// # Errors
    /// A file, key, address or listener is not usable.
    pub async fn spawn_on(passed: PassedListeners, config: BootstrapConfig) -> Result<Self, StartError> {
        Self::start(passed, config, tls::config()).await
    }

    /// The same, for nodes whose certificates `tls` trusts. Others than those of public authorities are for tests.
    ///
    /// # Errors
    /// A file, key or address is not usable.
    pub async fn spawn_trusting(config: BootstrapConfig, tls: Arc<ClientConfig>) -> Result<Self, StartError> {
        Self::start(PassedListeners::default(), config, tls).await
    }

    async fn start(
        passed: PassedListeners,
        config: BootstrapConfig,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let federation = &config.federation;
        let trust = Trust::from(load_statements(&federation.revocations, federation.roots())?);
        let online = load_online_key(&config, trust.clone())?;
        let own = online.key.public();
        if trust.revokes(&own) {
            return Err(StartError::Revoked);
        }
        let statements = Arc::new(StatementsFile::new(federation.revocations.clone(), trust.clone(), own));
        let listener = match passed.http {
            Some(passed) => take(passed, "http.listen")?,
            None => bind(config.http.listen, "http.listen").await?,
        };
        let admin_listener = match (passed.admin, config.admin.listen) {
            (Some(passed), _) => Some(take(passed, "admin.listen")?),
            (None, Some(addr)) => Some(bind(addr, "admin.listen").await?),
            (None, None) => None,
        };
        let live = Arc::new(LiveConfig::new(&config));
        let dial_key = SecretKey::generate().map_err(StartError::Random)?;
        let dialer = Dialer::bind(config.times.dial, &live, dial_key).map_err(StartError::Dialer)?;
        let metrics = Arc::new(Metrics::default());
        let doors = DoorProber::new(&live, tls, Arc::clone(&metrics)).map_err(StartError::Names)?;
        let online = Arc::new(online);
        let registry = RegistryState::new(rule_config(&config, &online, live.caps.clone()));
        let store = storage::open(&config, metrics.failed_snapshots.clone()).await?;
        let lifetime = config.directory.lifetime;
        let owner = Owner::start(registry, store, SigningConfig { online, lifetime }, Arc::clone(&metrics))
            .await
            .map_err(|error| StartError::FirstDirectory(Box::new(error)))?;

        let mut bootstrap = Self {
            addr: listener.local_addr().unwrap_or(config.http.listen),
            admin_addr: admin_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            published: owner.published(),
            stop: CancellationToken::new(),
            drain: config.times.drain,
            live: Arc::clone(&live),
            servers: ServiceTasks::default(),
            tasks: ServiceTasks::default(),
            tasks_stop: CancellationToken::new(),
        };
        let store_failure = owner.store_failure();
        let (handle, work) = owner.run(bootstrap.tasks_stop.clone());
        bootstrap.tasks.spawn("owner", work);
        let app = Arc::new(AppState {
            owner: handle,
            store_failure,
            published: Arc::clone(&bootstrap.published),
            beacon: Arc::default(),
            statements: Arc::clone(&statements),
            dialer,
            doors,
            live: Arc::clone(&live),
            nodes: NodeLimiter::default(),
            metrics: Arc::clone(&metrics),
            proxy_warning_logged: AtomicBool::new(false),
            started: Instant::now(),
            config: config.clone(),
        });
        bootstrap.tasks.spawn("probes", probe::run(Arc::clone(&app), bootstrap.tasks_stop.clone()));
        bootstrap.tasks.spawn("expiry", drop_inactive(Arc::clone(&app), bootstrap.tasks_stop.clone()));
        let federation = &config.federation;
        let file = BeaconFile::new(federation.beacon.clone(), trust, Arc::clone(&app.beacon));
        bootstrap.tasks.spawn("beacon", file.watch(bootstrap.tasks_stop.clone()));
        bootstrap.tasks.spawn("root statements", statements.watch(bootstrap.tasks_stop.clone()));
        let public = Interface {
            listener,
            router: router(Arc::clone(&app)),
            max_connections: Arc::clone(&live.max_connections),
            sources: Arc::clone(&live.connections),
        };
        bootstrap.serve("http", public, &app);
        if let Some(listener) = admin_listener {
            let admin = Interface {
                listener,
                router: admin_router(Arc::clone(&app)),
                max_connections: Arc::new(AtomicUsize::new(MAX_ADMIN_CONNECTIONS)),
                sources: Arc::clone(&live.admin_connections),
            };
            bootstrap.serve("admin", admin, &app);
        }
        Ok(bootstrap)
    }

    fn serve(&mut self, task: &'static str, interface: Interface, app: &Arc<AppState>) {
        let Interface { listener, router, max_connections, sources } = interface;
        let server = Server {
            listener,
            router,
            health_router: health_router(Arc::clone(app)),
            max_connections,
            sources,
            live: Arc::clone(&app.live),
            config: app.config.clone(),
            metrics: Arc::clone(&app.metrics),
        };
        self.servers.spawn(task, server.run(self.stop.clone()));
    }

    /// Replaces the values that may change in a running registry. Returns the changed keys.
    ///
    /// # Errors
    /// A value is out of bounds. Nothing was replaced.
    pub fn reload(&self, config: &BootstrapConfig) -> Result<ChangedKeys, ConfigError> {
        self.live.reload(config)
    }

    /// The bound address of the public interface.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bound address of the operator's interface, if it is enabled.
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Number of public nodes in the directory.
    pub fn listed(&self) -> usize {
        self.published.load().public_count()
    }

    /// Waits until one of the registry's tasks ends by itself, which should not happen. Call [`Bootstrap::shutdown`]
    /// then.
    pub async fn failed(&mut self) -> TaskFailure {
        let failure = tokio::select! {
            biased;
            failure = self.tasks.failed() => failure,
            failure = self.servers.failed() => failure,
        };
        tracing::error!(%failure, "the registry cannot continue");
        failure
    }

    /// Stops accepting, lets requests finish within the configured drain time, and closes the store.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let stopped = timeout(self.drain + STOP_MARGIN, self.servers.ended());
        if stopped.await.is_err() {
            tracing::warn!("aborted requests at the shutdown deadline");
            self.servers.0.shutdown().await;
        }
        // Stop the owner after the requests that use it. It ends between two commits.
        self.tasks_stop.cancel();
        let stopped = timeout(STOP_MARGIN, self.tasks.ended());
        if stopped.await.is_err() {
            tracing::warn!("the store was not closed in time; acknowledged changes are on disk");
            self.tasks.0.shutdown().await;
        }
    }
}

/// What differs between the public interface and the operator's.
struct Interface {
    listener: TcpListener,
    router: Router,
    max_connections: Arc<AtomicUsize>,
    /// The rate of new connections.
    sources: Arc<SourceLimiter>,
}

/// Tasks that run until the registry is shut down.
#[derive(Debug, Default)]
struct ServiceTasks(JoinSet<TaskFailure>);

impl ServiceTasks {
    fn spawn(&mut self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let caught = AssertUnwindSafe(future).catch_unwind();
        self.0.spawn(async move {
            match caught.await {
                Ok(()) => TaskFailure::Ended(task),
                Err(_) => TaskFailure::Panicked(task),
            }
        });
    }

    /// Waits for a task that ends by itself.
    async fn failed(&mut self) -> TaskFailure {
        loop {
            match self.0.join_next().await {
                Some(Ok(failure)) => return failure,
                // The runtime is shutting down.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all tasks have ended.
    async fn ended(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

fn rule_config(config: &BootstrapConfig, online: &OnlineKey, caps: Caps) -> RuleConfig {
    RuleConfig {
        federation: online.federation(),
        online: online.key.public(),
        trust: online.trust.clone(),
        max_nodes: config.limits.max_nodes,
        node_timeout: config.directory.node_timeout,
        caps,
        probe_interval: config.probing.interval,
        failure_threshold: config.probing.failure_threshold,
        door_grace: config.probing.door_grace,
    }
}

fn take(passed: StdTcpListener, key: &'static str) -> Result<TcpListener, StartError> {
    let addr = passed.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
    tracing::info!(key, addr, "using the socket that the service manager has bound");
    let listener = passed.set_nonblocking(true).and_then(|()| TcpListener::from_std(passed));
    listener.map_err(|source| StartError::Passed { key, source })
}

async fn bind(addr: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { addr, key, source })
}

async fn drop_inactive(app: Arc<AppState>, stop: CancellationToken) {
    let mut every = interval(CLEANUP_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        app.live.drop_inactive();
        app.doors.drop_inactive();
        app.nodes.drop_inactive();
    }
}

/// The online key and its delegations, checked against the configuration and the clock.
pub(crate) fn load_online_key(config: &BootstrapConfig, trust: Trust) -> Result<OnlineKey, StartError> {
    let federation = &config.federation;
    let key = load_secret_key(&federation.online_key)?;
    let mut delegations = load_delegations(&federation.delegation)?;
    let (now, roots) = (clock().secs(), trust.roots());
    delegations.retain(|one| roots.knows(&one.root) && one.federation == roots.federation());
    if delegations.is_empty() {
        return Err(StartError::Root);
    }
    delegations.retain(|one| one.key == key.public());
    if delegations.is_empty() {
        return Err(StartError::Delegate);
    }
    let counts = |one: &Signed<Delegation>| {
        roots.accepts(&one.root, now)
            && one.expires_at > now
            && one.not_before <= now + chappe_common::record::MAX_CLOCK_SKEW
    };
    if !delegations.iter().any(counts) {
        return Err(StartError::DelegationTime);
    }
    Ok(OnlineKey { key, delegations, trust })
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::OwnedFd};

    use super::*;

    #[tokio::test]
    async fn a_passed_socket_that_is_not_usable_is_reported_with_its_own_key() {
        // The binary only passes sockets. A file stands for errors that only the system detects.
        let not_a_socket = || Some(StdTcpListener::from(OwnedFd::from(File::open("/dev/null").expect("a file"))));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = crate::keys::create_federation(dir.path(), clock().secs()).expect("a new federation");
        let mut config = BootstrapConfig::default();
        config.bootstrap.data_dir = dir.path().join("data");
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.federation.roots = vec![root];
        config.federation.delegation = dir.path().join(crate::keys::DELEGATION_FILE);
        config.federation.online_key = dir.path().join(crate::keys::ONLINE_KEY_FILE);
        for (passed, expected) in [
            (PassedListeners { http: not_a_socket(), admin: None }, "http.listen"),
            (PassedListeners { http: None, admin: not_a_socket() }, "admin.listen"),
        ] {
            match Bootstrap::spawn_on(passed, config.clone()).await {
                Err(StartError::Passed { key, source: _ }) => assert_eq!(key, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_named() {
        let ends: [(fn(), TaskFailure); 2] =
            [(|| panic!("on purpose"), TaskFailure::Panicked("one")), (|| {}, TaskFailure::Ended("one"))];
        for (end, expected) in ends {
            let mut tasks = ServiceTasks::default();
            tasks.spawn("another", std::future::pending());
            tasks.spawn("one", async move { end() });
            assert_eq!(tasks.failed().await, expected);
            tasks.0.shutdown().await;
        }
    }
}
