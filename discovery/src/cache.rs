//! What is remembered between searches: verified records, and how new the newest directory of each key was.
//!
//! An empty or broken answer of a source never erases anything. A record outlives its `expires_at` here: as an address
//! and a key it is still worth a dial, and the node proves its key anew.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    directory::MAX_NODES,
    federation::FederationId,
    keys::{NodeId, PublicKey},
    record::{NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use futures_util::future::{self, BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};

use crate::{
    private_file,
    source::{Candidate, Listing, Source, SourceError, SourceKind},
};

/// The most records that are kept: enough to find one alive after a month, 180 KB on disk.
pub const MAX_ENTRIES: usize = 256;
/// How long after its signing a record is kept. Servers rarely keep an address for longer than they are rented.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most directory keys whose `seq` is remembered; a root delegates to one or two at a time.
const MAX_KEYS: usize = 16;
/// The largest cache file that is read.
const MAX_FILE: u64 = 1024 * 1024;
const _: () = assert!(MAX_ENTRIES <= MAX_NODES);

/// Why the cache file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk says no.
    #[error("cannot use the cache file")]
    Io(#[from] io::Error),
    /// The file is not a cache. It is left as it is until the next write.
    #[error("the cache file is damaged")]
    Damaged,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    version: u32,
    seqs: Vec<(String, u64)>,
    records: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    seqs: BTreeMap<PublicKey, u64>,
    records: BTreeMap<NodeId, SignedRecord>,
}

/// The cache: in memory, and in a file where it was given one.
#[derive(Debug)]
pub struct Cache {
    path: Option<PathBuf>,
    federation: FederationId,
    state: Mutex<State>,
}

impl Cache {
    /// A cache of one federation's nodes that is forgotten with the process.
    pub fn in_memory(federation: FederationId) -> Self {
        Self { path: None, federation, state: Mutex::default() }
    }

    /// The cache of one federation's nodes in the file at `path`; empty where there is no such file yet. Records of
    /// other federations that the file may hold are passed over. Blocks on the disk.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is no cache.
    pub fn open(path: impl Into<PathBuf>, federation: FederationId) -> Result<Self, CacheError> {
        let path = path.into();
        let state = match read(&path) {
            Ok(mut state) => {
                state.records.retain(|_, record| record.federation == federation);
                state
            }
            Err(CacheError::Io(error)) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: Some(path), federation, state: Mutex::new(state) })
    }

    /// The same, but a file that cannot be used is passed over: a client that cannot remember still finds a node.
    pub fn open_or_empty(path: impl Into<PathBuf>, federation: FederationId) -> Self {
        let path = path.into();
        Self::open(path.clone(), federation).unwrap_or_else(|error| {
            tracing::warn!(%error, "starting with an empty cache of nodes");
            Self { path: Some(path), federation, state: Mutex::default() }
        })
    }

    /// Takes what a source has found, and writes it down. Returns the listing, or refuses one whose directory is older
    /// than one that was seen before.
    ///
    /// # Errors
    /// [`SourceError::RolledBack`]. A disk that cannot be written is logged and costs nothing but the memory.
    pub async fn remember(&self, listing: Listing, now: UnixTime) -> Result<Listing, SourceError> {
        let (Some(path), content) = (self.path.clone(), self.learn(&listing, now)?) else { return Ok(listing) };
        if let Some(content) = content {
            let written = tokio::task::spawn_blocking(move || private_file::write(&path, &content)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "cannot write the cache of nodes");
            }
        }
        Ok(listing)
    }

    /// The nodes whose records count at `now`, with a URL of each.
    pub fn nodes(&self, now: UnixTime) -> Vec<(NodeId, String)> {
        let state = self.state.lock().expect("nothing panics while the cache is locked");
        let current = state.records.values().filter(|record| record.expires_at > now);
        current.filter_map(|record| Some((record.node, record.client_urls.first()?.clone()))).collect()
    }

    /// The file's new content, where anything has changed.
    fn learn(&self, listing: &Listing, now: UnixTime) -> Result<Option<Vec<u8>>, SourceError> {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        let mut changed = false;
        if let Some((key, seq)) = listing.directory {
            match state.seqs.get(&key) {
                Some(&seen) if seq < seen => return Err(SourceError::RolledBack),
                Some(&seen) if seq == seen => {}
                _ => {
                    state.seqs.insert(key, seq);
                    changed = true;
                }
            }
            while state.seqs.len() > MAX_KEYS {
                let oldest = state.seqs.iter().min_by_key(|(_, seq)| **seq).map(|(key, _)| *key);
                oldest.and_then(|key| state.seqs.remove(&key));
            }
        }
        for record in listing.records.iter().filter(|record| record.federation == self.federation) {
            if state.records.get(&record.node).is_none_or(|known| record.supersedes(known)) {
                state.records.insert(record.node, record.clone());
                changed = true;
            }
        }
        state.records.retain(|_, record| record.issued_at + MAX_AGE > now);
        while state.records.len() > MAX_ENTRIES {
            let oldest = state.records.values().min_by_key(|record| record.issued_at).map(|record| record.node);
            oldest.and_then(|node| state.records.remove(&node));
        }
        Ok(changed.then(|| encode(&state)))
    }
}

