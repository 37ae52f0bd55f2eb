//! A node's signed description of itself.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::{Signable, Signed},
    time::UnixTime,
};

/// How far ahead of the reader's clock `issued_at` may be: servers' clocks differ by less.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(120);
/// The longest lifetime of a record. A node that is down for longer is in no directory.
pub const MAX_RECORD_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most client URLs or QUIC addresses in a record: two networks with two address families.
pub const MAX_ADDRESSES: usize = 4;
/// The longest client URL in bytes.
pub const MAX_URL_LEN: usize = 128;

/// The services of a node in addition to forwarding, as flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Abilities(u32);

impl Abilities {
    /// The node provides STUN and TURN servers on `get_ice_servers`.
    pub const ICE_SERVERS: Self = Self(1);
    /// The node is a reserve node: it is in no public response, and only named by referrals, links and QR codes.
    pub const RESERVE: Self = Self(2);

    /// The node tries the addresses of members that ask it to.
    pub const CHECKS: Self = Self(4);

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A node's description of itself: at most 512 bytes with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The federation that the node belongs to.
    pub federation: FederationId,
    /// The node's key.
    pub node: NodeId,
    /// Incremented and stored when the node restarts or its identity is renewed.
    pub epoch: u64,
    /// Incremented with every record of one epoch.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// When it expires.
    pub expires_at: UnixTime,
    /// The URLs for clients: `ws://` or `wss://`, at most [`MAX_ADDRESSES`].
    pub client_urls: Vec<String>,
    /// The addresses for other nodes: at least one, at most [`MAX_ADDRESSES`].
    pub quic_addrs: Vec<SocketAddr>,
    /// A short region name, such as `eu-west`, or empty.
    pub region: String,
    /// The software's version.
    pub version: String,
    /// The services in addition to forwarding.
    pub abilities: Abilities,
}

impl Signable for NodeRecord {
    const KIND: &'static str = "node-record";
    const MAX_LEN: usize = 512;

    fn signer(&self) -> &PublicKey {
        self.node.key()
    }

    fn is_well_formed(&self) -> bool {
        !self.quic_addrs.is_empty()
            && self.quic_addrs.len() <= MAX_ADDRESSES
            && self.quic_addrs.iter().all(|addr| addr.port() != 0)
            && self.client_urls.len() <= MAX_ADDRESSES
            && self.client_urls.iter().all(|url| is_client_url(url))
            && is_label(&self.region)
            && is_label(&self.version)
    }
}

/// A verified record is not valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is of another federation.
    #[error("the record is of another federation")]
    Federation,
    /// The record was issued in the future: one of the two clocks is wrong.
    #[error("the record was issued in the future; one of the two clocks is wrong")]
    Future,
    /// The record has expired.
    #[error("the record has expired; one of the two clocks may be wrong")]
    Expired,
    /// The record's lifetime exceeds [`MAX_RECORD_LIFETIME`].
    #[error("the record lives longer than is allowed")]
    Lifetime,
}

impl NodeRecord {
    /// Checks the record at `now` in `federation`.
    ///
    /// # Errors
    /// The record is not valid now.
    pub fn check(&self, federation: FederationId, now: UnixTime) -> Result<(), RecordError> {
        if self.federation != federation {
            return Err(RecordError::Federation);
        }
        if self.issued_at > now + MAX_CLOCK_SKEW {
            return Err(RecordError::Future);
        }
        if self.expires_at <= now {
            return Err(RecordError::Expired);
        }
        if self.expires_at > self.issued_at + MAX_RECORD_LIFETIME {
            return Err(RecordError::Lifetime);
        }
        Ok(())
    }

    /// Whether the node is a reserve node. Do not name it in responses that anybody can request.
    pub const fn is_reserve(&self) -> bool {
        self.abilities.contains(Abilities::RESERVE)
    }

    /// Whether this record of the same node replaces `other`: its `(epoch, seq)` is higher.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.node == other.node && (self.epoch, self.seq) > (other.epoch, other.seq)
    }
}

/// A signed node record.
pub type SignedRecord = Signed<NodeRecord>;

/// A node's statement that it is leaving. It ends every record up to and including `(epoch, seq)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLeave {
    /// The federation that the node leaves.
    pub federation: FederationId,
    /// The node's key.
    pub node: NodeId,
    /// The epoch that ends.
    pub epoch: u64,
    /// The last record's `seq`.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
}

impl Signable for NodeLeave {
    const KIND: &'static str = "node-leave";
    const MAX_LEN: usize = 160;

    fn signer(&self) -> &PublicKey {
        self.node.key()
    }
}

impl NodeLeave {
    /// Whether the leave ends `record`.
    pub fn ends(&self, record: &NodeRecord) -> bool {
        self.node == record.node
            && self.federation == record.federation
            && (self.epoch, self.seq) >= (record.epoch, record.seq)
    }
}

/// Whether a text can be a client URL in a record: `ws://` or `wss://`, printable ASCII without spaces, at most
/// [`MAX_URL_LEN`] bytes. It is shown to people.
pub fn is_client_url(text: &str) -> bool {
    text.len() <= MAX_URL_LEN
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && (text.starts_with("ws://") || text.starts_with("wss://"))
}

/// Whether a text can be a region or a version: at most 32 printable ASCII characters without spaces. These texts are
/// shown on terminals, in logs and on web pages.
pub fn is_label(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        keys::SecretKey,
        printable::is_printable,
        signed::{DecodeError, SignError},
    };

    /// A record that a hostile node signs: nothing is checked before.
    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Unchecked(NodeRecord);

    impl Signable for Unchecked {
        const KIND: &'static str = NodeRecord::KIND;
        const MAX_LEN: usize = 512;

        fn signer(&self) -> &PublicKey {
            self.0.signer()
        }
    }

    fn signed(url: &str, region: &str, version: &str) -> Result<Signed<NodeRecord>, DecodeError> {
        let key = SecretKey::from_bytes(&[1; 32]);
        let record = NodeRecord {
            federation: FederationId::of_roots(&[key.public()]),
            node: key.node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(1),
            expires_at: UnixTime::from_secs(2),
            client_urls: vec![url.to_owned()],
            quic_addrs: vec!["192.0.2.1:1".parse().expect("an address")],
            region: region.to_owned(),
            version: version.to_owned(),
            abilities: Abilities::default(),
        };
        let signed = match Signed::sign(Unchecked(record), &key) {
            Ok(signed) => signed,
            Err(SignError::TooLong) => return Err(DecodeError::Length),
            Err(SignError::Malformed) => panic!("nothing is checked"),
        };
        Signed::decode(signed.as_bytes().clone())
    }

    proptest! {
        #[test]
        fn a_record_that_decodes_holds_printable_texts_alone(
            url in "(ws://relay[ -~\\x00-\\x1f\\x7f]{0,4}|ws://\\PC{0,4}|ws://r\\.example/[\\x1b\\n]?)",
            region in "(here|[a-z]{0,2}[\\x1b\\n\u{202e}\u{200b}]?)",
            version in "(1\\.0|[0-9.]{0,2}[\\x1b\\n\u{2066}]?)",
        ) {
            let texts = [&url, &region, &version];
            let is_clean = texts.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
            let decoded = signed(&url, &region, &version);
            prop_assert_eq!(decoded.is_ok(), is_clean);
            if is_clean {
                prop_assert!(texts.iter().all(|text| text.chars().all(is_printable)));
            }
        }
    }
}
