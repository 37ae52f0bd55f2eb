//! The TCP listeners of a node: accepting, bounding, and serving HTTP where a connection does not become a WebSocket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::get,
};
use chappe_discovery::federation::FederationInfo;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::Instrument as _;

use crate::{
    core::Core,
    levels::levels,
    limits::{
        connection_limiter::{ConnectionLimiter, Permit},
        rates::Source,
    },
    pending_connections::{PendingConnections, PendingGuard},
    session::run::Running,
    websocket::{
        Connection,
        rewound::Rewound,
        tls::Tls,
        upgrade::{self, First},
    },
};

/// A failed `accept` is mostly a full table of files; trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that has to make room may take to do so: it ends the next time that its task runs.
const PLACE_WAIT: Duration = Duration::from_millis(100);
/// Connections beyond `client.max_connections` that are answered in HTTP, so that `/health` is, and that are told if they want
/// more. The oldest makes room: each is over within a round trip.
const SPARE: usize = 16;

/// What a client is told that wants a WebSocket where no place is free.
const FULL: &str =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n";

/// The routes for clients.
pub(crate) fn client_routes(core: Arc<Core>) -> Router {
    Router::new()
        .route("/", get(upgrade_required))
        .route("/ws", get(upgrade_required))
        .route("/health", get(health))
        .route("/stats", get(stats))
        .route(chappe_discovery::revocations::PATH, get(revocations))
        .route(chappe_discovery::federation::PATH, get(federation))
        .with_state(core)
}

/// Accepts clients until the task is ended.
pub(crate) async fn serve_clients(core: Arc<Core>, listener: TcpListener, tls: Option<Arc<Tls>>) {
    let room = Arc::new(Semaphore::new(core.context.config.client.max_connections));
    // How many there may be in all is the room's business.
    let of_sources = ConnectionLimiter::new(usize::MAX, core.context.config.limits.source_connections);
    let mut pending = PendingConnections::of(core.context.config.client.max_connections);
    let mut spare = PendingConnections::at_most(SPARE);
    let routes = client_routes(core.clone());
    loop {
        let Some((stream, addr)) = accept(&core, &listener).await else { continue };
        let source = (!core.clients.sources.exempts(addr.ip())).then(|| Source::of(addr.ip()));
        let is_allowed = source.is_none_or(|source| core.clients.sources.allows_connection(source));
        let of_source = if is_allowed { of_sources.try_take(source) } else { None };
        let Some(of_source) = of_source else {
            core.context.metrics.connections_refused.inc();
            continue;
        };
        let tls = tls.as_ref().map(|tls| tls.acceptor());
        let Some(place) = place(&room, &mut pending).await else {
            core.context.metrics.connections_refused.inc();
            core.health.note_full(core.connections.len());
            core.connections.spawn(Box::pin(serve_spare(
                core.clone(),
                stream,
                routes.clone(),
                tls,
                spare.count_in(),
                of_source,
            )));
            continue;
        };
        let waiting = pending.count_in();
        // Boxed: what wraps the future would hold it again.
        core.connections.spawn(Box::pin(serve_client(
            core.clone(),
            stream,
            addr.ip(),
            routes.clone(),
            tls,
            waiting,
            (place, of_source),
        )));
    }
}

/// A place among the connections: a free one, or that of the one which has said nothing for longest.
async fn place(room: &Arc<Semaphore>, pending: &mut PendingConnections) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = room.clone().try_acquire_owned() {
        return Some(place);
    }
    if !pending.drop_oldest() {
        return None;
    }
    // It has only to be told.
    timeout(PLACE_WAIT, room.clone().acquire_owned()).await.ok()?.ok()
}

