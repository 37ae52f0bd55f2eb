//! The directory built into the program, for a first start that reaches no other source.
//!
//! It may have expired: its nodes still have to prove their keys, and have newer information.

use bytes::Bytes;
use chappe_common::{directory::DirectoryBundle, time::UnixTime};
use futures_util::future::{self, BoxFuture, FutureExt as _};

use crate::{
    source::{Candidate, Source, SourceError, SourceKind, SourceResponse},
    trust::Trust,
};

/// The content of the file that `CHAPPE_SNAPSHOT` named at build time, or nothing.
const BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/snapshot"));

/// The source of the nodes in a built-in directory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    bytes: Bytes,
    trust: Trust,
}

impl Snapshot {
    /// A source of this directory's nodes, if it is valid under the roots.
    pub fn new(bytes: impl Into<Bytes>, trust: Trust) -> Self {
        Self { bytes: bytes.into(), trust }
    }

    /// The built-in directory, or `None` if there is none.
    pub fn built_in(trust: Trust) -> Option<Self> {
        (!BUILT_IN.is_empty()).then(|| Self::new(BUILT_IN, trust))
    }

    fn read(&self, now: UnixTime) -> Result<SourceResponse, SourceError> {
        let bundle = DirectoryBundle::decode_old(self.bytes.clone(), &self.trust.roots(), now)?;
        let records: Vec<_> = bundle.records_old(now).collect();
        let candidates = records.iter().flat_map(|record| Candidate::of_record(record, SourceKind::Snapshot)).collect();
        // Not returned as a list: the number of a built-in directory must not affect the check for newer ones.
        Ok(SourceResponse { candidates, ..SourceResponse::default() })
    }
}

impl Source for Snapshot {
    fn kind(&self) -> SourceKind {
        SourceKind::Snapshot
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        future::ready(self.read(now)).boxed()
    }
}
