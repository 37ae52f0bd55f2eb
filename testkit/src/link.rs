//! A link as `docs/protocol/federation.md` defines it: its connection, lanes and streams. For programs that act as a
//! node. The code is independent of the node's own, except for the rules that admit members.

pub mod frames;
pub mod words;

use std::{net::SocketAddr, sync::Arc};

use chappe_common::{
    keys::{NodeId, SecretKey},
    link_tls,
};
use quinn::{ClientConfig, Connection, Endpoint, SendStream, TransportConfig, crypto::rustls::QuicClientConfig};

/// The first byte of the relay lane.
pub const RELAY: u8 = 1;
/// The first byte of the control lane.
pub const CONTROL: u8 = 2;

/// Connects to a node with the identity of this key.
pub async fn connect(
    endpoint: &Endpoint,
    key: &SecretKey,
    (node, addr): (NodeId, SocketAddr),
    transport: TransportConfig,
) -> Option<Connection> {
    let tls = link_tls::client_config(key, node).ok()?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).ok()?));
    config.transport_config(Arc::new(transport));
    endpoint.connect_with(config, addr, link_tls::SERVER_NAME).ok()?.await.ok()
}

/// Opens a lane, and writes its first byte.
pub async fn open_lane(connection: &Connection, first: u8) -> Option<SendStream> {
    let mut lane = connection.open_uni().await.ok()?;
    lane.write_all(&[first]).await.ok()?;
    Some(lane)
}
