//! The TCP listener for clients. Accepts connections, limits them, hands those that speak STUN to the relay for media, and
//! serves HTTP if a connection does not become a WebSocket.

pub(crate) mod arrival;
mod call_page;
mod front_page;
pub(crate) mod pages;
pub(crate) mod proxy_header;

use std::{any::Any, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use chappe_turn::runtime::NewStream;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::arrival::{Arrival, Refused};
use crate::{
    core::Core,
    pending_connections::{PendingConnections, PendingGuard},
    session::run::Running,
    websocket::{
        Connection,
        rewound::Rewound,
        tls::{AgreedProtocol, Tls},
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

/// How long the response to a refused request may take. It fits any send buffer.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// The response to a WebSocket request at the limit.
const FULL: &str =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n";

/// Accepts clients until the task is cancelled.
pub(crate) async fn serve_clients(core: Arc<Core>, listener: TcpListener, tls: Option<Arc<Tls>>) {
    let slots = Arc::new(Semaphore::new(core.context.config.client.max_connections));
    let mut pending = PendingConnections::for_listener(core.context.config.client.max_connections);
    let mut spare = PendingConnections::at_most(SPARE);
    let routes = pages::client_routes(core.clone());
    loop {
        let Some((stream, addr)) = accept(&core, &listener).await else { continue };
        let Ok(arrival) = Arrival::new(&core, addr) else { continue };
        let tls = tls.as_ref().map(|tls| tls.acceptor());
        let Some(slot) = acquire_slot(&slots, &mut pending).await else {
            core.context.metrics.connections_refused.inc();
            core.health.warn_full(core.connections.len());
            core.connections.spawn(Box::pin(serve_spare(
                core.clone(),
                stream,
                arrival,
                routes.clone(),
                tls,
                spare.add(),
            )));
            continue;
        };
        let guard = pending.add();
        // Boxed so that the wrapping futures don't each contain a copy of its state.
        core.connections.spawn(Box::pin(serve_client(core.clone(), stream, arrival, routes.clone(), tls, guard, slot)));
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

/// Serves one client, which has a connection slot.
async fn serve_client(
    core: Arc<Core>,
    stream: TcpStream,
    arrival: Arrival,
    routes: Router,
    tls: Option<TlsAcceptor>,
    guard: PendingGuard,
    slot: OwnedSemaphorePermit,
) {
    let pending = core.context.metrics.client_handshakes_failed.clone();
    // Boxed: an idle session should not keep the memory of its handshake.
    match Box::pin(guard.finish(begin(core.clone(), stream, arrival, routes, tls))).await {
        Some(Some(Begun::Session(session, arrival))) => {
            drop(pending);
            let _slots = (slot, arrival.into_permit());
            session.run().await;
        }
        Some(Some(Begun::Stun(StunStream { socket, tls, received }, arrival))) => {
            let addr = SocketAddr::new(arrival.addr().ip().to_canonical(), arrival.addr().port());
            // The connection counts until the relay closes it.
            let guard: Box<dyn Any + Send> = Box::new((slot, arrival.into_permit()));
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
    Session(Box<Running>, Arrival),
    Stun(StunStream, Arrival),
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
    mut arrival: Arrival,
    routes: Router,
    tls: Option<TlsAcceptor>,
    guard: PendingGuard,
) {
    let answering = async {
        match open(&core, stream, &mut arrival, routes, tls).await? {
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

/// Opens the session of a WebSocket client, or reads the first message of a STUN client. Returns `None` if the connection
/// was plain HTTP, failed, timed out or was refused.
async fn begin(
    core: Arc<Core>,
    stream: TcpStream,
    mut arrival: Arrival,
    routes: Router,
    tls: Option<TlsAcceptor>,
) -> Option<Begun> {
    let (limits, budget) = (&core.context.live().limits, &core.clients.memory_budget);
    let connection = match open(&core, stream, &mut arrival, routes, tls).await? {
        Opened::Plain { stream, answer, rest } => Connection::new(stream, None, &answer, rest, limits, budget),
        Opened::Tls { stream, answer, rest } => {
            let (stream, tls) = stream.into_inner();
            Connection::new(stream, Some(Box::new(tls)), &answer, rest, limits, budget)
        }
        Opened::Stun(stream) => return Some(Begun::Stun(stream, arrival)),
    };
    let connection = connection.ok()?;
    Some(Begun::Session(Running::new(core, connection, arrival.addr().ip()), arrival))
}

async fn open(
    core: &Core,
    mut stream: TcpStream,
    arrival: &mut Arrival,
    routes: Router,
    tls: Option<TlsAcceptor>,
) -> Option<Opened> {
    let within = core.context.config.times.upgrade;
    let Some(acceptor) = tls else {
        let opening = async {
            if let Err(refused) = arrival.read_proxy_header(core, &mut stream).await? {
                return Ok(Err(refused));
            }
            Ok(Ok(upgrade::read(&mut stream).await?))
        };
        let first = in_time(core, timeout(within, opening).await)?.ok()?;
        if let Err(refused) = arrival.read_request(core, &first) {
            refuse(&mut stream, refused).await;
            return None;
        }
        return match first {
            First::WebSocket { answer, rest, .. } => Some(Opened::Plain { stream, answer, rest }),
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
        if let Err(refused) = arrival.read_proxy_header(core, &mut stream).await? {
            return Ok(Err(refused));
        }
        let mut stream = acceptor.accept(stream).await?;
        let protocol = AgreedProtocol::of(stream.get_ref().1.alpn_protocol());
        if protocol == AgreedProtocol::Challenge {
            // The authority has seen the certificate (RFC 8737, 3).
            stream.shutdown().await?;
            return Ok(Ok(None));
        }
        let first = match (upgrade::read(&mut stream).await?, protocol) {
            // The HTTP server sends the error.
            (First::Stun(received), AgreedProtocol::Http) => First::Http(received),
            (First::Http(_) | First::WebSocket { .. }, AgreedProtocol::Turn) => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            (first, _) => first,
        };
        Ok::<_, io::Error>(Ok(Some((stream, first))))
    };
    let (mut stream, first) = in_time(core, timeout(within, opening).await)?.ok()??;
    if let Err(refused) = arrival.read_request(core, &first) {
        refuse(&mut stream, refused).await;
        return None;
    }
    match first {
        First::WebSocket { answer, rest, .. } => Some(Opened::Tls { stream: Box::new(stream), answer, rest }),
        First::Stun(received) => {
            let (stream, tls) = stream.into_inner();
            Some(Opened::Stun(StunStream { socket: stream.into_std().ok()?, tls: Some(Box::new(tls)), received }))
        }
        First::Http(head) => {
            serve(Rewound::new(head, stream), routes, within).boxed().await;
            None
        }
    }
}

/// Responds to a refused request.
async fn refuse(stream: &mut (impl AsyncWrite + Unpin), refused: Refused) {
    let answering = async {
        stream.write_all(refused.response().as_bytes()).await?;
        stream.shutdown().await
    };
    // Broken and slow connections need no handling here.
    let _ = timeout(REFUSE_WITHIN, answering).await;
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
