//! A copy of an embedded store in one file, for backups: a running registry has exclusive use of its store.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::time::UnixTime;
use chappe_discovery::private_file;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};

use super::{
    SignedDirectory,
    entry::{EntryKind, StoreEntry},
};
use crate::rules::Change;

/// Name of the file in the data folder.
const FILE: &str = "registry.snapshot";
/// The most bytes of a snapshot. 1,000 listings, 4,096 removals and the directory take less than 3 MB.
pub(crate) const MAX_SNAPSHOT: usize = 16 * 1024 * 1024;
/// How old a snapshot gets before a commit replaces it. A commit that stores a removal replaces it at once, because nobody
/// sends a removal again. Nodes register again by themselves.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The first byte of the file. A version with other fields has another one.
const FORMAT: u8 = 1;

/// All rows of a store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    format: u8,
    /// `(seq, issued_at, expires_at, bundle)`.
    head: Option<(u64, u64, u64, Bytes)>,
    /// Kind, node and body.
    entries: Vec<(u8, [u8; 32], Bytes)>,
}

/// The bytes are not a snapshot, or an entry in them is damaged.
#[derive(Debug, thiserror::Error)]
#[error("the copy of the store is damaged, or was written by a newer version")]
pub struct SnapshotError;

impl Snapshot {
    pub(super) fn new(
        head: Option<(u64, u64, u64, Bytes)>,
        entries: impl IntoIterator<Item = (u8, [u8; 32], Bytes)>,
    ) -> Self {
        Self { format: FORMAT, head, entries: entries.into_iter().collect() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("bytes and numbers always encode")
    }

    /// Decodes a snapshot and verifies the signature of each entry.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot: Self = postcard::from_bytes(bytes).map_err(|_| SnapshotError)?;
        let is_valid = |entry: &Option<StoreEntry>| entry.as_ref().is_some_and(|entry| entry.to_change().is_some());
        if snapshot.format == FORMAT && snapshot.rows().all(|entry| is_valid(&entry)) {
            Ok(snapshot)
        } else {
            Err(SnapshotError)
        }
    }

    fn rows(&self) -> impl Iterator<Item = Option<StoreEntry>> {
        self.entries.iter().map(|(kind, node, body)| {
            EntryKind::from_number(*kind).map(|kind| StoreEntry { kind, node: *node, body: Some(body.to_vec()) })
        })
    }

    pub(super) fn entries(&self) -> Vec<StoreEntry> {
        self.rows().flatten().collect()
    }

    pub(super) fn head(&self) -> Option<SignedDirectory> {
        self.head.as_ref().map(|(seq, issued_at, expires_at, bundle)| SignedDirectory {
            seq: *seq,
            issued_at: UnixTime::from_secs(*issued_at),
            expires_at: UnixTime::from_secs(*expires_at),
            bundle: bundle.clone(),
        })
    }
}

/// Reads the snapshot of the store in `dir`. Blocks on the disk.
pub(crate) fn read(dir: &Path) -> std::io::Result<Vec<u8>> {
    private_file::read_own(&dir.join(FILE), MAX_SNAPSHOT as u64)
}

/// When the file was written, and whether that works.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    path: PathBuf,
    written: Option<Instant>,
    is_failing: bool,
    failed: Counter,
}

impl SnapshotFile {
    pub(super) fn new(dir: &Path, failed: Counter) -> Self {
        Self { path: dir.join(FILE), written: None, is_failing: false, failed }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Whether to write the file after a commit of these changes.
    pub(super) fn is_due(&self, changes: &[Change], now: Instant) -> bool {
        let is_old = self.written.is_none_or(|written| now.saturating_duration_since(written) >= MAX_AGE);
        is_old || changes.iter().any(|change| matches!(change, Change::StoreRemoval(_)))
    }

    /// Records the result of writing it. Logs only changes. After a failure, the next commit is due.
    pub(super) fn record(&mut self, result: Result<(), Box<dyn std::error::Error + Send + Sync>>, now: Instant) {
        match result {
            Ok(()) => {
                if self.is_failing {
                    tracing::info!("the copy of the store for backups is written again");
                }
                self.is_failing = false;
                self.written = Some(now);
            }
            Err(error) => {
                self.failed.inc();
                if !self.is_failing {
                    let error: &dyn std::error::Error = &*error;
                    tracing::warn!(error, "cannot write the copy of the store for backups; it gets old");
                }
                self.is_failing = true;
                self.written = None;
            }
        }
    }
}
