//! One QUIC stream between two relays, into which frames are batched.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chappe_testkit::tls::Files;
use quinn::{
    ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use tokio::sync::mpsc;

use super::peers::Peers;

/// Frames that may wait for the other relay.
const QUEUE_FRAMES: usize = 16 * 1024;
/// Frames in one write.
const BATCH: usize = 64;
const HEAD: usize = 4;
const READ: usize = 64 * 1024;

/// A link that is to be run.
pub(super) struct Link {
    endpoint: Endpoint,
    peer: Option<SocketAddr>,
    queue: mpsc::Receiver<Bytes>,
}

/// A socket for the link, with a certificate for whoever dials.
pub(super) fn endpoint(files: &Files) -> Endpoint {
    let server = QuicServerConfig::try_from(files.server()).expect("TLS 1.3");
    let server = ServerConfig::with_crypto(Arc::new(server));
    let mut endpoint = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let client = QuicClientConfig::try_from(files.client()).expect("TLS 1.3");
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(client)));
    endpoint
}

/// A link, and the queue into it.
pub(super) fn open(endpoint: Endpoint, peer: Option<SocketAddr>) -> (mpsc::Sender<Bytes>, Link) {
    let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
    (sender, Link { endpoint, peer, queue })
}

impl Link {
    /// Carries frames both ways until the other relay is gone.
    pub(super) async fn run(self, peers: Peers) {
        let connection = match self.peer {
            Some(peer) => self.endpoint.connect(peer, "localhost").expect("a name").await.expect("the other relay"),
            None => self.endpoint.accept().await.expect("an open socket").await.expect("the other relay"),
        };
        let (send, recv) = match self.peer {
            Some(_) => connection.open_bi().await.expect("a stream"),
            None => connection.accept_bi().await.expect("a stream"),
        };
        tokio::join!(carry_out(send, self.queue), carry_in(recv, peers));
    }
}

async fn carry_out(mut stream: SendStream, mut queue: mpsc::Receiver<Bytes>) {
    let mut bodies = Vec::with_capacity(BATCH);
    let mut batch = BytesMut::new();
    // A stream is only known to the other side once something was sent on it.
    if stream.write_all(&0_u32.to_le_bytes()).await.is_err() {
        return;
    }
    while queue.recv_many(&mut bodies, BATCH).await > 0 {
        for body in bodies.drain(..) {
            batch.put_u32_le(u32::try_from(body.len()).expect("a small frame"));
            batch.put_slice(&body);
        }
        if stream.write_chunk(batch.split().freeze()).await.is_err() {
            return;
        }
    }
}

async fn carry_in(mut stream: RecvStream, peers: Peers) {
    let mut bytes = BytesMut::new();
    while let Ok(Some(chunk)) = stream.read_chunk(READ, true).await {
        bytes.extend_from_slice(&chunk.bytes);
        while let Some(head) = bytes.first_chunk::<HEAD>() {
            let len = u32::from_le_bytes(*head) as usize;
            if bytes.len() < HEAD + len {
                break;
            }
            bytes.advance(HEAD);
            peers.send_here(bytes.split_to(len).freeze());
        }
    }
}
