//! Accepting and serving HTTP connections within bounds: how many, how often from one source, how long.
//!
//! hyper is driven here rather than by `axum::serve`, which bounds none of these.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::BootstrapConfig,
    http::Peer,
    limits::SourceLimiter,
    metrics::{ConnectionLabel, ConnectionRefusal, Metrics},
    source,
};

/// Headers are small here: no cookies, no tokens.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// How long accepting rests when the system has no more file descriptors to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves one listener.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) config: BootstrapConfig,
    pub(crate) metrics: Arc<Metrics>,
}

impl Server {
    /// Serves until `stop` is cancelled, then lets what is under way finish within the drain time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let sources = SourceLimiter::new(self.config.limits.connections_per_minute, &self.config.limits.exempt);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => self.metrics.connections_closed.inc(),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => match self.refusal(&sources, connections.len(), peer) {
                        Some(reason) => {
                            self.metrics.connections_refused.get_or_create(&ConnectionLabel { reason }).inc();
                            0
                        }
                        None => {
                            connections.spawn(self.serve(stream, peer, stop.clone()));
                            self.metrics.connections_opened.inc()
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections for now");
                        sleep(ACCEPT_PAUSE).await;
                        0
                    }
                },
            };
        }
        drop(self.listener);
        let _ = timeout(self.config.times.drain, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }

    fn refusal(&self, sources: &SourceLimiter, open: usize, peer: SocketAddr) -> Option<ConnectionRefusal> {
        if open >= self.config.limits.max_connections {
            Some(ConnectionRefusal::Full)
        } else if !source::is_proxy(peer.ip(), &self.config.http.trusted_proxies) && !sources.allows(peer.ip()) {
            // A proxy's connections are those of all whom it serves.
            Some(ConnectionRefusal::RateLimited)
        } else {
            None
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let times = &self.config.times;
        let longest = times.connection;
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(Peer(peer.ip()))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(times.headers)
            .max_header_size(MAX_HEADER_BYTES)
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
                    // However it ended, there is nobody to tell.
                    () = &mut end => return,
                    _ = connection.as_mut() => return,
                }
            }
        }
    }
}
