//! Nodes that contacts share in sealed messages: the one in use, and a few others that have proved their keys to this
//! client. A node that only a contact has named is not shared further, except the one in use.

use chappe_common::{endpoint::NodeEndpoint, special};
use chappe_discovery::manual::ManualNode;

/// The most nodes in a message, and of one contact in a profile. Three make it likely that one is up.
pub(crate) const MAX_NODES: usize = 3;

/// The text form in messages and profiles: `wss://host:port#NODE-ID`.
pub(crate) fn to_text(endpoint: &NodeEndpoint) -> String {
    format!("{}#{}", endpoint.url(), endpoint.node())
}

/// Parses these texts and drops invalid ones. `private` accepts nodes in private networks too.
pub(crate) fn read(texts: &[String], private: bool) -> Vec<NodeEndpoint> {
    let endpoints = texts.iter().filter_map(|text| {
        let node: ManualNode = text.parse().ok()?;
        NodeEndpoint::new(node.node()?, node.url()).ok()
    });
    endpoints.filter(|endpoint| private || special::is_public_endpoint(endpoint)).take(MAX_NODES).collect()
}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Nodes that a contact names, one a line.
    pub const NODES: (&str, fn(&[u8]) -> bool) = ("nodes of a contact", |text| {
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let texts: Vec<_> = text.lines().map(str::to_owned).collect();
        let endpoints = read(&texts, false);
        assert!(endpoints.len() <= MAX_NODES && endpoints.iter().all(special::is_public_endpoint));
        let again: Vec<_> = endpoints.iter().map(to_text).collect();
        assert_eq!(read(&again, false), endpoints);
        !endpoints.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn referred_nodes_are_pinned_public_and_bounded() {
        let id = SecretKey::from_bytes(&[1; 32]).node_id();
        let texts: Vec<_> = [
            "ws://127.0.0.1:1#ID",
            "wss://relay.example",
            "nonsense",
            "wss://relay.example/path#ID",
            "wss://8.8.8.8:8710#ID",
            "wss://relay.example#ID",
            "wss://9.9.9.9:1#ID",
            "wss://9.9.9.9:2#ID",
        ]
        .map(|text| text.replace("ID", &id.to_string()))
        .into();
        let urls = |private| read(&texts, private).iter().map(NodeEndpoint::url).collect::<Vec<_>>();
        assert_eq!(urls(false), ["wss://8.8.8.8:8710", "wss://relay.example", "wss://9.9.9.9:1"]);
        assert_eq!(urls(true)[0], "ws://127.0.0.1:1");
        let again: Vec<_> = read(&texts, false).iter().map(to_text).collect();
        assert_eq!(read(&again, false), read(&texts, false));
    }

    #[test]
    fn mutated_nodes_of_contacts_read_as_they_are_written() {
        let id = SecretKey::from_bytes(&[1; 32]).node_id();
        let corpus = [
            format!("wss://8.8.8.8:8710#{id}\nws://relay.example#{id}\nwss://[2606:4700::1]:1#{id}"),
            format!("chappe://{id}@relay.example:8443"),
        ];
        chappe_mutations::run(fuzzed::NODES, &corpus);
    }
}
