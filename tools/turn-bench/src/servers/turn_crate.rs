//! A server of the `turn` crate.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chappe_turn::credentials::{CredentialSecret, REALM};
use tokio::net::UdpSocket;
use turn::{
    Error,
    auth::{AuthHandler, generate_auth_key},
    relay::relay_none::RelayAddressGeneratorNone,
    server::{
        Server,
        config::{ConnConfig, ServerConfig},
    },
};
use webrtc_util::vnet::net::Net;

use super::{Listening, SECRET, announce};

/// Computes keys as this project's server does.
struct Credentials(CredentialSecret);

impl AuthHandler for Credentials {
    fn auth_handle(&self, username: &str, realm: &str, _: SocketAddr) -> Result<Vec<u8>, Error> {
        Ok(generate_auth_key(username, realm, &self.0.password(username)))
    }
}

pub(super) fn serve(ip: Ipv4Addr) {
    // One core is its own: a second thread would only contend for it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = UdpSocket::bind((ip, 0)).await.expect("a free port");
        let SocketAddr::V4(udp) = socket.local_addr().expect("a bound socket") else { unreachable!("bound to IPv4") };
        let net = Arc::new(Net::new(None));
        let generator = RelayAddressGeneratorNone { address: IpAddr::from(ip).to_string(), net };
        let config = ServerConfig {
            conn_configs: vec![ConnConfig { conn: Arc::new(socket), relay_addr_generator: Box::new(generator) }],
            realm: REALM.to_owned(),
            auth_handler: Arc::new(Credentials(CredentialSecret::new(SECRET.as_bytes()))),
            channel_bind_timeout: Duration::ZERO,
            alloc_close_notify: None,
        };
        let _server = Server::new(config).await.expect("a server");
        announce(Listening { udp, tcp: None, node: None });
        std::future::pending::<()>().await;
    });
}
