//! Nodes that contacts share in sealed messages: the one in use, and a few others that have proved their keys to this
//! client. A node that only a contact has named is not shared further, except the one in use.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    endpoint::NodeEndpoint, federation::FederationId, record::NodeRecord, signed::Signed, special, time::UnixTime,
};
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

/// The nodes of these signed records, in Base64url, at most [`MAX_NODES`]. Drops records that are invalid, of another
/// federation, or of reserve nodes. `private` accepts nodes in private networks too.
pub(crate) fn of_records(
    records: &[String],
    federation: FederationId,
    now: UnixTime,
    private: bool,
) -> Vec<NodeEndpoint> {
    let texts = records.iter().take(MAX_NODES).filter_map(|record| {
        let record = Signed::<NodeRecord>::decode(URL_SAFE_NO_PAD.decode(record).ok()?).ok()?;
        let is_usable = record.check(federation, now).is_ok() && !record.is_reserve();
        let urls = || record.client_urls.iter().filter(|_| is_usable);
        let url = urls().find(|url| url.starts_with("wss://")).or_else(|| urls().next())?;
        Some(format!("{url}#{}", record.node))
    });
    read(&texts.collect::<Vec<_>>(), private)
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
    use std::time::Duration;

    use chappe_common::{keys::SecretKey, record::Abilities};

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
    fn nodes_are_taken_from_records_that_hold_here_and_now() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let (federation, now) = (FederationId::of_roots(&[key.public()]), UnixTime::from_secs(1_000));
        let record = |change: &dyn Fn(&mut NodeRecord)| {
            let mut record = NodeRecord {
                federation,
                node: key.node_id(),
                epoch: 1,
                seq: 1,
                issued_at: now,
                expires_at: now + Duration::from_secs(60),
                client_urls: vec!["ws://8.8.8.8:1".to_owned(), "wss://relay.example".to_owned()],
                quic_addrs: vec!["8.8.8.8:1".parse().expect("an address")],
                region: String::new(),
                version: String::new(),
                abilities: Abilities::default(),
            };
            change(&mut record);
            URL_SAFE_NO_PAD.encode(Signed::sign(record, &key).expect("a record").as_bytes())
        };
        let taken = |records: &[String]| of_records(records, federation, now, false);
        let good = record(&|_| ());
        assert_eq!(
            taken(std::slice::from_ref(&good)).iter().map(NodeEndpoint::url).collect::<Vec<_>>(),
            ["wss://relay.example"]
        );
        assert_eq!(taken(&vec![good.clone(); 9]).len(), MAX_NODES);
        let elsewhere = FederationId::of_roots(&[]);
        let mut forged = URL_SAFE_NO_PAD.decode(&good).expect("Base64url");
        forged[40] ^= 1;
        let refused = [
            record(&|record| record.federation = elsewhere),
            record(&|record| record.issued_at = now + Duration::from_secs(3600)),
            record(&|record| record.expires_at = now),
            record(&|record| record.abilities = Abilities::RESERVE),
            record(&|record| record.client_urls = vec!["ws://10.0.0.1:1".to_owned()]),
            record(&|record| record.client_urls.clear()),
            URL_SAFE_NO_PAD.encode(forged),
            "=".to_owned(),
            String::new(),
        ];
        for record in refused {
            assert_eq!(taken(std::slice::from_ref(&record)), [], "{record}");
        }
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
