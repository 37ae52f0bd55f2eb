//! A minimal axum relay. A task for each client moves frames from its socket to others' queues, and from its own queue
//! to its socket.

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    routing::get,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{QUEUE_FRAMES, id_of, link, peers::Peers};

/// The library's default of 128 KiB costs 2.6 times the CPU, and that memory for each idle client.
const READ_BUFFER: usize = 4096;
/// Bytes in one write. Allocated as needed.
const WRITE_BUFFER: usize = 16 * 1024;

/// Serves until the task is aborted. Frames for unknown ids go over the link, if there is one.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    link: Option<(mpsc::Sender<Bytes>, link::Link)>,
) {
    let (sender, link) = link.unzip();
    let peers = Peers::new(sender);
    let routes = Router::new().route("/", get(upgrade)).with_state(peers.clone());
    let mut tasks = JoinSet::new();
    if let Some(link) = link {
        tasks.spawn(link.run(peers));
    }
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (tls, routes) = (tls.clone(), routes.clone());
        tasks.spawn(async move {
            match tls {
                None => serve_http(stream, routes).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_http(stream, routes).await;
                    }
                }
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
    let http = http1::Builder::new();
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).with_upgrades();
    // The generator reports broken connections: ignore the error.
    let _ = connection.await;
}

async fn upgrade(State(peers): State<Peers>, upgrade: WebSocketUpgrade) -> axum::response::Response {
    let upgrade = upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(WRITE_BUFFER);
    upgrade.on_upgrade(|socket| run(socket, peers))
}

async fn run(mut socket: WebSocket, peers: Peers) {
    let Some(Ok(Message::Binary(body))) = socket.recv().await else { return };
    let Some(id) = id_of(&body) else { return };
    let (sender, mut queue) = mpsc::channel(QUEUE_FRAMES);
    peers.insert(id, sender);
    if socket.send(Message::Binary(body)).await.is_ok() {
        relay(&mut socket, &mut queue, &peers).await;
    }
    peers.remove(id);
}

async fn relay(socket: &mut WebSocket, queue: &mut mpsc::Receiver<Bytes>, peers: &Peers) {
    loop {
        tokio::select! {
            biased;
            Some(body) = queue.recv() => {
                let mut next = Some(body);
                while let Some(body) = next {
                    if socket.feed(Message::Binary(body)).await.is_err() {
                        return;
                    }
                    next = queue.recv().now_or_never().flatten();
                }
                if socket.flush().await.is_err() {
                    return;
                }
            }
            heard = socket.recv() => match heard {
                Some(Ok(Message::Binary(body))) => peers.send(body),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return,
            },
        }
    }
}
