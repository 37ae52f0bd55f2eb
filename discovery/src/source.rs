//! The sources of nodes: their trait, kinds, responses and errors.

use std::fmt;

use bytes::Bytes;
use chappe_common::{
    beacon::BeaconError,
    directory::DirectoryError,
    keys::{NodeId, PublicKey},
    record::SignedRecord,
    time::UnixTime,
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{doh::DohError, network::Network, reach::ReachError};

/// The kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The directory of a registry or a mirror, over HTTP.
    Registry,
    /// Shards in DNS, over HTTPS.
    Dns,
    /// Nodes that this client has connected to, or that were listed before.
    Cache,
    /// Nodes that contacts have passed on.
    Referral,
    /// A link or QR code.
    #[serde(rename = "link")]
    Invite,
    /// A URL that a person has entered or configured.
    Manual,
    /// The directory built into the program.
    Snapshot,
}

impl SourceKind {
    /// The name in messages and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Dns => "DNS",
            Self::Cache => "cache",
            Self::Referral => "referral",
            Self::Invite => "link",
            Self::Manual => "manual entry",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether a query uses the network. Other sources answer at once.
    pub const fn is_remote(self) -> bool {
        matches!(self, Self::Registry | Self::Dns)
    }

    /// Whether it is a list by one operator, as opposed to own experience or the word of a person.
    pub const fn is_bulk(self) -> bool {
        matches!(self, Self::Registry | Self::Dns | Self::Snapshot)
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of source kinds: those that have named a node.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins(u8);

impl Origins {
    const ALL: [SourceKind; 7] = [
        SourceKind::Registry,
        SourceKind::Dns,
        SourceKind::Cache,
        SourceKind::Referral,
        SourceKind::Invite,
        SourceKind::Manual,
        SourceKind::Snapshot,
    ];

    /// Adds `kind` to the set.
    #[must_use]
    pub const fn with(self, kind: SourceKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set contains `kind`.
    pub const fn contains(self, kind: SourceKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// The kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = SourceKind> {
        Self::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl From<SourceKind> for Origins {
    fn from(kind: SourceKind) -> Self {
        Self::default().with(kind)
    }
}

impl FromIterator<SourceKind> for Origins {
    fn from_iter<I: IntoIterator<Item = SourceKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An address at which a node may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The WebSocket URL to dial.
    pub url: String,
    /// The key that the node has to prove. `None` only for a URL that a person entered without a key: then any key is
    /// accepted.
    pub node: Option<NodeId>,
    /// The source that names it in this search.
    pub source: SourceKind,
    /// The sources that have ever named it. A cached node has those that the cache learned it from, without the cache
    /// itself.
    pub origins: Origins,
    /// Weight by this client's own experience, from 1 to [`MAX_WEIGHT`]. A node that was never dialled has
    /// [`UNKNOWN_WEIGHT`]. What a node says about itself does not count.
    pub weight: u32,
    /// The network of the URL's host.
    pub(crate) network: Network,
}

/// The weight of a node that was never dialled.
pub const UNKNOWN_WEIGHT: u32 = 4;
/// Maximal weight by own experience. A reliable node is chosen a few times as often as a new one, but not always.
pub const MAX_WEIGHT: u32 = 9 * UNKNOWN_WEIGHT;

impl Candidate {
    /// A candidate without any history.
    pub fn new(url: impl Into<String>, node: Option<NodeId>, source: SourceKind) -> Self {
        let url = url.into();
        let network = Network::of_url(&url);
        Self { url, node, source, origins: source.into(), weight: UNKNOWN_WEIGHT, network }
    }

    /// One candidate for each client URL of a record.
    pub fn of_record(record: &SignedRecord, source: SourceKind) -> impl Iterator<Item = Self> {
        let node = record.node;
        record.client_urls.iter().map(move |url| Self::new(url.clone(), Some(node), source))
    }

    /// Whether the URL uses TLS.
    pub fn has_tls(&self) -> bool {
        self.url.starts_with("wss://")
    }

    /// The network of the URL's host.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// The source whose share of the dials this candidate counts towards. A cached node that only one bulk source has
    /// named, and that has never worked, still counts as that source's.
    pub fn attributed_source(&self) -> SourceKind {
        let mut origins = self.origins.iter();
        match (self.source, origins.next(), origins.next()) {
            (SourceKind::Cache, Some(only), None) if only.is_bulk() && self.weight <= UNKNOWN_WEIGHT => only,
            (source, ..) => source,
        }
    }
}

/// The form of a signed list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListForm {
    /// A directory, with the nodes' own records.
    Directory,
    /// A shard from DNS.
    Shard,
}

/// A signed list of nodes with its raw bytes, for comparison with earlier lists of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedList {
    /// The form. The numbers of a key's lists are separate for each form.
    pub form: ListForm,
    /// The key that signed the list.
    pub key: PublicKey,
    /// The list's `seq`.
    pub seq: u64,
    /// `(index, count)` of this part of the list.
    pub part: (u16, u16),
    /// When it was signed.
    pub issued_at: UnixTime,
    /// The signed bytes with their delegation.
    pub bytes: Bytes,
    /// The URLs of the listed nodes.
    pub candidates: Vec<Candidate>,
    /// The nodes' verified records. Shards have none.
    pub records: Vec<SignedRecord>,
}

/// The response of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceResponse {
    /// Candidates that are not from a signed list.
    pub candidates: Vec<Candidate>,
    /// Verified lists of nodes. The receiver checks whether they are older than known ones.
    pub lists: Vec<SignedList>,
}

/// Why a source named no node. What was known before is never lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No response in time. Retrying later may help.
    #[error("no answer in time")]
    Timeout,
    /// No connection. Retrying later may help.
    #[error(transparent)]
    Reach(ReachError),
    /// The connection broke during the response. Retrying may help.
    #[error("the response is incomplete")]
    Broken,
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The response is longer than the requested document can be.
    #[error("the response is too long")]
    TooLong,
    /// The query over HTTPS to a DNS provider failed.
    #[error(transparent)]
    Doh(DohError),
    /// There are TXT records, and none of them is a shard.
    #[error("the DNS records contain no list of nodes")]
    NoShard,
    /// The directory is invalid.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The beacon is invalid.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// The directory is older than a known one: somebody replays an old one.
    #[error("the directory is older than one that was seen before")]
    RolledBack,
    /// All lists are signed by a revoked key. Either it was stolen, or the registry still uses it by mistake.
    #[error("the list is signed by a revoked key")]
    Revoked,
    /// All links have expired, or the clock is wrong.
    #[error("has expired; the clock may be wrong")]
    InviteExpired,
    /// Only nodes with TLS are allowed, and the source names none.
    #[error("names no node with TLS (wss://)")]
    Insecure,
    /// The source works, but names no node.
    #[error("knows no node")]
    Empty,
}

impl From<ReachError> for SourceError {
    fn from(error: ReachError) -> Self {
        if error == ReachError::Timeout { Self::Timeout } else { Self::Reach(error) }
    }
}

impl From<DohError> for SourceError {
    fn from(error: DohError) -> Self {
        match error {
            DohError::Reach(error) => error.into(),
            error => Self::Doh(error),
        }
    }
}

/// A source of candidates.
pub trait Source: Send + Sync {
    /// The kind of source.
    fn kind(&self) -> SourceKind;

