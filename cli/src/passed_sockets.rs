//! The sockets that a service manager passes to a daemon (`LISTEN_FDS`, see `sd_listen_fds(3)`), by their names.
//!
//! Invariant: taken before any other thread runs, because the variables are removed from the environment.

use std::{env, io, net::SocketAddr};

use chappe_node::PassedSockets;
use listenfd::ListenFd;
use socket2::SockRef;

/// Maximum number of passed sockets: one each for clients, nodes, the operator and http-01, and two for the relay for media.
const MAX_SOCKETS: usize = 6;

/// The names of a node's sockets.
pub(crate) const OF_NODE: &[&str] = &["client", "federation", "turn", "admin", "http"];
/// The names of a registry's sockets: for `http.listen` and `admin.listen`.
pub(crate) const OF_REGISTRY: &[&str] = &["http", "admin"];

/// Why passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedError {
    /// More sockets than a daemon has.
    #[error("{0} sockets were passed (LISTEN_FDS); at most {MAX_SOCKETS} are allowed")]
    TooMany(usize),
    /// A name that is not one of the daemon's, or no name.
    #[error(
        "a socket named `{name}` was passed (LISTEN_FDNAMES); set FileDescriptorName= in its unit to one of {}",
        .allowed.join(", ")
    )]
    Name {
        /// The name.
        name: String,
        /// Those that the daemon has.
        allowed: &'static [&'static str],
    },
    /// Two sockets for one purpose.
    #[error("two sockets named `{0}` were passed (LISTEN_FDNAMES)")]
    Twice(String),
    /// Not a socket of the right kind.
    #[error("the socket named `{name}` that was passed cannot be used")]
    Kind {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// Takes the sockets that were passed to this process, which have these names.
///
/// # Errors
/// A socket cannot be used. The process should end, because the service manager expects the socket to be served.
pub(crate) fn take(allowed: &'static [&'static str]) -> Result<PassedSockets, PassedError> {
    let mut sockets = PassedSockets::default();
    // Otherwise they are meant for a parent of this process.
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    if !is_for_us || count == 0 {
        return Ok(sockets);
    }
    if count > MAX_SOCKETS {
        return Err(PassedError::TooMany(count));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat("unknown".to_owned())).take(count);
    let mut passed = ListenFd::from_env();
    for (index, name) in names.enumerate() {
        if !allowed.contains(&name.as_str()) {
            return Err(PassedError::Name { name, allowed });
        }
        let kind = |source| PassedError::Kind { name: name.clone(), source };
        let is_first = match name.as_str() {
            "client" | "admin" | "http" => {
                let listener = passed.take_tcp_listener(index).map_err(kind)?;
                if let Some(listener) = &listener
                    && !SockRef::from(listener).is_listener().map_err(kind)?
                {
                    return Err(kind(io::Error::other("it does not listen")));
                }
                let place = match name.as_str() {
                    "client" => &mut sockets.client,
                    "admin" => &mut sockets.admin,
                    _ => &mut sockets.http,
                };
                std::mem::replace(place, listener).is_none()
            }
            "federation" => {
                let socket = passed.take_udp_socket(index).map_err(kind)?;
                std::mem::replace(&mut sockets.federation, socket).is_none()
            }
            "turn" => {
                let socket = passed.take_udp_socket(index).map_err(kind)?;
                sockets.turn.extend(socket);
                let families: Vec<_> = sockets.turn.iter().filter_map(|socket| socket.local_addr().ok()).collect();
                families.iter().filter(|addr| addr.is_ipv4()).count() <= 1
                    && families.iter().filter(|addr| SocketAddr::is_ipv6(addr)).count() <= 1
            }
            _ => unreachable!("a name of OF_NODE or OF_REGISTRY"),
        };
        if !is_first {
            return Err(PassedError::Twice(name));
        }
    }
    Ok(sockets)
}
