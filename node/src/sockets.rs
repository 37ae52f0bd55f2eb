//! The sockets that a node listens on: those that its service manager has bound and passes, and its own.
//!
//! A service manager keeps its sockets bound while the node restarts. Connections and packets then wait instead of being
//! refused.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

use crate::config::NodeConfig;

/// Length of the listen backlog. Covers one second after another node fails, when its ten thousand sessions reconnect.
/// The system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Bound sockets that a service manager passes. Each replaces the socket that its key would bind.
#[derive(Debug, Default)]
pub struct PassedSockets {
    /// For `client.listen`.
    pub client: Option<StdTcpListener>,
    /// For `federation.listen`.
    pub federation: Option<UdpSocket>,
    /// For `admin.listen`.
    pub admin: Option<StdTcpListener>,
    /// For `client.acme.http_listen`.
    pub http: Option<StdTcpListener>,
    /// For `turn.listen`, at most one of each family.
    pub turn: Vec<UdpSocket>,
}

/// The sockets of a node.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) client: TcpListener,
    pub(crate) federation: UdpSocket,
    pub(crate) admin: Option<TcpListener>,
    /// For http-01.
    pub(crate) http: Option<TcpListener>,
    /// The relay for media binds what was not passed.
    pub(crate) turn: Vec<UdpSocket>,
}

impl Bound {
    /// Takes the passed sockets, and binds the others. `needs_http` is whether an authority validates a host by http-01.
    pub(crate) fn bind(config: &NodeConfig, passed: PassedSockets, needs_http: bool) -> Result<Self, SocketError> {
        let client = listen(passed.client, config.client.listen, "client.listen")?;
        let admin = match (passed.admin, config.admin.listen) {
            (Some(socket), _) => Some(take(socket, "admin.listen")?),
            (None, Some(addr)) => Some(bind(addr, "admin.listen")?),
            (None, None) => None,
        };
        let acme = &config.client.acme;
        if passed.http.is_some() && !acme.enabled {
            tracing::warn!("a socket named http was passed, but client.acme.enabled is false: nobody serves it");
        }
        let http = match passed.http.filter(|_| acme.enabled) {
            None if !needs_http => None,
            passed => Some(listen(passed, acme.http_listen, "client.acme.http_listen")?),
        };
        let federation = match passed.federation {
            Some(socket) => {
                log_passed("federation.listen", socket.local_addr());
                socket
            }
            None => {
                let addr = config.federation.listen;
                UdpSocket::bind(addr).map_err(|source| SocketError::Bind { addr, key: "federation.listen", source })?
            }
        };
        for socket in &passed.turn {
            log_passed("turn.listen", socket.local_addr());
        }
        Ok(Self { client, federation, admin, http, turn: passed.turn })
    }
}

/// Why a socket cannot be used.
#[derive(Debug)]
pub(crate) enum SocketError {
    /// The address cannot be bound.
    Bind { addr: SocketAddr, key: &'static str, source: io::Error },
    /// The socket that was passed in place of this key is not usable.
    Passed { key: &'static str, source: io::Error },
}

/// Takes the passed socket, or binds one.
fn listen(passed: Option<StdTcpListener>, addr: SocketAddr, key: &'static str) -> Result<TcpListener, SocketError> {
    match passed {
        Some(passed) => take(passed, key),
        None => bind(addr, key),
    }
}

fn take(passed: StdTcpListener, key: &'static str) -> Result<TcpListener, SocketError> {
    log_passed(key, passed.local_addr());
    let take = || {
        passed.set_nonblocking(true)?;
        setsockopt(&passed, sockopt::TcpNoDelay, &true)?;
        TcpListener::from_std(passed)
    };
    take().map_err(|source| SocketError::Passed { key, source })
}

fn bind(addr: SocketAddr, key: &'static str) -> Result<TcpListener, SocketError> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Signalling messages are small and urgent. Accepted connections inherit the option.
        socket.set_nodelay(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| SocketError::Bind { addr, key, source })
}

fn log_passed(key: &'static str, addr: io::Result<SocketAddr>) {
    let addr = addr.map(|addr| addr.to_string()).unwrap_or_default();
    tracing::info!(key, addr, "using the socket that the service manager has bound");
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::Ipv4Addr, os::fd::OwnedFd};

    use super::*;

    #[tokio::test]
    async fn a_passed_socket_that_is_not_usable_is_reported_with_its_own_key() {
        // The binary only passes sockets. A file stands for errors that only the system detects.
        let not_a_socket = || Some(StdTcpListener::from(OwnedFd::from(File::open("/dev/null").expect("a file"))));
        let mut config = NodeConfig::default();
        config.client.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.federation.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.client.acme.enabled = true;
        for (passed, expected) in [
            (PassedSockets { client: not_a_socket(), ..PassedSockets::default() }, "client.listen"),
            (PassedSockets { admin: not_a_socket(), ..PassedSockets::default() }, "admin.listen"),
            (PassedSockets { http: not_a_socket(), ..PassedSockets::default() }, "client.acme.http_listen"),
        ] {
            match Bound::bind(&config, passed, true) {
                Err(SocketError::Passed { key, source: _ }) => assert_eq!(key, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
