//! A running registry: starts its parts in order, and stops them in order within a deadline.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use chappe_common::{federation::FederationId, keys::SecretKey};
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
    http::{App, admin_router, router},
    keys::{KeyFileError, load_delegation, load_secret_key},
    limits::SourceLimiter,
    metrics::Metrics,
    owner::{Owner, Signing, clock},
    probe,
    published::Published,
    rules::{Bounds, Caps, Registry},
    server::Server,
    storage::{self, StoreError},
};

/// How often quiet sources are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// What stopping may take beyond the drain time: closing the store.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Why a registry does not start. Nothing runs then; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value is out of its bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The delegation is by none of the roots, or for another federation.
    #[error("the delegation is not by one of federation.roots")]
    Root,
    /// The delegation is for another key.
    #[error("the delegation is for another key than federation.online_key")]
    Delegate,
    /// The delegation does not count now.
    #[error("the delegation has expired or is from the future; have the root sign a new one, or set the clock")]
    DelegationTime,
    /// The system has no random bytes to give.
    #[error("no random bytes for a key")]
    Random(#[source] getrandom::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be written, or a thread for it not be had.
    #[error("cannot make the first directory")]
    FirstDirectory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} ({key})")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The config key that says so.
        key: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// No UDP socket can be had for dialling nodes back.
    #[error("no UDP socket for dialling nodes back")]
    Dialer(#[source] io::Error),
}

/// A running registry. Dropping it stops it at once; [`Bootstrap::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Bootstrap {
    addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    published: Arc<ArcSwap<Published>>,
    stop: CancellationToken,
    drain: Duration,
    servers: JoinSet<()>,
    rest: JoinSet<()>,
    rest_stop: CancellationToken,
}

impl Bootstrap {
    /// Opens the store, signs the first directory, and listens.
    ///
    /// # Errors
    /// Says which file, key or address stands in the way.
    pub async fn spawn(config: BootstrapConfig) -> Result<Self, StartError> {
        config.check()?;
        let online = load_online_key(&config)?;
        let listener = listen(config.http.listen, "http.listen").await?;
        let admin_listener = match config.admin.listen {
            Some(addr) => Some(listen(addr, "admin.listen").await?),
            None => None,
        };
        let dial_key = SecretKey::generate().map_err(StartError::Random)?;
        let dialer = Dialer::bind(&config, dial_key).map_err(StartError::Dialer)?;
        let metrics = Arc::new(Metrics::default());
        let online = Arc::new(online);
        let registry = Registry::new(bounds(&config, &online), clock().secs());
        let store = storage::open(&config).await?;
        let (roots, lifetime) = (config.federation.roots.clone(), config.directory.lifetime);
        let owner = Owner::start(registry, store, Signing { online, roots, lifetime }, Arc::clone(&metrics))
            .await
            .map_err(|error| StartError::FirstDirectory(Box::new(error)))?;

        let mut bootstrap = Self {
            addr: listener.local_addr().unwrap_or(config.http.listen),
            admin_addr: admin_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            published: owner.published(),
            stop: CancellationToken::new(),
            drain: config.times.drain,
            servers: JoinSet::new(),
            rest: JoinSet::new(),
            rest_stop: CancellationToken::new(),
        };
        let (handle, work) = owner.run(bootstrap.rest_stop.clone());
        bootstrap.rest.spawn(work);
        let limits = &config.limits;
        let app = Arc::new(App {
            owner: handle,
            published: Arc::clone(&bootstrap.published),
            beacon: Arc::default(),
            dialer,
            requests: SourceLimiter::new(limits.requests_per_minute, &limits.exempt),
            registrations: SourceLimiter::new(limits.registrations_per_minute, &limits.exempt),
            metrics: Arc::clone(&metrics),
            started: Instant::now(),
            config: config.clone(),
        });
        bootstrap.rest.spawn(probe::run(Arc::clone(&app), bootstrap.rest_stop.clone()));
        bootstrap.rest.spawn(forget_quiet(Arc::clone(&app), bootstrap.rest_stop.clone()));
        let federation = &config.federation;
        let file = BeaconFile::new(federation.beacon.clone(), federation.roots.clone(), Arc::clone(&app.beacon));
        bootstrap.rest.spawn(file.watch(bootstrap.rest_stop.clone()));
        let routers = [(Some(listener), router(Arc::clone(&app))), (admin_listener, admin_router(app))];
        for (listener, router) in routers {
            if let Some(listener) = listener {
                let server = Server { listener, router, config: config.clone(), metrics: Arc::clone(&metrics) };
                bootstrap.servers.spawn(server.run(bootstrap.stop.clone()));
            }
        }
        Ok(bootstrap)
    }

    /// The bound address of the public interface.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bound address of the operator's interface, if there is one.
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// How many public nodes the directory lists.
    pub fn listed(&self) -> usize {
        self.published.load().count()
    }

    /// Stops accepting, lets requests finish within the configured drain time, and closes the store.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let stopped = timeout(self.drain + STOP_MARGIN, async { while self.servers.join_next().await.is_some() {} });
        if stopped.await.is_err() {
            tracing::warn!("requests were cut off at the deadline");
            self.servers.shutdown().await;
        }
        // The owner ends after the requests that ask it, and between two commits.
        self.rest_stop.cancel();
        let stopped = timeout(STOP_MARGIN, async { while self.rest.join_next().await.is_some() {} });
        if stopped.await.is_err() {
            tracing::warn!("the store was not closed in time; what was answered with success is on disk all the same");
            self.rest.shutdown().await;
        }
    }
}

fn bounds(config: &BootstrapConfig, online: &OnlineKey) -> Bounds {
    let federation = &config.federation;
    Bounds {
        federation: FederationId::of_roots(&federation.roots),
        online: online.key.public(),
        operators: federation.roots.iter().copied().chain([online.key.public()]).collect(),
        max_nodes: config.limits.max_nodes,
        seen_within: config.directory.seen_within,
        caps: Caps::new(config.caps.clone(), &config.limits.exempt),
        probe_every: config.probing.every,
        max_failures: config.probing.failures,
    }
}

async fn listen(addr: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { addr, key, source })
}

async fn forget_quiet(app: Arc<App>, stop: CancellationToken) {
    let mut every = interval(FORGET_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        app.requests.forget_quiet();
        app.registrations.forget_quiet();
        app.dialer.forget_quiet();
    }
}

fn load_online_key(config: &BootstrapConfig) -> Result<OnlineKey, StartError> {
    let federation = &config.federation;
    let key = load_secret_key(&federation.online_key)?;
    let delegation = load_delegation(&federation.delegation)?;
    let now = clock().secs();
    if !federation.roots.contains(&delegation.root)
        || delegation.federation != FederationId::of_roots(&federation.roots)
    {
        return Err(StartError::Root);
    }
    if delegation.key != key.public() {
        return Err(StartError::Delegate);
    }
    if delegation.expires_at <= now || delegation.not_before > now + chappe_common::record::MAX_CLOCK_SKEW {
        return Err(StartError::DelegationTime);
    }
    Ok(OnlineKey { key, delegation })
}
