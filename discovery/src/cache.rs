//! What a client remembers between searches: nodes, the results of dials, and the newest list of each key.
//!
//! An empty, invalid or forged response of a source never erases anything. A node stays here after its record's
//! `expires_at`: its address and key are still worth a dial, and it has to prove the key again.

mod entries;
mod file;
mod ledger;
mod state;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use chappe_common::{keys::NodeId, private_dir, root_statements::ListOrigin, roots::Roots, time::UnixTime};
use futures_util::future::{self, BoxFuture, FutureExt as _};

#[cfg(any(test, fuzzing))]
pub(crate) use self::file::fuzzed;
pub use self::{
    entries::{MAX_ENTRIES, Purpose},
    file::CacheError,
    ledger::Equivocation,
};
use self::{ledger::ListOrder, state::State};
use crate::{
    private_file,
    source::{Candidate, Source, SourceError, SourceKind, SourceResponse},
    trust::Trust,
};

/// The result of storing a source's response.
#[derive(Debug, Default)]
pub struct LearnResult {
    /// The candidates, except those that only an outdated list names.
    pub candidates: Vec<Candidate>,
    /// Lists that contradict an earlier list with the same number. The proofs are already on disk.
    pub equivocations: Vec<Equivocation>,
}

/// The cache of one federation: in memory, and optionally in a file.
#[derive(Debug)]
pub struct Cache {
    path: Option<PathBuf>,
    pinned: Roots,
    was_damaged: bool,
    state: Mutex<State>,
    /// Serializes writes, so that the newest content is written last.
    write_lock: tokio::sync::Mutex<()>,
}

impl Cache {
    /// A cache without a file: its content is lost when the process ends.
    pub fn in_memory(pinned: impl Into<Roots>) -> Self {
        Self::empty(None, pinned.into())
    }

    fn empty(path: Option<PathBuf>, pinned: Roots) -> Self {
        let state = State::new(pinned.clone().into());
        Self::new(path, pinned, state)
    }

    fn new(path: Option<PathBuf>, pinned: Roots, state: State) -> Self {
        let write_lock = tokio::sync::Mutex::default();
        Self { path, pinned, was_damaged: false, state: Mutex::new(state), write_lock }
    }

