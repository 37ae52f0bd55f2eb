//! The floors: relays that forward frames by id. Each is its own process.
//!
//! All have the same frame bodies. A client's first body is its id, which the floor echoes as a greeting. Each later
//! one begins with the receiver's id, and is forwarded unchanged. Messages of a pair stay in order. Frames for a client
//! whose queue is full are dropped.

mod bare;
mod link;
mod peers;
mod websocket;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use chappe_testkit::tls::Files;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The bytes of an id at the start of a body.
const ID: usize = 8;
/// Frames that may wait for one client.
const QUEUE_FRAMES: usize = 1024;

/// A kind of floor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Floor {
    /// Frames with a length before them, over TCP.
    Bare,
    /// WebSockets of axum.
    WebSocket,
    /// WebSockets of axum over TLS, with the certificate in this folder.
    Tls(PathBuf),
    /// WebSockets of axum, joined to another such relay by one QUIC stream. A relay with a `peer` dials it.
    Linked {
        /// The folder of the certificate.
        tls: PathBuf,
        /// The other relay.
        peer: Option<SocketAddr>,
    },
}

/// The line that a floor prints once it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// For clients.
    pub addr: SocketAddr,
    /// For another relay.
    pub link: Option<SocketAddr>,
}

/// Runs a floor until the process is killed.
///
/// # Panics
/// It can't listen.
pub fn run(floor: &Floor) {
    // As in the node: one thread for each core that the process may use.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let say = |link| println!("{}", json!(Listening { addr, link }));
        match floor {
            Floor::Bare => {
                say(None);
                bare::serve(listener).await;
            }
            Floor::WebSocket => {
                say(None);
                websocket::serve(listener, None, None).await;
            }
            Floor::Tls(dir) => {
                let acceptor = TlsAcceptor::from(Arc::new(Files::in_folder(dir).server()));
                say(None);
                websocket::serve(listener, Some(acceptor), None).await;
            }
            Floor::Linked { tls, peer } => {
                let endpoint = link::endpoint(&Files::in_folder(tls));
                say(endpoint.local_addr().ok());
                let (sender, link) = link::open(endpoint, *peer);
                websocket::serve(listener, None, Some((sender, link))).await;
            }
        }
    });
}

/// The id at the start of a body.
fn id_of(body: &[u8]) -> Option<u64> {
    body.first_chunk::<ID>().copied().map(u64::from_le_bytes)
}
