//! What a source of nodes is. Owns no transport and no schedule.

use std::fmt;

use bytes::Bytes;
use chappe_common::{
    beacon::BeaconError,
    directory::DirectoryError,
    keys::{NodeId, PublicKey},
    record::SignedRecord,
    revocation::SignedRevocation,
    time::UnixTime,
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{doh::DohError, network::Network, reach::ReachError};

/// Where a candidate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A registry's directory over HTTP, or a mirror's.
    Registry,
    /// Shards in DNS, over HTTPS.
    Dns,
    /// What worked or was listed before.
    Cache,
    /// What contacts passed on.
    Referral,
    /// A link or QR code.
    Link,
    /// Typed in or configured by a person.
    Manual,
    /// The directory that was built into the program.
    Snapshot,
}

impl SourceKind {
    /// The word for people and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Dns => "DNS",
            Self::Cache => "cache",
            Self::Referral => "referral",
            Self::Link => "link",
            Self::Manual => "manual entry",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether asking it takes a network. The others answer at once.
    pub const fn is_remote(self) -> bool {
        matches!(self, Self::Registry | Self::Dns)
    }

    /// Whether it is one party's list of many nodes, and not what this side has seen or a person has vouched for.
    pub const fn is_bulk(self) -> bool {
        matches!(self, Self::Registry | Self::Dns | Self::Snapshot)
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of kinds of sources: all that have named a node.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins(u8);

impl Origins {
    const ALL: [SourceKind; 7] = [
        SourceKind::Registry,
        SourceKind::Dns,
        SourceKind::Cache,
        SourceKind::Referral,
        SourceKind::Link,
        SourceKind::Manual,
        SourceKind::Snapshot,
    ];

    /// The set with `kind` in it as well.
    #[must_use]
    pub const fn with(self, kind: SourceKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is in it.
    pub const fn contains(self, kind: SourceKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// The kinds in it.
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
    /// The key that the node has to prove. `None` only for a URL that a person entered without one: whichever key the
    /// node proves then is taken.
    pub node: Option<NodeId>,
    /// Who names it now.
    pub source: SourceKind,
    /// Who has ever named it. For the cache, whoever it learned it from; the cache itself names nobody.
    pub origins: Origins,
    /// How much this side's own experience speaks for it: [`UNKNOWN_WEIGHT`] for a node that it knows nothing of, from 1 to
    /// [`MAX_WEIGHT`] for others. What a node says of itself counts for nothing.
    pub weight: u32,
    /// The network of its address, made of the URL.
    pub(crate) network: Network,
}

/// The weight of a node that was never dialled.
pub const UNKNOWN_WEIGHT: u32 = 4;
/// The most that own experience counts: a node that always worked is chosen a few times as often as a new one, and never
/// always.
pub const MAX_WEIGHT: u32 = 9 * UNKNOWN_WEIGHT;

impl Candidate {
    /// A candidate that nothing is known of, but who named it.
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

    /// Whether the connection is encrypted beneath the protocol.
    pub fn has_tls(&self) -> bool {
        self.url.starts_with("wss://")
    }

    /// The network of its address.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Whose word it rests on, for judging how much of the choice one party has. What the cache has from one bulk source
    /// and never saw at work still counts as that source's.
    pub fn party(&self) -> SourceKind {
        let mut origins = self.origins.iter();
        match (self.source, origins.next(), origins.next()) {
            (SourceKind::Cache, Some(only), None) if only.is_bulk() && self.weight <= UNKNOWN_WEIGHT => only,
            (source, ..) => source,
        }
    }
}

/// Which of the forms a signed list of nodes has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListForm {
    /// A directory with nodes' own records.
    Directory,
    /// A shard from DNS.
    Shard,
}

/// A signed list as it came, for remembering how new each key's newest was, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedList {
    /// Its form: the lists of one key count separately for each.
    pub form: ListForm,
    /// The key that signed it.
    pub key: PublicKey,
    /// Its `seq`.
    pub seq: u64,
    /// `(index, of how many)`.
    pub part: (u16, u16),
    /// When it was signed.
    pub issued_at: UnixTime,
    /// What was signed, with its delegation.
    pub bytes: Bytes,
    /// Where to dial the nodes that it names.
    pub candidates: Vec<Candidate>,
    /// The nodes' verified records; none in a shard.
    pub records: Vec<SignedRecord>,
}

/// What a source knows.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Where to dial, apart from what the lists say.
    pub candidates: Vec<Candidate>,
    /// Signed lists of nodes. Whether one is older than what was seen before is judged by whoever asked.
    pub lists: Vec<SignedList>,
    /// Revocations of online keys, verified against the pinned roots.
    pub revocations: Vec<SignedRevocation>,
}

/// Why a source named nobody. Nothing that was known before is lost by any of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No answer in time. Worth another try later.
    #[error("no answer in time")]
    Timeout,
    /// No connection. Worth another try later.
    #[error(transparent)]
    Reach(ReachError),
    /// The connection broke in the middle of the answer. Worth another try.
    #[error("the answer broke off")]
    Broken,
    /// Another HTTP status than 200.
    #[error("answers with HTTP status {0}")]
    Status(u16),
    /// The answer is longer than what was asked for can be.
    #[error("the answer is too long")]
    TooLong,
    /// The provider of DNS over HTTPS gave no answer.
    #[error(transparent)]
    Doh(DohError),
    /// There are such DNS records, and none of them is a shard.
    #[error("the DNS records are none of a federation")]
    NoShard,
    /// The answer is no directory that counts.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The answer is no beacon that counts.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// An older directory than one that was seen before: someone plays back an old one.
    #[error("the directory is older than one that was seen before")]
    RolledBack,
    /// All lists are signed by a key that a root has revoked: it was stolen, or a registry has not been told.
    #[error("the list is signed by a key that was revoked")]
    Revoked,
    /// The time of all links is over, or the clock is wrong.
    #[error("has expired; the clock may be wrong")]
    LinkExpired,
    /// Only nodes with TLS are wanted, and it names none.
    #[error("names no node with TLS (wss://)")]
    Insecure,
    /// The source works and knows nobody.
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
    /// Which it is.
    fn kind(&self) -> SourceKind;

