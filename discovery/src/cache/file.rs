//! The cache's file and its file of proofs: JSON of bounded size, replaced atomically.

use std::{
    fs::{self, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    record::{MAX_ADDRESSES, NodeRecord, is_client_url},
    revocation::MAX_REVOCATIONS,
    root_statements::{ListOrigin, RootStatement},
    roots::{MAX_SUCCESSIONS, Roots},
    signed::Signed,
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

use super::{
    entries::{MAX_ENTRIES, NodeEntry},
    ledger::Equivocation,
    state::State,
};
use crate::{
    private_file,
    source::{ListForm, SignedList, SourceKind},
};

/// Maximal size of the cache file: twice that of a full cache with the longest directory in base64.
const MAX_FILE: u64 = 2 * 1024 * 1024;
/// Maximal number of proofs. One is enough to discredit a key.
const MAX_PROOFS: usize = 4;
/// Maximal size of the file of proofs: two of the longest directories in base64 for each proof.
const MAX_PROOF_FILE: u64 = 8 * 1024 * 1024;
/// Number of attempts, and the pause between them, to lock the file. A write takes a few milliseconds. Without the
/// lock, the next flush writes the content.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// Maximal number of stored statements of roots.
const MAX_STATEMENTS: usize = MAX_SUCCESSIONS + MAX_REVOCATIONS;
const VERSION: u32 = 2;

/// Why the cache file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file cannot be read or written.
    #[error("cannot use the cache file")]
    Io(#[from] io::Error),
    /// The file is not a cache of this version.
    #[error("the cache file is damaged")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    federation: String,
    nodes: Vec<NodeForm>,
    lists: Vec<ListEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revocations: Vec<String>,
    /// A field of its own, because an earlier version takes a file with another statement among the revocations for a
    /// damaged one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    successions: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct NodeForm {
    node: NodeId,
    urls: Vec<String>,
    record: Option<String>,
    origins: Vec<SourceKind>,
    seen_at: UnixTime,
    proven_at: Option<UnixTime>,
    successes: u32,
    failures: u32,
    failed_at: UnixTime,
    /// Missing in older files.
    #[serde(default)]
    dialled_at: UnixTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pairing_at: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inboxes_at: Option<UnixTime>,
}

#[derive(Serialize, Deserialize)]
struct ListEntry {
    form: ListForm,
    key: PublicKey,
    seq: u64,
    part: (u16, u16),
    issued_at: UnixTime,
    bytes: String,
}

/// Two contradicting lists, as stored in the file.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct ProofForm {
    form: ListForm,
    key: PublicKey,
    seq: u64,
    part: (u16, u16),
    first: String,
    second: String,
}

pub(super) fn encode(state: &State, federation: FederationId) -> Vec<u8> {
    let nodes = state.entries.iter().map(|(node, entry)| NodeForm {
        node: *node,
        urls: entry.urls.clone(),
        record: entry.record.as_ref().map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes())),
        origins: entry.origins.iter().collect(),
        seen_at: entry.seen_at,
        proven_at: entry.proven_at,
        successes: entry.successes,
        failures: entry.failures,
        failed_at: entry.failed_at,
        dialled_at: entry.dialled_at,
        pairing_at: entry.pairing_at,
        inboxes_at: entry.inboxes_at,
    });
    let lists = state.ledger.lists().map(|list| ListEntry {
        form: list.form,
        key: list.key,
        seq: list.seq,
        part: list.part,
        issued_at: list.issued_at,
        bytes: URL_SAFE_NO_PAD.encode(&list.bytes),
    });
    let statements = state.trust.all();
    let file = File {
        version: VERSION,
        federation: federation.to_string(),
        nodes: nodes.collect(),
        lists: lists.collect(),
        revocations: statements.revocations.iter().map(|one| URL_SAFE_NO_PAD.encode(one.as_bytes())).collect(),
        successions: statements.roots.successions().iter().map(|one| URL_SAFE_NO_PAD.encode(one.as_bytes())).collect(),
    };
    serde_json::to_vec(&file).expect("strings and numbers are JSON")
}

/// Reads the file. The result is empty if the file belongs to another federation.
pub(super) fn read(path: &Path, pinned: &Roots) -> Result<State, CacheError> {
    let content = match private_file::read_own(path, MAX_FILE) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(CacheError::Damaged),
        read => read?,
    };
    decode(&content, pinned)
}