    /// Opens the cache of the federation of the pinned roots in the file at `path`. It is empty if the file does not exist,
    /// or belongs to another federation. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be read, or is not a valid cache.
    pub fn open(path: impl Into<PathBuf>, pinned: impl Into<Roots>) -> Result<Self, CacheError> {
        let (path, pinned) = (path.into(), pinned.into());
        match file::read(&path, &pinned) {
            Err(CacheError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::empty(Some(path), pinned))
            }
            read => read.map(|state| Self::new(Some(path), pinned, state)),
        }
    }

    /// As [`Cache::open`], but renames an unusable file and starts with an empty cache: a client can find nodes without
    /// one.
    pub fn open_or_empty(path: impl Into<PathBuf>, pinned: impl Into<Roots>) -> Self {
        let (path, pinned) = (path.into(), pinned.into());
        Self::open(path.clone(), pinned.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot use the node cache: renamed the file, starting with an empty one");
            // If the rename fails, the next write replaces the file.
            let _ = private_dir::set_aside(&path);
            Self { was_damaged: true, ..Self::empty(Some(path), pinned) }
        })
    }

    /// Stores a source's response in memory. [`Cache::flush`] writes it to disk; proofs of equivocation are written at
    /// once.
    ///
    /// # Errors
    /// - [`SourceError::RolledBack`] if all lists are older than known ones.
    /// - [`SourceError::Revoked`] if all lists are signed by revoked keys.
    pub async fn learn(&self, response: SourceResponse, now: UnixTime) -> Result<LearnResult, SourceError> {
        let learned = self.learn_in_memory(response, now)?;
        if let Some(path) = self.path.clone() {
            for proof in learned.equivocations.clone() {
                let path = file::proofs_path(&path);
                write_blocking(move || file::add_proof(&path, &proof)).await;
            }
        }
        Ok(learned)
    }

    fn learn_in_memory(&self, response: SourceResponse, now: UnixTime) -> Result<LearnResult, SourceError> {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        let mut learned = LearnResult { candidates: response.candidates, equivocations: Vec::new() };
        let (mut outdated, mut revoked) = (0, 0);
        let lists = response.lists.len();
        for mut list in response.lists {
            // Checked before the list's number is stored: it would make the lists of the next key look outdated.
            if state.trust.revokes(&list.key) {
                revoked += 1;
                continue;
            }
            match state.ledger.insert_list(&list) {
                ListOrder::New | ListOrder::Known => {}
                ListOrder::RolledBack => {
                    outdated += 1;
                    continue;
                }
                // The nodes prove their own keys anyway. Which list to believe is not decided here.
                ListOrder::Equivocation(proof) => learned.equivocations.push(*proof),
            }
            list.records.retain(|record| record.federation == self.pinned.federation());
            state.entries.learn(&list.candidates, &list.records, now);
            learned.candidates.append(&mut list.candidates);
        }
        match lists {
            0 => Ok(learned),
            _ if revoked == lists => Err(SourceError::Revoked),
            _ if outdated + revoked == lists => Err(SourceError::RolledBack),
            _ => Ok(learned),
        }
    }

    /// The roots and their statements. The value is shared with the cache.
    pub fn trust(&self) -> Trust {
        self.state.lock().expect("nothing panics while the cache is locked").trust.clone()
    }

    /// Records that `node` has proved its key. [`Cache::flush`] writes it to disk.
    pub fn record_proof(&self, node: NodeId, candidate: &Candidate, now: UnixTime) {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        state.entries.record_proof(node, candidate, now);
    }

    /// Records the start of a dial. [`Cache::flush`] writes it to disk.
    pub fn record_dial(&self, candidate: &Candidate, now: UnixTime) {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        state.entries.record_dial(candidate, now);
    }

    /// Whether a candidate may be dialled now. A node that has been silent for a week is dialled a few times a day at most.
    pub fn is_due(&self, candidate: &Candidate, now: UnixTime) -> bool {
        self.state.lock().expect("nothing panics while the cache is locked").entries.is_due(candidate, now)
    }

    /// Records a failed dial. [`Cache::flush`] writes it to disk.
    pub fn record_failure(&self, candidate: &Candidate, now: UnixTime) {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        state.entries.record_failure(candidate, now);
    }

    /// Records that the client begins or ends to use a node. [`Cache::flush`] writes it to disk.
    pub fn record_use(&self, node: NodeId, purpose: Purpose, now: UnixTime) {
        let mut state = self.state.lock().expect("nothing panics while the cache is locked");
        state.entries.record_use(node, purpose, now);
    }

    /// The nodes that the client has used within a day, in this process or in an earlier one.
    pub fn recently_used(&self, purpose: Purpose, now: UnixTime) -> Vec<NodeId> {
        self.state.lock().expect("nothing panics while the cache is locked").entries.recently_used(purpose, now)
    }

    /// Writes the cache to its file. A write error is only logged: the content stays in memory.
    pub async fn flush(&self) {
        let Some(path) = self.path.clone() else { return };
        let _write_lock = self.write_lock.lock().await;
        let mut state = self.state.lock().expect("nothing panics while the cache is locked").clone();
        let pinned = self.pinned.clone();
        write_blocking(move || {
            // Another process with the same profile may have written in the meantime. Merge its content instead of
            // losing it.
            let _lock = file::lock(&path)?;
            if let Ok(others) = file::read(&path, &pinned) {
                state.entries.merge(others.entries);
                others.ledger.lists().for_each(|list| state.ledger.restore(&list));
                state.trust.learn(others.trust.all().all(), ListOrigin::Stored);
            }
            private_file::write_own(&path, &file::encode(&state, pinned.federation()))
        })
        .await;
    }

    /// The nodes that have recently proved their keys, each with one URL.
    pub fn nodes(&self, now: UnixTime) -> Vec<(NodeId, String)> {
        let state = self.state.lock().expect("nothing panics while the cache is locked");
        state.entries.recently_proven(now).map(|(node, url)| (node, url.to_owned())).collect()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.state.lock().expect("nothing panics while the cache is locked").entries.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a recent list is known, so that sources need not be queried again.
    pub fn is_fresh(&self, now: UnixTime) -> bool {
        self.state.lock().expect("nothing panics while the cache is locked").ledger.is_fresh(now)
    }

    /// Whether the file was damaged when it was opened, and renamed.
    pub const fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    /// The path of the file, or `None` for a cache in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

async fn write_blocking(write: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
        tracing::warn!(%error, "cannot write the node cache");
    }
}

