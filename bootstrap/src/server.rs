//! Accepts and serves HTTP connections. Limits their number, their rate for each source, and their duration.
//!
//! It drives hyper directly, because `axum::serve` has none of these limits.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use chappe_common::forwarded::is_proxy;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::BootstrapConfig,
    http::Peer,
    limits::SourceLimiter,
    live::LiveConfig,
    metrics::{ConnectionLabel, ConnectionRejection, Metrics},
};

/// Requests have no cookies or tokens, so their headers are small.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Pause after a failed accept, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections above the limit that are accepted only for health checks. The oldest is closed for a new one; each takes
/// one round trip.
const MAX_HEALTH_CONNECTIONS: usize = 16;
/// Maximal number of connections to the operator's interface: for a scraper, a browser and curl.
pub(crate) const MAX_ADMIN_CONNECTIONS: usize = 32;
/// Minimal interval between log messages about rejected or failed connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// An HTTP server for one listener.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    /// The routes for connections above the limit.
    pub(crate) health_router: Router,
    pub(crate) max_connections: Arc<AtomicUsize>,
    /// The rate of new connections.
    pub(crate) sources: Arc<SourceLimiter>,
    pub(crate) live: Arc<LiveConfig>,
    pub(crate) config: BootstrapConfig,
    pub(crate) metrics: Arc<Metrics>,
}

impl Server {
    /// Serves until `stop`, then lets running requests finish within the drain time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let mut health_only = VecDeque::<AbortHandle>::new();
        let (mut full, mut failed) = (LogThrottle::default(), LogThrottle::default());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    self.metrics.connections_closed.inc();
                    if ended.is_err_and(|error| error.is_panic()) {
                        self.metrics.panics.inc();
                    }
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        health_only.retain(|one| !one.is_finished());
                        match self.check_connection(connections.len() - health_only.len(), peer) {
                            Some(reason @ ConnectionRejection::Full) => {
                                self.count_rejected(reason);
                                if full.is_due() {
                                                                tracing::warn!("rejecting connections: limits.max_connections is reached");
                                }
                                if health_only.len() >= MAX_HEALTH_CONNECTIONS
                                    && let Some(oldest) = health_only.pop_front()
                                {
                                    oldest.abort();
                                }
                                let serving = self.serve(stream, peer, ConnectionKind::HealthOnly, stop.clone());
                                health_only.push_back(connections.spawn(serving));
                                self.metrics.connections_opened.inc();
                            }
                            Some(reason) => self.count_rejected(reason),
                            None => {
                                connections.spawn(self.serve(stream, peer, ConnectionKind::Regular, stop.clone()));
                                self.metrics.connections_opened.inc();
                            }
                        }
                    }
                    Err(error) => {
                        self.metrics.accept_errors.inc();
                        if failed.is_due() {
                                                    tracing::warn!(%error, "cannot accept connections; retrying");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            };
        }
        drop(self.listener);
        let _ = timeout(self.config.times.drain, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }

    fn count_rejected(&self, reason: ConnectionRejection) {
        self.metrics.connections_refused.get_or_create(&ConnectionLabel { reason }).inc();
    }

    fn check_connection(&self, open: usize, peer: SocketAddr) -> Option<ConnectionRejection> {
        // Check the rate first: at the connection limit, one source must not take all health-check slots as well. A
        // proxy's connections belong to all its clients, so they have no rate.
        if !is_proxy(peer.ip(), &self.live.trusted_proxies.load()) && !self.sources.allows(peer.ip()) {
            Some(ConnectionRejection::RateLimited)
        } else if open >= self.max_connections.load(Ordering::Relaxed) {
            Some(ConnectionRejection::Full)
        } else {
            None
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        kind: ConnectionKind,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let times = &self.config.times;
        let router = if kind == ConnectionKind::Regular { &self.router } else { &self.health_router };
        let longest = times.connection;
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer.ip()))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(times.headers)
            .max_header_size(MAX_HEADER_BYTES)
            .keep_alive(kind == ConnectionKind::Regular)
            .serve_connection(TokioIo::new(stream), service);
        async move {
            let mut connection = std::pin::pin!(connection);
            let mut end = std::pin::pin!(sleep(longest));
            let mut draining = false;
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled(), if !draining => {
                        draining = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    // Nobody needs the result.
                    () = &mut end => return,
                    _ = connection.as_mut() => return,
                }
            }
        }
    }
}

/// Whether a connection is within the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionKind {
    Regular,
    HealthOnly,
}

/// When a message was last logged.
#[derive(Default)]
struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// Whether the message is due again. If so, counts it as logged.
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|said| said.elapsed() >= LOG_INTERVAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
