//! A federation's keys, and what is signed with them: as it should be, and as nobody should believe it.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chappe_common::{
    directory::{Delegation, Directory, DirectoryBundle},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    record::{Abilities, NodeRecord, SignedRecord},
    shard::{Issue, Shard, ShardBundle},
    signed::Signed,
    time::UnixTime,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Who signs the lists of a federation.
#[derive(Clone)]
pub struct Issuer {
    root: SecretKey,
    /// To whom the root delegates.
    delegate: SecretKey,
    /// Who signs.
    online: SecretKey,
}

/// A node as lists have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its signed record.
    pub record: SignedRecord,
    /// Where it is dialled.
    pub url: String,
}

impl Listed {
    /// A node with this key that is dialled at `addr`.
    ///
    /// # Panics
    /// Never: the record is within its bounds.
    pub fn new(key: &SecretKey, federation: FederationId, addr: SocketAddr, now: UnixTime) -> Self {
        let url = format!("ws://{addr}");
        let record = NodeRecord {
            federation,
            node: key.node_id(),
            epoch: now.as_secs(),
            seq: 1,
            issued_at: now,
            expires_at: now + DAY,
            client_urls: vec![url.clone()],
            quic_addrs: vec![addr],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        };
        Self { record: Signed::sign(record, key).expect("a record"), url }
    }

    /// The address in its URL.
    pub fn addr(&self) -> SocketAddr {
        self.record.quic_addrs[0]
    }

    /// Its key.
    pub fn node(&self) -> NodeId {
        self.record.node
    }
}

/// When a list was signed, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// Its `seq`.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// Until when it counts.
    pub expires_at: UnixTime,
}

impl When {
    /// As a list of `now` should be.
    pub fn now(now: UnixTime) -> Self {
        Self { seq: now.as_secs() * 1000, issued_at: now, expires_at: now + 7 * DAY }
    }

    /// The same, signed so much earlier.
    #[must_use]
    pub fn earlier(now: UnixTime, by: Duration) -> Self {
        Self::now(UnixTime::from_secs(now.as_secs().saturating_sub(by.as_secs())))
    }

    /// The same, signed so much later.
    #[must_use]
    pub fn later(now: UnixTime, by: Duration) -> Self {
        Self::now(now + by)
    }
}

impl Issuer {
    /// New keys.
    ///
    /// # Panics
    /// The system has no random bytes.
    pub fn new() -> Self {
        Self::of(SecretKey::generate().expect("a key"), SecretKey::generate().expect("a key"))
    }

    /// These keys.
    pub fn of(root: SecretKey, online: SecretKey) -> Self {
        Self { root, delegate: online.clone(), online }
    }

    /// The same delegation, with a key that signs and is not the delegated one.
    ///
    /// # Panics
    /// The system has no random bytes.
    #[must_use]
    pub fn undelegated(&self) -> Self {
        Self { online: SecretKey::generate().expect("a key"), ..self.clone() }
    }

    /// The pinned root.
    pub fn root(&self) -> PublicKey {
        self.root.public()
    }

    /// The federation.
    pub fn federation(&self) -> FederationId {
        FederationId::of_roots(&[self.root()])
    }

    fn delegation(&self, at: UnixTime) -> Signed<Delegation> {
        let delegation = Delegation {
            federation: self.federation(),
            root: self.root(),
            key: self.delegate.public(),
            not_before: UnixTime::from_secs(at.as_secs().saturating_sub(DAY.as_secs())),
            expires_at: at + 60 * DAY,
        };
        Signed::sign(delegation, &self.root).expect("a delegation")
    }

    /// A directory of these nodes.
    pub fn directory(&self, when: When, nodes: &[Listed]) -> Bytes {
        let directory = Directory {
            federation: self.federation(),
            key_id: self.online.public(),
            seq: when.seq,
            issued_at: when.issued_at,
            expires_at: when.expires_at,
            shard: (0, 1),
            nodes: nodes.iter().map(|node| node.record.as_bytes().clone()).collect(),
        };
        let bundle = DirectoryBundle::sign(self.delegation(when.issued_at), directory, &self.online);
        bundle.expect("a directory").encode().into()
    }

    /// One shard of these nodes, as a text of a TXT record; also one that no honest publisher would make.
    pub fn shard(&self, when: When, nodes: &[Listed]) -> String {
        let When { seq, issued_at, expires_at } = when;
        let (federation, key_id) = (self.federation(), self.online.public());
        let shard = Shard { federation, key_id, seq, issued_at, expires_at, shard: (0, 1), nodes: endpoints(nodes) };
        let (delegation, shard) = (self.delegation(issued_at), Signed::sign(shard, &self.online).expect("a shard"));
        let len = u16::try_from(delegation.as_bytes().len()).expect("a delegation is short");
        let bytes = [&len.to_le_bytes(), &delegation.as_bytes()[..], shard.as_bytes()].concat();
        format!("chappe1={}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Shards of these nodes, as texts of TXT records.
    pub fn shards(&self, when: When, nodes: &[Listed]) -> Vec<String> {
        let When { seq, issued_at, expires_at } = when;
        let issue = Issue { seq, issued_at, expires_at };
        let shards = ShardBundle::sign_all(&self.delegation(issued_at), &endpoints(nodes), issue, &self.online);
        shards.expect("shards").iter().map(ShardBundle::to_text).collect()
    }
}

fn endpoints(nodes: &[Listed]) -> Vec<NodeEndpoint> {
    nodes.iter().map(|node| NodeEndpoint::new(node.node(), &node.url).expect("an endpoint")).collect()
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}
