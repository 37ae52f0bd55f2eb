//! Whose connection it is: the client's address, which a trusted proxy may tell, and the permit of its source.
//!
//! Invariant: a request is only handled once its source has a permit. A proxy tells the address by the PROXY protocol, by
//! header fields of HTTP, or by both one after the other: the address that one names may be a trusted proxy's, too.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use chappe_common::forwarded::{ForwardedFault, ForwardedFields, is_proxy, source_of_request};
use chappe_turn::source::Source;
use ipnet::IpNet;
use tokio::net::TcpStream;

use super::proxy_header::{self, Start};
use crate::{
    core::Core,
    limits::connection_limiter::Permit,
    metrics::ProxyFault,
    websocket::upgrade::{First, MAX_FIELDS},
};

/// Why a connection is closed. Counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The source has exceeded a limit.
    Limit,
    /// A trusted proxy does not tell the client's address.
    Proxy,
}

impl Refused {
    /// The HTTP response. A proxy could take a connection that is closed without one for a failure of the node, and send
    /// nobody there any more.
    pub(super) const fn response(self) -> &'static str {
        match self {
            Self::Limit => {
                "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Proxy => "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        }
    }
}

/// A connection and its source.
#[derive(Debug)]
pub(super) struct Arrival {
    addr: SocketAddr,
    /// `None` until a trusted proxy has told the client's address.
    permit: Option<Permit<Source>>,
}

impl Arrival {
    /// Admits a connection from `addr`, unless that is a trusted proxy's.
    pub(super) fn new(core: &Core, addr: SocketAddr) -> Result<Self, Refused> {
        let mut arrival = Self { addr, permit: None };
        if !arrival.is_from_proxy(core) {
            arrival.admit(core)?;
        }
        Ok(arrival)
    }

    /// Reads the header of the PROXY protocol, if the connection comes from a trusted proxy.
    pub(super) async fn read_proxy_header(
        &mut self,
        core: &Core,
        stream: &mut TcpStream,
    ) -> io::Result<Result<(), Refused>> {
        if self.permit.is_some() {
            return Ok(Ok(()));
        }
        match proxy_header::read(stream).await? {
            Start::None => Ok(Ok(())),
            Start::Invalid => Ok(Err(refuse(core, ProxyFault::ProxyHeader))),
            // The proxy's own connection.
            Start::Header { client: None, .. } => Ok(self.admit(core)),
            Start::Header { client: Some(client), .. } => {
                self.addr = client;
                if self.is_from_proxy(core) { Ok(Ok(())) } else { Ok(self.admit(core)) }
            }
        }
    }

    /// Admits the connection by its first request, if it comes from a trusted proxy.
    pub(super) fn read_request(&mut self, core: &Core, first: &First) -> Result<(), Refused> {
        if self.permit.is_some() {
            return Ok(());
        }
        if let First::WebSocket { head, .. } | First::Http(head) = first {
            let address = client_address(self.addr.ip(), head, &core.context.live().trusted_proxies);
            self.addr.set_ip(address.map_err(|fault| refuse(core, fault))?);
        }
        self.admit(core)
    }

    /// The client's address. Its port is the proxy's if only header fields named the client.
    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the permit, to be held as long as the connection.
    pub(super) fn into_permit(self) -> Option<Permit<Source>> {
        self.permit
    }

    fn is_from_proxy(&self, core: &Core) -> bool {
        is_proxy(self.addr.ip(), &core.context.live().trusted_proxies)
    }

    /// Takes a permit for the source.
    fn admit(&mut self, core: &Core) -> Result<(), Refused> {
        let clients = &core.clients;
        let sources = clients.sources.load();
        let source = (!sources.exempts(self.addr.ip())).then(|| Source::of(self.addr.ip()));
        let is_allowed = source.is_none_or(|source| sources.allows_connection(source));
        self.permit = if is_allowed { clients.source_connections.try_take(source) } else { None };
        if self.permit.is_none() {
            core.context.metrics.connections_refused.inc();
            return Err(Refused::Limit);
        }
        Ok(())
    }
}

fn refuse(core: &Core, fault: ProxyFault) -> Refused {
    core.context.metrics.refused_proxied(fault);
    core.health.warn_proxy(fault);
    Refused::Proxy
}

/// Returns the address of the client whose request came from `peer`.
fn client_address(peer: IpAddr, head: &[u8], trusted: &[IpNet]) -> Result<IpAddr, ProxyFault> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    // The HTTP server responds to an incomplete or invalid request, on the proxy's account.
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return Ok(peer);
    }
    let lines = |name: &str| {
        request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    let fields = ForwardedFields { x_forwarded_for: lines("x-forwarded-for"), forwarded: lines("forwarded") };
    let source = source_of_request(peer, &fields, trusted);
    match source.fault {
        None => Ok(source.address),
        Some(ForwardedFault::Unreadable) => Err(ProxyFault::Unreadable),
        Some(ForwardedFault::Contradiction) => Err(ProxyFault::Contradiction),
    }
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// The head of a request that came through a trusted proxy, and of one that did not.
    pub const PROXIED_HEAD: (&str, fn(&[u8]) -> bool) = ("proxied_head", |head| {
        let trusted: [IpNet; 1] = ["10.0.0.0/31".parse().expect("a network")];
        let (proxy, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(client_address(stranger, head, &trusted), Ok(stranger));
        let told = client_address(proxy, head, &trusted);
        // The client's address by the proxy's own line, whatever the client writes before it.
        let is_whole = |head: &[u8]| {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            httparse::Request::new(&mut fields).parse(head) == Ok(httparse::Status::Complete(head.len()))
        };
        if is_whole(head)
            && let Some(rest) = head.strip_suffix(b"\r\n\r\n")
        {
            let appended = [rest, b"\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n"].concat();
            let named = client_address(proxy, &appended, &trusted);
            let is_named = [Ok(IpAddr::from([198, 51, 100, 7])), Err(ProxyFault::Contradiction)].contains(&named);
            assert!(is_named || !is_whole(&appended), "{named:?}");
        }
        told.is_ok_and(|address| address != proxy)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_heads_do_not_choose_their_source() {
        let with = |fields: &str| format!("GET /ws HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
        let corpus = [
            with("X-Forwarded-For: 203.0.113.9, 198.51.100.7"),
            with("x-forwarded-for: 203.0.113.9\r\nX-FORWARDED-FOR: [2001:db8::9]:443"),
            with("Forwarded: for=192.0.2.43, for=\"[2001:db8::9]:4711\";proto=https"),
            with("Forwarded: for=203.0.113.9\r\nX-Forwarded-For: 203.0.113.9"),
        ];
        chappe_mutations::run(fuzzed::PROXIED_HEAD, &corpus);
    }
}
