//! A node's key and one URL of it in compact form: for links, QR codes and shards, where bytes are scarce.

use std::{net::SocketAddr, str::FromStr as _};

use serde::{Deserialize, Serialize};

use crate::keys::NodeId;

/// The longest host and port in bytes.
const MAX_HOST: usize = 64;

/// The URL has no compact form: it has a path or another scheme than `ws` and `wss`, or its host is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's URL has no compact form: it has a path, or its host is too long")]
pub struct EndpointError;

/// The authority of a URL (RFC 3986, section 3.2): a host, and a port unless it is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Authority {
    /// An IP address and a port.
    Addr(SocketAddr),
    /// Host and optional port as text, at most 64 bytes.
    Name(String),
}

/// A node's key, and one WebSocket URL of it without a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeEndpoint {
    node: NodeId,
    tls: bool,
    authority: Authority,
}

impl NodeEndpoint {
    /// Parses a node's URL.
    ///
    /// # Errors
    /// The URL has no compact form.
    pub fn new(node: NodeId, url: &str) -> Result<Self, EndpointError> {
        let (tls, rest) = match (url.strip_prefix("wss://"), url.strip_prefix("ws://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(EndpointError),
        };
        let host = rest.trim_end_matches('/');
        let authority = SocketAddr::from_str(host).map_or_else(|_| Authority::Name(host.to_owned()), Authority::Addr);
        let endpoint = Self { node, tls, authority };
        if endpoint.is_well_formed() { Ok(endpoint) } else { Err(EndpointError) }
    }

    /// Whether the URL can be dialled. Check this after decoding: the bytes come from others.
    pub fn is_well_formed(&self) -> bool {
        match &self.authority {
            Authority::Addr(addr) => addr.port() != 0,
            Authority::Name(name) => {
                let allowed =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
                !name.is_empty() && name.len() <= MAX_HOST && name.bytes().all(allowed)
            }
        }
    }

    /// The key that the node has to prove.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Host and port.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The WebSocket URL, `ws://` or `wss://`.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        match &self.authority {
            Authority::Addr(addr) => format!("{scheme}://{addr}"),
            Authority::Name(name) => format!("{scheme}://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    #[test]
    fn a_url_without_a_path_has_a_compact_form_and_no_other_has() {
        let node = SecretKey::from_bytes(&[1; 32]).node_id();
        for url in ["wss://relay.example", "ws://192.0.2.1:8710", "wss://[2001:db8::1]:443", "wss://[2001:db8::1]"] {
            assert_eq!(NodeEndpoint::new(node, url).map(|endpoint| endpoint.url()).as_deref(), Ok(url));
        }
        assert_eq!(NodeEndpoint::new(node, "ws://a/").map(|endpoint| endpoint.url()).as_deref(), Ok("ws://a"));
        let long = format!("wss://{}", "a".repeat(MAX_HOST + 1));
        for url in ["http://a", "wss://", "wss://a/path", "ws://192.0.2.1:0", "wss://a b", &long] {
            assert_eq!(NodeEndpoint::new(node, url), Err(EndpointError), "{url}");
        }
    }
}
