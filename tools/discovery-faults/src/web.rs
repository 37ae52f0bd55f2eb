//! A web server that says one thing to everybody, with TLS or without.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, body::Bytes, http::Uri, response::Response};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A web server. Stopped when dropped.
#[derive(Debug)]
pub struct Web {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Web {
    /// Answers every request by its path and body.
    ///
    /// # Panics
    /// No port is free.
    pub async fn serve(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str, &[u8]) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let routes = Router::new().fallback(async move |uri: Uri, body: Bytes| answer(uri.path(), &body));
        let tls = tls.map(TlsAcceptor::from);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let _ = stream.set_nodelay(true);
                let (tls, routes) = (tls.clone(), routes.clone());
                connections.spawn(async move {
                    match tls {
                        None => speak(stream, routes).await,
                        Some(tls) => {
                            // A client that doesn't trust the certificate goes away here.
                            if let Ok(stream) = tls.accept(stream).await {
                                speak(stream, routes).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, _tasks: tasks }
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
    // How a connection ends is its client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}
