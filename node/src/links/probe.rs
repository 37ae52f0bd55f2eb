//! Connections by which a member tries another one's addresses: the request, and the handshakes at the addresses.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chappe_common::{keys::NodeId, link_tls, reachability::Outcome, record::NodeRecord};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportErrorCode, crypto::rustls::QuicClientConfig,
};
use tokio::time::timeout;

use super::{Links, dial::DialError, endpoint::transport, link::CloseReason};
use crate::{limits::connection_limiter::Permit, placement::Network};

/// First byte of the stream on which a node asks to be tried.
pub(crate) const CHECK_STREAM: u8 = 3;
/// Capacity of the channel of such requests. The receiver spawns a task for each and is never far behind; beyond it, a
/// request is refused and counted.
pub(super) const CHECKS: usize = 16;
/// Time limit of a handshake: three sends of the first packet.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(3);
/// How long the socket stays open for the close frame of a connection.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// A node that asks this one to try it, on a connection of its own. The connection has proved the node's key, and that the
/// node receives packets at its address.
#[derive(Debug)]
pub(crate) struct CheckAsked {
    pub(crate) asker: NodeId,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    /// The share of incoming connections that this one takes.
    pub(super) _permit: Permit<Network>,
}

impl Links {
    /// Returns the addresses of a record that belong to its node: see [`super::seen_addrs`].
    pub(crate) fn own_addrs(&self, record: &NodeRecord) -> Vec<SocketAddr> {
        self.seen.own_addrs(record)
    }

    /// Connects to a member in order to ask it for a check.
    ///
    /// # Errors
    /// No address proved the node's key. The caller limits the time.
    pub(crate) async fn connect_for_check(&self, node: NodeId, addrs: &[SocketAddr]) -> Result<Connection, DialError> {
        self.handshake(node, addrs).await
    }

    /// Makes a node prove its key at an address, and closes the connection. From a socket of its own: packets from the
    /// socket of the links would pass the node's firewall as answers to packets that it has sent there.
    pub(crate) async fn probe(&self, node: NodeId, addr: SocketAddr) -> Outcome {
        let any: SocketAddr =
            if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let Ok(endpoint) = Endpoint::client(any) else { return Outcome::NotTried };
        let Some(config) = self.probe_config(node) else { return Outcome::NotTried };
        let Ok(connecting) = endpoint.connect_with(config, addr, link_tls::SERVER_NAME) else {
            return Outcome::NotTried;
        };
        let outcome = match timeout(HANDSHAKE_WAIT, connecting).await {
            Ok(Ok(connection)) => {
                CloseReason::Seen.close(&connection);
                Outcome::Works
            }
            Ok(Err(error)) => of_error(&error),
            Err(_) => Outcome::NoAnswer,
        };
        // The node must not wait for the end of the connection.
        let _ = timeout(CLOSE_WAIT, endpoint.wait_idle()).await;
        outcome
    }

    fn probe_config(&self, node: NodeId) -> Option<quinn::ClientConfig> {
        let crypto = link_tls::client_config(&self.context.key, node).ok()?;
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).ok()?));
        config.transport_config(Arc::new(transport()));
        Some(config)
    }
}

fn of_error(error: &ConnectionError) -> Outcome {
    match error {
        ConnectionError::TimedOut => Outcome::NoAnswer,
        ConnectionError::VersionMismatch => Outcome::WrongService,
        // It limits the handshakes of this network.
        ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            Outcome::Unavailable
        }
        // The TLS handshake has failed: with another key, or another protocol.
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) => Outcome::WrongNode,
        ConnectionError::Reset | ConnectionError::ApplicationClosed(_) => Outcome::Reset,
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => Outcome::NotTried,
    }
}