/// The next connection. Waits a moment and returns none if the system has none to give.
pub(crate) async fn accept(core: &Core, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            core.context.metrics.accept_errors.inc();
            core.health.note_accept(&error);
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one client. `_place` is its place among all connections, and among those of its source.
async fn serve_client(
    core: Arc<Core>,
    stream: TcpStream,
    ip: IpAddr,
    routes: Router,
    tls: Option<TlsAcceptor>,
    waiting: PendingGuard,
    _place: (OwnedSemaphorePermit, Permit<Source>),
) {
    let pending = core.context.metrics.client_handshakes_failed.clone();
    // Boxed: an idle session keeps nothing of how it began.
    match Box::pin(waiting.finish(begin(core.clone(), stream, ip, routes, tls))).await {
        Some(Some(session)) => {
            drop(pending);
            // A number that says nothing of the client, and tells its lines in the log from others'.
            let span = tracing::debug_span!("session", number = core.context.metrics.sessions_opened.get());
            session.run().instrument(span).await;
        }
        Some(None) => {}
        None => drop(pending.inc()),
    }
}

/// Answers one connection for which there is no place: HTTP as any other, and a WebSocket with what it means.
async fn serve_spare(
    core: Arc<Core>,
    stream: TcpStream,
    routes: Router,
    tls: Option<TlsAcceptor>,
    waiting: PendingGuard,
    _of_source: Permit<Source>,
) {
    let answering = async {
        match open(&core, stream, routes, tls).await? {
            Opened::Plain { mut stream, .. } => stream.write_all(FULL.as_bytes()).await.ok(),
            Opened::Tls { mut stream, .. } => stream.write_all(FULL.as_bytes()).await.ok(),
        }
    };
    // One that makes room was counted as refused already.
    let _ = Box::pin(waiting.finish(timeout(core.context.config.times.upgrade * 2, answering))).await;
}

/// A client that asks for a WebSocket: its stream, the answer, and what came behind the request.
enum Opened {
    Plain { stream: TcpStream, answer: String, rest: Vec<u8> },
    Tls { stream: Box<TlsStream<TcpStream>>, answer: String, rest: Vec<u8> },
}

/// The session that a client asks for in time; or else its HTTP is served. A connection that breaks, or takes too long, is
/// its client's business.
async fn begin(
    core: Arc<Core>,
    stream: TcpStream,
    ip: IpAddr,
    routes: Router,
    tls: Option<TlsAcceptor>,
) -> Option<Box<Running>> {
    let (limits, held) = (&core.context.config.limits, &core.clients.held);
    let connection = match open(&core, stream, routes, tls).await? {
        Opened::Plain { stream, answer, rest } => Connection::new(stream, None, &answer, rest, limits, held),
        Opened::Tls { stream, answer, rest } => {
            let (stream, tls) = stream.into_inner();
            Connection::new(stream, Some(Box::new(tls)), &answer, rest, limits, held)
        }
    };
    let connection = connection.ok()?;
    Some(Running::new(core, connection, ip))
}

async fn open(core: &Core, mut stream: TcpStream, routes: Router, tls: Option<TlsAcceptor>) -> Option<Opened> {
    let within = core.context.config.times.upgrade;
    let Some(acceptor) = tls else {
        return match in_time(core, timeout(within, upgrade::read(&mut stream)).await)? {
            First::WebSocket { answer, rest } => Some(Opened::Plain { stream, answer, rest }),
            First::Http(head) => {
                serve(Rewound::new(head, stream), routes, within).boxed().await;
                None
            }
        };
    };
    // The handshake is part of what has to be done in time.
    let opening = async {
        let mut stream = acceptor.accept(stream).await?;
        let first = upgrade::read(&mut stream).await?;
        Ok::<_, io::Error>((stream, first))
    };
    match in_time(core, timeout(within, opening).await)? {
        (stream, First::WebSocket { answer, rest }) => Some(Opened::Tls { stream: Box::new(stream), answer, rest }),
        (stream, First::Http(head)) => {
            serve(Rewound::new(head, stream), routes, within).boxed().await;
            None
        }
    }
}

/// What was asked; counted where that took too long, or broke off.
fn in_time<T>(core: &Core, opened: Result<io::Result<T>, Elapsed>) -> Option<T> {
    if let Ok(Ok(opened)) = opened {
        return Some(opened);
    }
    core.context.metrics.client_handshakes_failed.inc();
    None
}

/// Serves one connection's HTTP: one request, in twice the time that an upgrade may take. Connections are counted, and requests
/// aren't.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Router, within: Duration) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A connection that breaks, or takes too long, is its client's business.
    let _ = timeout(within * 2, connection).await;
}

/// What a request gets that asks for a WebSocket's path, and not properly for a WebSocket.
async fn upgrade_required() -> Response {
    let fields =
        [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade"), (header::SEC_WEBSOCKET_VERSION, "13")];
    (StatusCode::UPGRADE_REQUIRED, fields, "a WebSocket, version 13, is served here").into_response()
}

/// The node's condition.
pub(crate) async fn health(State(core): State<Arc<Core>>) -> Response {
    let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let condition = core.health.condition();
    let status = if condition.is_fit { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": condition.status,
        "problems": condition.problems,
        "serverId": core.context.me.to_server_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": core.context.started.elapsed().as_secs(),
        "timestamp": timestamp,
    });
    (status, Json(body)).into_response()
}

async fn stats(State(core): State<Arc<Core>>) -> Response {
    let levels = levels(&core);
    Json(json!({ "sessions": levels.sessions, "members": levels.members, "leases": levels.leases })).into_response()
}

/// The federation's roots and registries, for who has only its id from a link.
async fn federation(State(core): State<Arc<Core>>) -> Response {
    let registries = core.context.config.registry.urls.clone();
    Json(FederationInfo { roots: core.context.roots.clone(), registries }).into_response()
}

/// The online keys that are revoked, for clients and other nodes.
async fn revocations(State(core): State<Arc<Core>>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], core.revocations.all().encode()).into_response()
}
