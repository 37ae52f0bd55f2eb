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
    pub(crate) fn bind(config: &NodeConfig, passed: PassedSockets, needs_http: bool) -> Result<Self, BindError> {
        let client = listen(passed.client, config.client.listen, "client.listen")?;
        let admin = match (passed.admin, config.admin.listen) {
            (Some(socket), addr) => {
                let addr = addr.or_else(|| socket.local_addr().ok()).unwrap_or(config.client.listen);
                Some(listen(Some(socket), addr, "admin.listen")?)
            }
            (None, Some(addr)) => Some(listen(None, addr, "admin.listen")?),
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
                UdpSocket::bind(addr).map_err(|source| BindError { addr, key: "federation.listen", source })?
            }
        };
        for socket in &passed.turn {
            log_passed("turn.listen", socket.local_addr());
        }
        Ok(Self { client, federation, admin, http, turn: passed.turn })
    }
}

/// An address cannot be bound, or a passed socket cannot be used.
#[derive(Debug)]
pub(crate) struct BindError {
    pub(crate) addr: SocketAddr,
    pub(crate) key: &'static str,
    pub(crate) source: io::Error,
}

/// Takes the passed socket, or binds one.
fn listen(passed: Option<StdTcpListener>, addr: SocketAddr, key: &'static str) -> Result<TcpListener, BindError> {
    let listener = match passed {
        Some(passed) => {
            log_passed(key, passed.local_addr());
            take(passed)
        }
        None => bind(addr),
    };
    listener.map_err(|source| BindError { addr, key, source })
}

fn take(passed: StdTcpListener) -> io::Result<TcpListener> {
    passed.set_nonblocking(true)?;
    setsockopt(&passed, sockopt::TcpNoDelay, &true)?;
    TcpListener::from_std(passed)
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Signalling messages are small and urgent. Accepted connections inherit the option.
    socket.set_nodelay(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

fn log_passed(key: &'static str, addr: io::Result<SocketAddr>) {
    let addr = addr.map(|addr| addr.to_string()).unwrap_or_default();
    tracing::info!(key, addr, "using the socket that the service manager has bound");
}