    /// Which of several of its kind, for people: a host.
    fn label(&self) -> Option<String> {
        None
    }

    /// Everything that it knows at `now`. Called again for each search; may be dropped at any point.
    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cache_has_from_one_list_and_never_saw_at_work_counts_as_that_list_s() {
        let cached = |origins: &[SourceKind], weight| Candidate {
            origins: origins.iter().copied().collect(),
            weight,
            ..Candidate::new("ws://a", None, SourceKind::Cache)
        };
        assert_eq!(cached(&[SourceKind::Registry], UNKNOWN_WEIGHT).party(), SourceKind::Registry);
        assert_eq!(cached(&[SourceKind::Dns], 1).party(), SourceKind::Dns);
        assert_eq!(cached(&[SourceKind::Registry], 8).party(), SourceKind::Cache, "it has worked");
        assert_eq!(cached(&[SourceKind::Registry, SourceKind::Dns], 1).party(), SourceKind::Cache, "two say so");
        assert_eq!(cached(&[SourceKind::Link], 1).party(), SourceKind::Cache);
        assert_eq!(Candidate::new("ws://a", None, SourceKind::Registry).party(), SourceKind::Registry);
    }

    #[test]
    fn a_set_of_origins_holds_what_was_put_in() {
        let set: Origins = [SourceKind::Dns, SourceKind::Manual, SourceKind::Dns].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [SourceKind::Dns, SourceKind::Manual]);
        assert!(Origins::ALL.iter().all(|kind| Origins::from(*kind).iter().eq([*kind])));
    }
}