impl Source for Cache {
    fn kind(&self) -> SourceKind {
        SourceKind::Cache
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        let state = self.state.lock().expect("nothing panics while the cache is locked");
        let candidates = state.entries.candidates(now);
        future::ready(Ok(SourceResponse { candidates, ..SourceResponse::default() })).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use chappe_common::{
        keys::SecretKey,
        record::{Abilities, NodeRecord, SignedRecord},
        signed::Signed,
    };

    use super::*;
    use crate::source::{ListForm, SignedList};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn roots() -> Roots {
        Roots::default()
    }

    fn record(seed: u32, seq: u64) -> SignedRecord {
        let mut bytes = [1; 32];
        bytes[..4].copy_from_slice(&seed.to_le_bytes());
        let key = SecretKey::from_bytes(&bytes);
        let record = NodeRecord {
            federation: roots().federation(),
            node: key.node_id(),
            epoch: 1,
            seq,
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(60),
            client_urls: vec![format!("ws://127.0.0.1:{}", 1000 + seed + u32::try_from(seq).expect("small"))],
            quic_addrs: vec!["127.0.0.1:1".parse().expect("an address")],
            region: String::new(),
            version: "0".to_owned(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, &key).expect("a record")
    }

    fn listing(records: Vec<SignedRecord>, seq: u64) -> SourceResponse {
        let list = SignedList {
            form: ListForm::Directory,
            key: SecretKey::from_bytes(&[9; 32]).public(),
            seq,
            part: (0, 1),
            issued_at: NOW,
            bytes: Bytes::from(format!("{seq} {}", records.len())),
            candidates: records.iter().flat_map(|record| Candidate::of_record(record, SourceKind::Registry)).collect(),
            records,
        };
        SourceResponse { lists: vec![list], ..SourceResponse::default() }
    }

    async fn urls(cache: &Cache, now: UnixTime) -> Vec<String> {
        let response = cache.list(now).await.expect("the cache always answers");
        response.candidates.into_iter().map(|candidate| candidate.url).collect()
    }

    #[tokio::test]
    async fn a_reopened_cache_knows_the_nodes_and_refuses_an_older_directory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        let cache = Cache::open(&path, roots()).expect("no file is an empty cache");
        assert!(!cache.is_fresh(NOW));
        cache.learn(listing(vec![record(1, 1)], 20), NOW).await.expect("a first directory");
        let worked = Candidate::new("ws://127.0.0.1:1002", Some(record(1, 1).node), SourceKind::Invite);
        cache.record_proof(record(1, 1).node, &worked, NOW);
        cache.flush().await;
        let cache = Cache::open(&path, roots()).expect("the file that was written");
        assert!(cache.is_fresh(NOW));
        let known = cache.list(NOW).await.expect("the cache always answers").candidates.remove(0);
        assert_eq!((known.url.as_str(), known.source), ("ws://127.0.0.1:1002", SourceKind::Cache));
        assert!(known.weight > crate::source::UNKNOWN_WEIGHT);
        assert_eq!(known.origins.iter().collect::<Vec<_>>(), [SourceKind::Registry, SourceKind::Invite]);
        let older = cache.learn(listing(vec![record(2, 1)], 19), NOW).await;
        assert_eq!(older.map(|learned| learned.candidates), Err(SourceError::RolledBack));
        assert!(cache.learn(listing(vec![record(1, 1)], 20), NOW).await.is_ok(), "the same directory again");
        assert_eq!(urls(&cache, NOW).await.len(), 1, "a refused directory teaches nothing");
        let other = Cache::open(&path, [SecretKey::from_bytes(&[8; 32]).public()]);
        assert!(other.expect("a cache").is_empty(), "another federation's");
    }

    #[tokio::test]
    async fn a_stalled_process_with_the_lock_causes_a_short_delay_and_no_loss() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        let cache = Cache::open(&path, roots()).expect("no file is an empty cache");
        cache.learn(listing(vec![record(1, 1)], 20), NOW).await.expect("a directory");
        let held = file::lock(&path).expect("nobody else has it");
        let flushed = tokio::time::timeout(Duration::from_secs(10), cache.flush()).await;
        assert!(flushed.is_ok() && !path.exists());
        drop(held);
        cache.flush().await;
        assert_eq!(Cache::open(&path, roots()).expect("the file that was written").len(), 1);
    }

