//! The TCP listeners of a node: accepting, bounding, and serving HTTP until a connection becomes a WebSocket.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Extension, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{
    core::Core,
    metrics::levels,
    session::{rates::Source, run},
};

/// The address that a client connected from. Never logged.
#[derive(Clone, Copy)]
struct ClientIp(IpAddr);

/// A failed `accept` is mostly a full table of files; trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a WebSocket reads at once: 4 KiB hold every message but an offer, and 128 KiB would be held while idle.
const READ_BUFFER: usize = 4096;

/// The routes for clients.
pub(crate) fn client_routes(core: Arc<Core>) -> Router {
    Router::new()
        .route("/", get(upgrade))
        .route("/ws", get(upgrade))
        .route("/health", get(health))
        .route("/stats", get(stats))
        .with_state(core)
}

/// The routes for the operator.
pub(crate) fn admin_routes(core: Arc<Core>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/members", get(members))
        .route("/health", get(health))
        .with_state(core)
}

/// Accepts clients until the task is ended.
pub(crate) async fn serve_clients(core: Arc<Core>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(core.config.client.max_connections));
    let routes = client_routes(core.clone());
    loop {
        let Some((stream, addr)) = accept(&listener).await else { continue };
        let exempt = core.sources.exempts(addr.ip());
        let Ok(place) = room.clone().try_acquire_owned() else {
            core.metrics.connections_refused.inc();
            continue;
        };
        if !exempt && !core.sources.allows_connection(Source::of(addr.ip())) {
            core.metrics.connections_refused.inc();
            continue;
        }
        let routes = routes.clone().layer(Extension(ClientIp(addr.ip()))).layer(Extension(Arc::new(place)));
        let upgrade_within = core.config.times.upgrade;
        core.connections.spawn(serve(stream, routes, upgrade_within));
    }
}

/// Accepts the operator until the task is ended.
pub(crate) async fn serve_admin(core: Arc<Core>, listener: TcpListener) {
    // A scraper, a browser and a curl; not an attacker's flood, should the address be public by mistake.
    let room = Arc::new(Semaphore::new(32));
    let routes = admin_routes(core.clone());
    loop {
        let Some((stream, _)) = accept(&listener).await else { continue };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let routes = routes.clone().layer(Extension(Arc::new(place)));
        core.tasks.spawn(serve(stream, routes, core.config.times.upgrade));
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::debug!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one connection's HTTP: what it asks in twice the time that an upgrade may take, or the upgrade, after which
/// own times hold.
async fn serve(stream: TcpStream, routes: Router, within: Duration) {
    // Signalling is small messages that people wait for.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .with_upgrades();
    // A connection that breaks, or takes too long, is its client's business.
    let _ = tokio::time::timeout(within * 2, connection).await;
}

async fn upgrade(
    State(core): State<Arc<Core>>,
    Extension(ClientIp(ip)): Extension<ClientIp>,
    Extension(place): Extension<Arc<tokio::sync::OwnedSemaphorePermit>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let limits = &core.config.limits;
    let connections = core.connections.clone();
    let (max_message, max_queued) = (limits.max_message, limits.max_queued);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(max_queued + max_message)
        .max_message_size(max_message)
        .max_frame_size(max_message)
        .on_upgrade(move |socket| {
            // Boxed: each wrapper around a future of 4 KiB would hold it twice, once as its argument.
            let session = Box::pin(run::run(core, socket, ip));
            connections.track(async move {
                session.await;
                drop(place);
            })
        })
}

async fn health(State(core): State<Arc<Core>>) -> Response {
    let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    Json(json!({
        "status": if core.is_draining() { "draining" } else { "healthy" },
        "serverId": core.me.to_server_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": core.started.elapsed().as_secs(),
        "timestamp": timestamp,
    }))
    .into_response()
}

async fn stats(State(core): State<Arc<Core>>) -> Response {
    let levels = levels(&core);
    Json(json!({ "sessions": levels.sessions, "members": levels.members, "leases": levels.leases })).into_response()
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let text = core.metrics.encode(levels(&core));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn members(State(core): State<Arc<Core>>) -> Response {
    let view = core.view.load_full();
    let members: Vec<_> = view
        .nodes()
        .map(|node| {
            let record = if node == core.me { Some(core.own_record.load_full()) } else { core.records.any(&node) };
            json!({
                "node": node.to_string(),
                "self": node == core.me,
                "epoch": record.as_ref().map(|record| record.epoch),
                "seq": record.as_ref().map(|record| record.seq),
                "version": record.as_ref().map(|record| record.version.clone()),
                "region": record.as_ref().map(|record| record.region.clone()),
                "quicAddrs": record.as_ref().map(|record| record.quic_addrs.clone()),
                "link": core.links.find(&node).is_some(),
            })
        })
        .collect();
    Json(json!({ "members": members })).into_response()
}