impl Source for Cache {
    fn kind(&self) -> SourceKind {
        SourceKind::Cache
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>> {
        let state = self.state.lock().expect("nothing panics while the cache is locked");
        let records = state.records.values().filter(|record| record.issued_at + MAX_AGE > now);
        let candidates = records.flat_map(|record| Candidate::of_record(record, SourceKind::Cache)).collect();
        future::ready(Ok(Listing { candidates, ..Listing::default() })).boxed()
    }
}

fn encode(state: &State) -> Vec<u8> {
    let file = File {
        version: 1,
        seqs: state.seqs.iter().map(|(key, seq)| (key.to_base64url(), *seq)).collect(),
        records: state.records.values().map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes())).collect(),
    };
    serde_json::to_vec(&file).expect("strings and numbers are JSON")
}

fn read(path: &Path) -> Result<State, CacheError> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(CacheError::Damaged);
    }
    let file: File = serde_json::from_slice(&std::fs::read(path)?).map_err(|_| CacheError::Damaged)?;
    if file.version != 1 {
        return Err(CacheError::Damaged);
    }
    let mut state = State::default();
    for (key, seq) in file.seqs.into_iter().take(MAX_KEYS) {
        state.seqs.insert(key.parse().map_err(|_| CacheError::Damaged)?, seq);
    }
    // The signature is checked again: a file that someone else could write must not name a node.
    for text in file.records.into_iter().take(MAX_ENTRIES) {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CacheError::Damaged)?;
        let record = Signed::<NodeRecord>::decode(bytes).map_err(|_| CacheError::Damaged)?;
        state.records.insert(record.node, record);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use chappe_common::{keys::SecretKey, record::Abilities};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn federation() -> FederationId {
        FederationId::of_roots(&[])
    }

    fn record(seed: u32, seq: u64) -> SignedRecord {
        let mut bytes = [1; 32];
        bytes[..4].copy_from_slice(&seed.to_le_bytes());
        let key = SecretKey::from_bytes(&bytes);
        let record = NodeRecord {
            federation: federation(),
            node: key.node_id(),
            epoch: 1,
            seq,
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(60),
            client_urls: vec![format!("ws://127.0.0.1:{}", 1000 + seed)],
            quic_addrs: vec!["127.0.0.1:1".parse().expect("an address")],
            region: String::new(),
            version: "0".to_owned(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, &key).expect("a record")
    }

    fn listing(records: Vec<SignedRecord>, seq: u64) -> Listing {
        let key = SecretKey::from_bytes(&[9; 32]).public();
        Listing { candidates: Vec::new(), records, directory: Some((key, seq)) }
    }

    async fn urls(cache: &Cache, now: UnixTime) -> Vec<String> {
        let listing = cache.list(now).await.expect("the cache always answers");
        listing.candidates.into_iter().map(|candidate| candidate.url).collect()
    }

    #[tokio::test]
    async fn a_reopened_cache_knows_the_nodes_and_refuses_an_older_directory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        let cache = Cache::open(&path, federation()).expect("no file is an empty cache");
        cache.remember(listing(vec![record(1, 1)], 20), NOW).await.expect("a first directory");
        let cache = Cache::open(&path, federation()).expect("the file that was written");
        assert_eq!(urls(&cache, NOW).await, ["ws://127.0.0.1:1001"]);
        assert_eq!(
            cache.remember(listing(vec![record(2, 1)], 19), NOW).await.map(|_| ()),
            Err(SourceError::RolledBack)
        );
        assert!(cache.remember(listing(vec![record(1, 1)], 20), NOW).await.is_ok(), "the same directory again");
        assert_eq!(urls(&cache, NOW).await.len(), 1, "a refused directory teaches nothing");
    }

    #[tokio::test]
    async fn nothing_is_forgotten_because_a_source_names_nobody() {
        let cache = Cache::in_memory(federation());
        cache.remember(listing(vec![record(1, 1)], 20), NOW).await.expect("a first directory");
        cache.remember(listing(Vec::new(), 21), NOW).await.expect("a directory without records");
        assert_eq!(urls(&cache, NOW + Duration::from_secs(3600)).await.len(), 1, "an expired record is still a hint");
        assert!(urls(&cache, NOW + MAX_AGE).await.is_empty(), "but not for ever");
    }

    #[tokio::test]
    async fn the_cache_keeps_the_newest_record_of_a_node_and_a_bounded_number_of_nodes() {
        let cache = Cache::in_memory(federation());
        cache.remember(listing(vec![record(1, 5), record(1, 4)], 1), NOW).await.expect("two records of one node");
        let state = cache.state.lock().expect("a lock").records.values().map(|record| record.seq).collect::<Vec<_>>();
        assert_eq!(state, [5]);
        let many = (0..300).map(|seed| record(seed, 9)).collect();
        cache.remember(listing(many, 2), NOW).await.expect("many records");
        assert_eq!(urls(&cache, NOW).await.len(), MAX_ENTRIES);
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        for content in [
            "",
            "{}",
            "{\"version\":2,\"seqs\":[],\"records\":[]}",
            "{\"version\":1,\"seqs\":[],\"records\":[\"AAAA\"]}",
        ] {
            std::fs::write(&path, content).expect("a file");
            assert!(matches!(Cache::open(&path, federation()), Err(CacheError::Damaged)), "{content}");
        }
        let cache = Cache::open_or_empty(&path, federation());
        cache.remember(listing(vec![record(1, 1)], 1), NOW).await.expect("a directory");
        assert!(Cache::open(&path, federation()).is_ok(), "the next write mends the file");
    }
}
