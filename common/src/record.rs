//! What a node says of itself, signed by its own key.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::{Signable, Signed},
    time::UnixTime,
};

/// How far ahead of the reader's clock `issued_at` may be: clocks of servers differ by less.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(120);
/// The longest a record may live. A node that is gone for longer is found in no directory.
pub const MAX_RECORD_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most client URLs or QUIC addresses in one record: two networks, two address families.
pub const MAX_ADDRESSES: usize = 4;
/// The longest client URL in bytes.
pub const MAX_URL_LEN: usize = 128;

/// Flags of what a node offers besides forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Abilities(u32);

impl Abilities {
    /// The node hands out STUN and TURN servers on `get_ice_servers`.
    pub const ICE_SERVERS: Self = Self(1);
    /// The node is in reserve: no public answer names it, and it is handed on by referral, link and QR code alone.
    pub const RESERVE: Self = Self(2);

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is there.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a node says of itself. At most 512 bytes with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The federation that the node belongs to.
    pub federation: FederationId,
    /// The node's key.
    pub node: NodeId,
    /// Raised and stored when the node restarts or its identity is renewed.
    pub epoch: u64,
    /// Raised with every record of one epoch.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// From when on it counts no more.
    pub expires_at: UnixTime,
    /// Where clients connect: `ws://` or `wss://`, at most [`MAX_ADDRESSES`].
    pub client_urls: Vec<String>,
    /// Where other nodes dial, at most [`MAX_ADDRESSES`], at least one.
    pub quic_addrs: Vec<SocketAddr>,
    /// A short name of where it stands, such as `eu-west`; empty where the operator says nothing.
    pub region: String,
    /// The software's version.
    pub version: String,
    /// What it offers besides forwarding.
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

/// Why a record that verifies does not count now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is of another federation.
    #[error("the record is of another federation")]
    Federation,
    /// It was signed in the future: one of the clocks is wrong.
    #[error("the record was issued in the future; one of the two clocks is wrong")]
    Future,
    /// Its time is over.
    #[error("the record has expired; one of the two clocks may be wrong")]
    Expired,
    /// It claims to live longer than [`MAX_RECORD_LIFETIME`].
    #[error("the record lives longer than is allowed")]
    Lifetime,
}

impl NodeRecord {
    /// Whether the record counts at `now` in `federation`.
    ///
    /// # Errors
    /// Says why it doesn't.
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

    /// Whether the node is in reserve: whoever holds the record names it in no answer that everybody can ask for.
    pub const fn is_reserve(&self) -> bool {
        self.abilities.contains(Abilities::RESERVE)
    }

    /// Whether this record replaces `other` of the same node: a higher `(epoch, seq)` does, and never the other way
    /// round.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.node == other.node && (self.epoch, self.seq) > (other.epoch, other.seq)
    }
}

/// A signed node record.
pub type SignedRecord = Signed<NodeRecord>;

/// A node's own word that it is leaving. It ends every record up to and including `(epoch, seq)`.
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

/// Whether a text can be a client URL in a record: `ws://` or `wss://`, printable ASCII without spaces, and no longer than
/// [`MAX_URL_LEN`]. It is shown to people.
pub fn is_client_url(text: &str) -> bool {
    text.len() <= MAX_URL_LEN
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && (text.starts_with("ws://") || text.starts_with("wss://"))
}

/// Whether a text can be a region or a version: at most 32 printable ASCII characters, without spaces. These texts reach
/// terminals, logs and web pages.
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
