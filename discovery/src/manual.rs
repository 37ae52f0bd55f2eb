//! Nodes that a person enters.
//!
//! `wss://host:port/#<NodeId>` and `ws://…#<NodeId>` pin a key. Without the part after `#`, any key is accepted, as on
//! the first connection with SSH. `chappe://<NodeId>@host:port` is short for `wss://host:port#<NodeId>`.

use std::str::FromStr;

use chappe_common::{
    keys::NodeId,
    record::MAX_URL_LEN,
    server_url::{Rest, ServerUrlError, check_url},
    time::UnixTime,
};
use futures_util::future::{self, BoxFuture, FutureExt as _};

use crate::source::{Candidate, Source, SourceError, SourceKind, SourceResponse};

/// The text is not a node's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseManualError {
    /// The text has none of the three schemes.
    #[error("not a node's address: ws://, wss:// or chappe:// and a host are expected")]
    Scheme,
    /// The URL is not a valid server URL.
    #[error("not a node's address: {0}")]
    Url(ServerUrlError),
    /// The URL is longer than any node's.
    #[error("not a node's address: it is longer than {MAX_URL_LEN} characters")]
    TooLong,
    /// The part for the node id is not one.
    #[error("not a node's address: the part after # (or before @) is not a node id")]
    NodeId,
}

/// A node that a person has entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualNode {
    url: String,
    node: Option<NodeId>,
}

impl ManualNode {
    /// The WebSocket URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The pinned key, if any.
    pub const fn node(&self) -> Option<NodeId> {
        self.node
    }
}

impl FromStr for ManualNode {
    type Err = ParseManualError;

    fn from_str(text: &str) -> Result<Self, ParseManualError> {
        let (url, node) = if let Some(rest) = text.strip_prefix("chappe://") {
            let (node, host) = rest.split_once('@').ok_or(ParseManualError::NodeId)?;
            (format!("wss://{host}"), Some(node))
        } else {
            match text.split_once('#') {
                Some((url, node)) => (url.to_owned(), Some(node)),
                None => (text.to_owned(), None),
            }
        };
        match check_url(&url, &["ws://", "wss://"], Rest::Path) {
            Ok(()) => {}
            Err(ServerUrlError::Scheme(_)) => return Err(ParseManualError::Scheme),
            Err(error) => return Err(ParseManualError::Url(error)),
        }
        if url.len() > MAX_URL_LEN {
            return Err(ParseManualError::TooLong);
        }
        let node = node.map(str::parse).transpose().map_err(|_| ParseManualError::NodeId)?;
        Ok(Self { url, node })
    }
}

/// The source of nodes that a person has entered.
#[derive(Debug, Default)]
pub struct ManualNodes(Vec<ManualNode>);

impl ManualNodes {
    /// A source of these nodes.
    pub const fn new(nodes: Vec<ManualNode>) -> Self {
        Self(nodes)
    }
}

impl Source for ManualNodes {
    fn kind(&self) -> SourceKind {
        SourceKind::Manual
    }

    fn list(&self, _now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        let candidates =
            self.0.iter().map(|node| Candidate::new(node.url.clone(), node.node, SourceKind::Manual)).collect();
        future::ready(Ok(SourceResponse { candidates, ..SourceResponse::default() })).boxed()
    }
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A node's address, as a person enters it.
    pub const NODE: (&str, fn(&[u8]) -> bool) = ("node named by hand", |text| {
        let Ok(text) = str::from_utf8(text) else { return false };
        let Ok(node) = text.parse::<ManualNode>() else { return false };
        assert!(node.url().len() <= MAX_URL_LEN && node.url().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(node.url().starts_with("ws://") || node.url().starts_with("wss://"));
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn an_address_pins_a_key_where_it_names_one() {
        let id = SecretKey::from_bytes(&[1; 32]).node_id();
        for (text, url, node) in [
            (format!("ws://127.0.0.1:8080#{id}"), "ws://127.0.0.1:8080", Some(id)),
            (format!("wss://relay.example/ws#{id}"), "wss://relay.example/ws", Some(id)),
            (format!("chappe://{id}@relay.example:8443"), "wss://relay.example:8443", Some(id)),
            ("ws://[::1]:80".to_owned(), "ws://[::1]:80", None),
        ] {
            assert_eq!(text.parse(), Ok(ManualNode { url: url.to_owned(), node }), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_and_no_pin_is_dropped_silently() {
        for (text, error) in [
            ("http://relay.example", ParseManualError::Scheme),
            ("ws://", ParseManualError::Url(ServerUrlError::Host)),
            ("ws:///path", ParseManualError::Url(ServerUrlError::Host)),
            ("ws://a b", ParseManualError::Url(ServerUrlError::Space)),
            ("wss://a:99999", ParseManualError::Url(ServerUrlError::Port)),
            ("ws://relay.example#", ParseManualError::NodeId),
            ("ws://relay.example#short", ParseManualError::NodeId),
            ("chappe://relay.example", ParseManualError::NodeId),
        ] {
            assert_eq!(text.parse::<ManualNode>(), Err(error), "{text}");
        }
        assert_eq!(format!("ws://a/{}", "a".repeat(200)).parse::<ManualNode>(), Err(ParseManualError::TooLong));
    }

    #[test]
    fn mutated_names_of_nodes_are_urls_or_nothing() {
        let id = SecretKey::from_bytes(&[1; 32]).node_id();
        let corpus = [format!("chappe://{id}@relay.example"), format!("wss://8.8.8.8:1#{id}"), "ws://a".to_owned()];
        chappe_mutations::run(fuzzed::NODE, &corpus);
    }
}
