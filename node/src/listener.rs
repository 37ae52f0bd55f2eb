//! The TCP listener for clients. Accepts connections, limits them, hands those that speak STUN to the relay for media, and
//! serves HTTP if a connection does not become a WebSocket.

use std::{
    any::Any,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::get,
};
use chappe_discovery::federation::FederationInfo;
use chappe_turn::{runtime::NewStream, source::Source};
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConnection;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower_http::cors::{self, CorsLayer};

use crate::{
    core::Core,
    levels::levels,
    limits::connection_limiter::{ConnectionLimiter, Permit},
    pending_connections::{PendingConnections, PendingGuard},
    session::run::Running,
    websocket::{
        Connection,
        rewound::Rewound,
        tls::Tls,
        upgrade::{self, First},
    },
};

/// Pause after a failed `accept`, which usually means that the file table is full. An immediate retry would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for the slot of an evicted connection. The connection ends the next time its task runs.
const SLOT_WAIT: Duration = Duration::from_millis(100);
/// Connections beyond `client.max_connections` that still receive an HTTP response, so that `/health` works at the
/// limit. Each lasts about one round trip; the oldest is evicted.
const SPARE: usize = 16;

/// The response to a WebSocket request at the limit.
const FULL: &str =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n";

/// The pages beside the WebSocket. Any web page may read them: they are public, and a client in a page needs them.
pub(crate) fn client_routes(core: Arc<Core>) -> Router {
    Router::new()
        .route("/", get(upgrade_required))
        .route("/ws", get(upgrade_required))
        .route("/health", get(health))
        .route("/stats", get(stats))
        .route(chappe_discovery::revocations::PATH, get(revocations))
        .route(chappe_discovery::federation::PATH, get(federation))
        .layer(CorsLayer::new().allow_origin(cors::Any).allow_methods([Method::GET]))
        .with_state(core)
}

/// Accepts clients until the task is cancelled.
pub(crate) async fn serve_clients(core: Arc<Core>, listener: TcpListener, tls: Option<Arc<Tls>>) {
    let slots = Arc::new(Semaphore::new(core.context.config.client.max_connections));
    // The semaphore bounds the total.
    let source_limiter = ConnectionLimiter::new(usize::MAX, core.context.config.limits.source_connections);
    let mut pending = PendingConnections::for_listener(core.context.config.client.max_connections);
    let mut spare = PendingConnections::at_most(SPARE);
    let routes = client_routes(core.clone());
    loop {
        let Some((stream, addr)) = accept(&core, &listener).await else { continue };
        let source = (!core.clients.sources.exempts(addr.ip())).then(|| Source::of(addr.ip()));
        let is_allowed = source.is_none_or(|source| core.clients.sources.allows_connection(source));
        let source_permit = if is_allowed { source_limiter.try_take(source) } else { None };
        let Some(source_permit) = source_permit else {
            core.context.metrics.connections_refused.inc();
            continue;
        };
        let tls = tls.as_ref().map(|tls| tls.acceptor());
        let Some(slot) = acquire_slot(&slots, &mut pending).await else {
            core.context.metrics.connections_refused.inc();
            core.health.warn_full(core.connections.len());
            core.connections.spawn(Box::pin(serve_spare(
                core.clone(),
                stream,
                routes.clone(),
                tls,
                spare.add(),
                source_permit,
            )));
            continue;
        };
        let guard = pending.add();
        // Boxed so that the wrapping futures don't each contain a copy of its state.
        core.connections.spawn(Box::pin(serve_client(
            core.clone(),
            stream,
            addr,
            routes.clone(),
            tls,
            guard,
            (slot, source_permit),
        )));
    }
}

/// Acquires a connection slot. If none is free, evicts the oldest pending connection and takes its slot.
async fn acquire_slot(slots: &Arc<Semaphore>, pending: &mut PendingConnections) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = slots.clone().try_acquire_owned() {
        return Some(slot);
    }
    if !pending.evict_oldest() {
        return None;
    }
    // The evicted task only has to be polled once.
    timeout(SLOT_WAIT, slots.clone().acquire_owned()).await.ok()?.ok()
}

