//! One place at which clients dial a node, in compact form: for links, QR codes and shards, where bytes are scarce.

use std::{net::SocketAddr, str::FromStr as _};

use serde::{Deserialize, Serialize};

use crate::keys::NodeId;

/// The longest host and port in bytes.
const MAX_HOST: usize = 64;

/// A URL with a path, without `ws://` or `wss://`, or with a host that is too long: it has no compact form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's URL has no compact form: it has a path, or its host is too long")]
pub struct PlaceError;

/// Address and port, or a name with its port where that isn't the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// An address.
    Addr(SocketAddr),
    /// A host as text.
    Name(String),
}

/// A node's key, and one place of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodePlace {
    node: NodeId,
    tls: bool,
    place: Place,
}

impl NodePlace {
    /// The compact form of a node's URL.
    ///
    /// # Errors
    /// The URL has none.
    pub fn new(node: NodeId, url: &str) -> Result<Self, PlaceError> {
        let (tls, rest) = match (url.strip_prefix("wss://"), url.strip_prefix("ws://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(PlaceError),
        };
        let host = rest.trim_end_matches('/');
        let place = SocketAddr::from_str(host).map_or_else(|_| Place::Name(host.to_owned()), Place::Addr);
        let place = Self { node, tls, place };
        if place.is_well_formed() { Ok(place) } else { Err(PlaceError) }
    }

    /// Whether a place of others that was decoded can be dialled at all.
    pub fn is_well_formed(&self) -> bool {
        match &self.place {
            Place::Addr(addr) => addr.port() != 0,
            Place::Name(name) => {
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

    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The WebSocket URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        match &self.place {
            Place::Addr(addr) => format!("{scheme}://{addr}"),
            Place::Name(name) => format!("{scheme}://{name}"),
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
            assert_eq!(NodePlace::new(node, url).map(|place| place.url()).as_deref(), Ok(url));
        }
        assert_eq!(NodePlace::new(node, "ws://a/").map(|place| place.url()).as_deref(), Ok("ws://a"));
        let long = format!("wss://{}", "a".repeat(MAX_HOST + 1));
        for url in ["http://a", "wss://", "wss://a/path", "ws://192.0.2.1:0", "wss://a b", &long] {
            assert_eq!(NodePlace::new(node, url), Err(PlaceError), "{url}");
        }
    }
}
