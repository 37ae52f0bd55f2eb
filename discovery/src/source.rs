//! What a source of nodes is. Owns no transport and no schedule.

use std::fmt;

use chappe_common::{
    beacon::BeaconError,
    directory::DirectoryError,
    keys::{NodeId, PublicKey},
    record::SignedRecord,
    time::UnixTime,
};
use futures_util::future::BoxFuture;

/// Where a candidate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A registry's directory over HTTP.
    Registry,
    /// What worked or was listed before.
    Cache,
    /// Typed in or configured by a person.
    Manual,
    /// A link or QR code.
    Link,
}

impl SourceKind {
    /// The word for people and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Cache => "cache",
            Self::Manual => "manual entry",
            Self::Link => "link",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
    /// Who named it.
    pub source: SourceKind,
}

impl Candidate {
    /// One candidate for each client URL of a record.
    pub fn of_record(record: &SignedRecord, source: SourceKind) -> impl Iterator<Item = Self> {
        let node = record.node;
        record.client_urls.iter().map(move |url| Self { url: url.clone(), node: Some(node), source })
    }
}

/// What a source knows.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Where to dial.
    pub candidates: Vec<Candidate>,
    /// The verified records behind them, for the cache; empty for sources that hold none.
    pub records: Vec<SignedRecord>,
    /// The directory that they are from: the key that signed it and its `seq`.
    pub directory: Option<(PublicKey, u64)>,
}

/// Why a source named nobody. Nothing that was known before is lost by any of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No answer in time. Worth another try later.
    #[error("no answer in time")]
    Timeout,
    /// No connection: refused, no such name, or a certificate that doesn't fit. Worth another try later.
    #[error("cannot be reached")]
    Connect,
    /// The connection broke in the middle of the answer. Worth another try.
    #[error("the answer broke off")]
    Broken,
    /// Another HTTP status than 200.
    #[error("answers with HTTP status {0}")]
    Status(u16),
    /// The answer is longer than what was asked for can be.
    #[error("the answer is too long")]
    TooLong,
    /// The answer is no directory that counts.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    /// The answer is no beacon that counts.
    #[error("{0}")]
    Beacon(#[from] BeaconError),
    /// An older directory than one that was seen before: someone plays back an old one.
    #[error("the directory is older than one that was seen before")]
    RolledBack,
    /// The source works and knows nobody.
    #[error("knows no node")]
    Empty,
}

/// A source of candidates.
pub trait Source: Send + Sync {
    /// Which it is.
    fn kind(&self) -> SourceKind;

    /// Everything that it knows at `now`. Called again for each search; may be dropped at any point.
    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>>;
}