/// Accepts the next connection. If that fails, waits [`ACCEPT_PAUSE`] and returns `None`.
pub(crate) async fn accept(core: &Core, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            core.context.metrics.accept_errors.inc();
            core.health.warn_accept_failed(&error);
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one client. `slots` are its connection slot and the permit of its source.
async fn serve_client(
    core: Arc<Core>,
    stream: TcpStream,
    addr: SocketAddr,
    routes: Router,
    tls: Option<TlsAcceptor>,
    guard: PendingGuard,
    slots: (OwnedSemaphorePermit, Permit<Source>),
) {
    let pending = core.context.metrics.client_handshakes_failed.clone();
    // Boxed: an idle session should not keep the memory of its handshake.
    match Box::pin(guard.finish(begin(core.clone(), stream, addr.ip(), routes, tls))).await {
        Some(Some(Begun::Session(session))) => {
            drop(pending);
            session.run().await;
        }
        Some(Some(Begun::Stun(StunStream { socket, tls, received }))) => {
            // The connection counts until the relay closes it.
            let guard: Box<dyn Any + Send> = Box::new(slots);
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            let taken = core
                .media_relay
                .as_ref()
                .is_some_and(|relay| relay.add_stream(NewStream { socket, addr, tls, received, guard }).is_ok());
            if !taken {
                core.context.metrics.connections_refused.inc();
            }
        }
        Some(None) => {}
        None => drop(pending.inc()),
    }
}

/// A connection whose first request was read.
enum Begun {
    Session(Box<Running>),
    Stun(StunStream),
}

/// A connection that speaks STUN, with what was received.
struct StunStream {
    socket: std::net::TcpStream,
    tls: Option<Box<ServerConnection>>,
    received: Vec<u8>,
}

/// Serves one connection beyond the limit: HTTP as usual, and 503 for a WebSocket.
async fn serve_spare(
    core: Arc<Core>,
    stream: TcpStream,
    routes: Router,
    tls: Option<TlsAcceptor>,
    guard: PendingGuard,
    _source_permit: Permit<Source>,
) {
    let answering = async {
        match open(&core, stream, routes, tls).await? {
            Opened::Plain { mut stream, .. } => stream.write_all(FULL.as_bytes()).await.ok(),
            Opened::Tls { mut stream, .. } => stream.write_all(FULL.as_bytes()).await.ok(),
            Opened::Stun(_) => None,
        }
    };
    // An evicted connection was already counted as refused.
    let _ = Box::pin(guard.finish(timeout(core.context.config.times.upgrade * 2, answering))).await;
}

/// A WebSocket request: its stream, the response, and the bytes after the request. Or a STUN message.
enum Opened {
    Plain { stream: TcpStream, answer: String, rest: Vec<u8> },
    Tls { stream: Box<TlsStream<TcpStream>>, answer: String, rest: Vec<u8> },
    Stun(StunStream),
}

/// Opens the session of a WebSocket client, or reads the first message of a STUN client. Returns `None` if the connection was plain HTTP, failed or timed out.
async fn begin(
    core: Arc<Core>,
    stream: TcpStream,
    ip: IpAddr,
    routes: Router,
    tls: Option<TlsAcceptor>,
) -> Option<Begun> {
    let (limits, budget) = (&core.context.config.limits, &core.clients.memory_budget);
    let connection = match open(&core, stream, routes, tls).await? {
        Opened::Plain { stream, answer, rest } => Connection::new(stream, None, &answer, rest, limits, budget),
        Opened::Tls { stream, answer, rest } => {
            let (stream, tls) = stream.into_inner();
            Connection::new(stream, Some(Box::new(tls)), &answer, rest, limits, budget)
        }
        Opened::Stun(stream) => return Some(Begun::Stun(stream)),
    };
    let connection = connection.ok()?;
    Some(Begun::Session(Running::new(core, connection, ip)))
}

async fn open(core: &Core, mut stream: TcpStream, routes: Router, tls: Option<TlsAcceptor>) -> Option<Opened> {
    let within = core.context.config.times.upgrade;
    let Some(acceptor) = tls else {
        return match in_time(core, timeout(within, upgrade::read(&mut stream)).await)? {
            First::WebSocket { answer, rest } => Some(Opened::Plain { stream, answer, rest }),
            First::Stun(received) => {
                Some(Opened::Stun(StunStream { socket: stream.into_std().ok()?, tls: None, received }))
            }
            First::Http(head) => {
                serve(Rewound::new(head, stream), routes, within).boxed().await;
                None
            }
        };
    };
    // The TLS handshake counts towards the time limit.
    let opening = async {
        let mut stream = acceptor.accept(stream).await?;
        let first = upgrade::read(&mut stream).await?;
        Ok::<_, io::Error>((stream, first))
    };
    match in_time(core, timeout(within, opening).await)? {
        (stream, First::WebSocket { answer, rest }) => Some(Opened::Tls { stream: Box::new(stream), answer, rest }),
        (stream, First::Stun(received)) => {
            let (stream, tls) = stream.into_inner();
            Some(Opened::Stun(StunStream { socket: stream.into_std().ok()?, tls: Some(Box::new(tls)), received }))
        }
        (stream, First::Http(head)) => {
            serve(Rewound::new(head, stream), routes, within).boxed().await;
            None
        }
    }
}

/// Returns the opened connection. Counts a failure or timeout.
fn in_time<T>(core: &Core, opened: Result<io::Result<T>, Elapsed>) -> Option<T> {
    if let Ok(Ok(opened)) = opened {
        return Some(opened);
    }
    core.context.metrics.client_handshakes_failed.inc();
    None
}

/// Serves one HTTP request on a connection, within twice `within`. One request per connection, because connections are
/// rate-limited and requests are not.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Router, within: Duration) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Broken and slow connections need no handling here.
    let _ = timeout(within * 2, connection).await;
}

/// Responds to a request for a WebSocket path that is not a valid upgrade.
async fn upgrade_required() -> Response {
    let fields =
        [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade"), (header::SEC_WEBSOCKET_VERSION, "13")];
    (StatusCode::UPGRADE_REQUIRED, fields, "a WebSocket, version 13, is served here").into_response()
}

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

/// The federation's roots and registries, for clients that know only its id from a link.
async fn federation(State(core): State<Arc<Core>>) -> Response {
    let registries = core.context.config.registry.urls.clone();
    Json(FederationInfo { roots: core.context.roots.clone(), registries }).into_response()
}

/// The revoked online keys, for clients and other nodes.
async fn revocations(State(core): State<Arc<Core>>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], core.revocations.all().encode()).into_response()
}