    #[tokio::test]
    async fn two_directories_of_one_number_are_stored_as_proof_and_reported() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        let cache = Cache::open(&path, roots()).expect("no file is an empty cache");
        cache.learn(listing(vec![record(1, 1)], 20), NOW).await.expect("a first directory");
        cache.flush().await;
        let cache = Cache::open(&path, roots()).expect("the file that was written");
        let learned = cache.learn(listing(vec![record(2, 1), record(3, 1)], 20), NOW).await.expect("another");
        assert_eq!(learned.equivocations.len(), 1);
        let read = || -> Vec<serde_json::Value> {
            let text = std::fs::read(folder.path().join("nodes.json.proofs")).expect("a file of proofs");
            serde_json::from_slice(&text).expect("JSON")
        };
        assert_eq!((read().len(), &read()[0]["seq"]), (1, &serde_json::json!(20)));
        for n in 4..12 {
            let records = (0..n).map(|n| record(n, 1)).collect();
            cache.learn(listing(records, 20), NOW).await.expect("more of them");
        }
        assert_eq!(read().len(), 4, "their number is bounded");
    }

    #[tokio::test]
    async fn an_empty_directory_removes_nothing_from_the_cache() {
        let cache = Cache::in_memory(roots());
        cache.learn(listing(vec![record(1, 1)], 20), NOW).await.expect("a first directory");
        cache.learn(listing(Vec::new(), 21), NOW).await.expect("a directory without records");
        assert_eq!(urls(&cache, NOW + Duration::from_secs(3600)).await.len(), 1, "an expired record is still a hint");
        assert!(urls(&cache, NOW + entries::MAX_AGE).await.is_empty(), "but not for ever");
    }

    #[tokio::test]
    async fn the_cache_keeps_the_newest_record_of_a_node_and_a_bounded_number_of_nodes() {
        let cache = Cache::in_memory(roots());
        cache.learn(listing(vec![record(1, 5), record(1, 4)], 1), NOW).await.expect("two records of one node");
        assert_eq!(urls(&cache, NOW).await, ["ws://127.0.0.1:1006"]);
        let many = (0..300).map(|seed| record(seed, 9)).collect();
        cache.learn(listing(many, 2), NOW).await.expect("many records");
        assert_eq!((urls(&cache, NOW).await.len(), cache.len()), (MAX_ENTRIES, MAX_ENTRIES));
    }

    #[tokio::test]
    async fn a_damaged_file_is_reported_and_renamed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("nodes.json");
        for content in ["", "{}", "{\"version\":3,\"federation\":\"\",\"nodes\":[],\"lists\":[]}"] {
            std::fs::write(&path, content).expect("a file");
            assert!(matches!(Cache::open(&path, roots()), Err(CacheError::Damaged)), "{content}");
        }
        let cache = Cache::open_or_empty(&path, roots());
        assert!(cache.was_damaged() && folder.path().join("nodes.json.damaged").exists());
        cache.learn(listing(vec![record(1, 1)], 1), NOW).await.expect("a directory");
        cache.flush().await;
        assert!(Cache::open(&path, roots()).is_ok(), "the next write mends the file");
    }
}
