//! The directory that was built into the program: where to look at a first start that reaches no source.
//!
//! Its time may be over. Its nodes have to prove their keys as all others do, and a newer word of theirs is found there.

use bytes::Bytes;
use chappe_common::{directory::DirectoryBundle, keys::PublicKey, time::UnixTime};
use futures_util::future::{self, BoxFuture, FutureExt as _};

use crate::source::{Candidate, Listing, Source, SourceError, SourceKind};

/// What `CHAPPE_SNAPSHOT` named when this was built; empty where it named nothing.
const BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/snapshot"));

/// The source of the nodes in a directory of some day.
#[derive(Clone, Debug)]
pub struct Snapshot {
    bytes: Bytes,
    roots: Vec<PublicKey>,
}

impl Snapshot {
    /// A source of this directory's nodes, as far as it rests on `roots`.
    pub fn new(bytes: impl Into<Bytes>, roots: Vec<PublicKey>) -> Self {
        Self { bytes: bytes.into(), roots }
    }

    /// The one that was built in, where there is one.
    pub fn built_in(roots: Vec<PublicKey>) -> Option<Self> {
        (!BUILT_IN.is_empty()).then(|| Self::new(BUILT_IN, roots))
    }

    fn read(&self, now: UnixTime) -> Result<Listing, SourceError> {
        let bundle = DirectoryBundle::decode_old(self.bytes.clone(), &self.roots, now)?;
        let records: Vec<_> = bundle.records_old(now).collect();
        let candidates = records.iter().flat_map(|record| Candidate::of_record(record, SourceKind::Snapshot)).collect();
        // Not as a list: how new a directory is that was built in says nothing of what is newest now.
        Ok(Listing { candidates, ..Listing::default() })
    }
}

impl Source for Snapshot {
    fn kind(&self) -> SourceKind {
        SourceKind::Snapshot
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>> {
        future::ready(self.read(now)).boxed()
    }
}