    /// A host that distinguishes sources of the same kind in messages.
    fn label(&self) -> Option<String> {
        None
    }

    /// Queries the source at time `now`. Called again for each search. The future may be dropped at any point.
    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unproven_cached_node_counts_towards_the_list_that_named_it() {
        let cached = |origins: &[SourceKind], weight| Candidate {
            origins: origins.iter().copied().collect(),
            weight,
            ..Candidate::new("ws://a", None, SourceKind::Cache)
        };
        assert_eq!(cached(&[SourceKind::Registry], UNKNOWN_WEIGHT).attributed_source(), SourceKind::Registry);
        assert_eq!(cached(&[SourceKind::Dns], 1).attributed_source(), SourceKind::Dns);
        assert_eq!(cached(&[SourceKind::Registry], 8).attributed_source(), SourceKind::Cache, "it has worked");
        assert_eq!(
            cached(&[SourceKind::Registry, SourceKind::Dns], 1).attributed_source(),
            SourceKind::Cache,
            "two say so"
        );
        assert_eq!(cached(&[SourceKind::Invite], 1).attributed_source(), SourceKind::Cache);
        assert_eq!(Candidate::new("ws://a", None, SourceKind::Registry).attributed_source(), SourceKind::Registry);
    }

    #[test]
    fn an_origin_set_contains_what_was_inserted() {
        let set: Origins = [SourceKind::Dns, SourceKind::Manual, SourceKind::Dns].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [SourceKind::Dns, SourceKind::Manual]);
        assert!(Origins::ALL.iter().all(|kind| Origins::from(*kind).iter().eq([*kind])));
    }
}