fn decode(bytes: &[u8], pinned: &Roots) -> Result<State, CacheError> {
    let file: File = serde_json::from_slice(bytes).map_err(|_| CacheError::Damaged)?;
    if file.version != VERSION {
        return Err(CacheError::Damaged);
    }
    let mut state = State::new(pinned.clone().into());
    if file.federation != pinned.federation().to_string() {
        return Ok(state);
    }
    for form in file.nodes.into_iter().take(MAX_ENTRIES) {
        let node = form.node;
        state.entries.insert(node, decode_entry(form).ok_or(CacheError::Damaged)?);
    }
    for list in file.lists {
        let bytes = URL_SAFE_NO_PAD.decode(&list.bytes).map_err(|_| CacheError::Damaged)?;
        state.ledger.restore(&SignedList {
            form: list.form,
            key: list.key,
            seq: list.seq,
            part: list.part,
            issued_at: list.issued_at,
            bytes: bytes.into(),
            candidates: Vec::new(),
            records: Vec::new(),
        });
    }
    let statements = file.successions.iter().chain(&file.revocations).take(MAX_STATEMENTS).map(|text| {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CacheError::Damaged)?;
        RootStatement::decode(bytes).map_err(|_| CacheError::Damaged)
    });
    let statements = statements.collect::<Result<Vec<_>, _>>()?;
    state.trust.learn(statements, ListOrigin::Stored);
    Ok(state)
}

fn decode_entry(form: NodeForm) -> Option<NodeEntry> {
    if form.urls.len() > MAX_ADDRESSES || !form.urls.iter().all(|url| is_client_url(url)) {
        return None;
    }
    // Verify the signature again, because any program may have written the file.
    let record = match form.record {
        Some(text) => Some(Signed::<NodeRecord>::decode(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?),
        None => None,
    };
    Some(NodeEntry {
        urls: form.urls,
        record: record.filter(|record| record.node == form.node),
        origins: form.origins.into_iter().collect(),
        seen_at: form.seen_at,
        proven_at: form.proven_at,
        successes: form.successes.min(u32::from(u8::MAX)),
        failures: form.failures.min(u32::from(u8::MAX)),
        failed_at: form.failed_at,
        dialled_at: form.dialled_at,
        pairing_at: form.pairing_at,
        inboxes_at: form.inboxes_at,
    })
}

/// Locks the cache against writes by other processes until the result is dropped. Gives up after [`LOCK_TRIES`],
/// because a search waits for this and the other process may hang.
pub(super) fn lock(path: &Path) -> io::Result<fs::File> {
    let lock = private_file::open_lock(&sibling_path(path, "lock"))?;
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// The path of a cache's file of proofs.
pub(super) fn proofs_path(path: &Path) -> PathBuf {
    sibling_path(path, "proofs")
}

fn sibling_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// Adds a proof, up to [`MAX_PROOFS`]. Blocks on the disk.
pub(super) fn add_proof(path: &Path, proof: &Equivocation) -> io::Result<()> {
    let encode = |bytes: &Bytes| URL_SAFE_NO_PAD.encode(bytes);
    let form = ProofForm {
        form: proof.form,
        key: proof.key,
        seq: proof.seq,
        part: proof.part,
        first: encode(&proof.first),
        second: encode(&proof.second),
    };
    let mut proofs: Vec<ProofForm> = match fs::metadata(path) {
        Ok(found) if found.len() <= MAX_PROOF_FILE => serde_json::from_slice(&fs::read(path)?).unwrap_or_default(),
        _ => Vec::new(),
    };
    if proofs.len() < MAX_PROOFS && !proofs.contains(&form) {
        proofs.push(form);
        private_file::write_own(path, &serde_json::to_vec(&proofs).expect("strings and numbers are JSON"))?;
    }
    Ok(())
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// The roots of the test inputs.
    pub(super) fn roots() -> Roots {
        Roots::default()
    }

    /// Decodes the cache's file.
    pub const CACHE: (&str, fn(&[u8]) -> bool) = ("cache", |bytes| {
        let Ok(state) = decode(bytes, &roots()) else { return false };
        assert!(state.entries.len() <= MAX_ENTRIES);
        let written = encode(&state, roots().federation());
        let again = decode(&written, &roots()).expect("what was read can be written");
        assert_eq!(encode(&again, roots().federation()), written);
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn mutated_files_read_as_they_are_written() {
        let (key, federation) = (SecretKey::from_bytes(&[1; 32]), fuzzed::roots().federation());
        let at = UnixTime::from_secs(1_800_000_000);
        let mut state = State::default();
        let entry = NodeEntry {
            urls: vec!["wss://relay.example".to_owned()],
            record: None,
            origins: [SourceKind::Dns, SourceKind::Invite].into_iter().collect(),
            seen_at: at,
            proven_at: Some(at),
            successes: 3,
            failures: 1,
            failed_at: at,
            dialled_at: at,
            pairing_at: Some(at),
            inboxes_at: None,
        };
        state.entries.insert(key.node_id(), entry);
        let (candidates, records) = (Vec::new(), Vec::new());
        state.ledger.restore(&SignedList {
            form: ListForm::Shard,
            key: key.public(),
            seq: 7,
            part: (0, 1),
            issued_at: at,
            bytes: Bytes::from_static(b"a list"),
            candidates,
            records,
        });
        let corpus = [encode(&state, federation), encode(&State::default(), federation)];
        chappe_mutations::run(fuzzed::CACHE, &corpus);
    }
}
