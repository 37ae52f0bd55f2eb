//! The members on disk: how a node that starts again finds back without a registry, and knows who is new.

use std::path::Path;

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    record::{NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::private_file;
use serde::{Deserialize, Serialize};

use crate::membership::event::Known;

/// The longest file in bytes: four thousand records of the longest kind, and a beacon.
const MAX_LEN: u64 = 4096 * 600;

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    since: UnixTime,
    members: Vec<(Bytes, UnixTime)>,
    beacon: Option<Bytes>,
}

/// What the last run knew.
#[derive(Debug, Default)]
pub(crate) struct LastRun {
    /// Since when this node has been a member, and others.
    pub(crate) since: Vec<(NodeId, UnixTime)>,
    /// The members' records; many have expired, but where their nodes stood is where most still stand.
    pub(crate) records: Vec<SignedRecord>,
    /// The newest beacon's signed note.
    pub(crate) beacon: Option<Bytes>,
}

/// Reads the file of the last run. One that can't be read is one that isn't there: the registry knows more.
pub(crate) fn load(path: &Path, me: NodeId) -> LastRun {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > MAX_LEN) {
        return LastRun::default();
    }
    let Ok(bytes) = std::fs::read(path) else { return LastRun::default() };
    decode(&bytes, me).unwrap_or_else(|| {
        tracing::warn!(path = %path.display(), "the file of the known members cannot be read; starting without it");
        LastRun::default()
    })
}

fn decode(bytes: &[u8], me: NodeId) -> Option<LastRun> {
    let file = postcard::from_bytes::<File>(bytes).ok()?;
    let mut last = LastRun { since: vec![(me, file.since)], records: Vec::new(), beacon: file.beacon };
    for (bytes, since) in file.members {
        if let Ok(record) = Signed::<NodeRecord>::decode(bytes) {
            last.since.push((record.node, since));
            last.records.push(record);
        }
    }
    Some(last)
}

/// Writes the members down for the next start, unless there are none: a node that is alone keeps what it knew, since it
/// is how it gets back.
pub(crate) fn store(path: &Path, known: Known) {
    if known.members.is_empty() {
        return;
    }
    let members = known.members.into_iter().map(|(record, since)| (record.as_bytes().clone(), since)).collect();
    // Byte strings always encode.
    let Ok(bytes) = postcard::to_allocvec(&File { since: known.since, members, beacon: known.beacon }) else { return };
    if let Err(error) = private_file::write_own(path, &bytes) {
        tracing::warn!(%error, path = %path.display(), "cannot write the known members down");
    }
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::sync::LazyLock;

    use chappe_common::{federation::FederationId, keys::SecretKey};

    use super::*;

    static ME: LazyLock<NodeId> = LazyLock::new(|| SecretKey::from_bytes(&[1; 32]).node_id());
    static OTHER: LazyLock<SignedRecord> = LazyLock::new(|| record(&SecretKey::from_bytes(&[2; 32])));

    pub(crate) fn record(key: &SecretKey) -> SignedRecord {
        let record = NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: key.node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(10),
            expires_at: UnixTime::from_secs(20),
            client_urls: Vec::new(),
            quic_addrs: vec!["192.0.2.1:1".parse().expect("an address")],
            region: String::new(),
            version: String::new(),
            abilities: Default::default(),
        };
        Signed::sign(record, key).expect("a record")
    }

    /// The file of the known members, which holds one record at most that verifies.
    pub const KNOWN: (&str, fn(&[u8]) -> bool) = ("known members", |bytes| {
        let Some(last) = decode(bytes, *ME) else { return false };
        assert!(last.records.iter().all(|kept| *kept == *OTHER));
        last.since.len() == last.records.len() + 1
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chappe_common::keys::SecretKey;

    use super::{fuzzed::record, *};

    #[test]
    fn what_was_written_down_is_read_again_and_a_lone_node_keeps_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("members");
        let (me, other) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let (mine, theirs) = (UnixTime::from_secs(5), UnixTime::from_secs(7));
        store(&path, Known { since: mine, members: vec![(Arc::new(record(&other)), theirs)], beacon: None });
        store(&path, Known { since: UnixTime::from_secs(99), members: Vec::new(), beacon: None });
        let last = load(&path, me.node_id());
        assert_eq!(last.since, [(me.node_id(), mine), (other.node_id(), theirs)]);
        assert_eq!(last.records.len(), 1);
    }

    #[test]
    fn a_broken_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("members");
        for bytes in [&b""[..], b"\xff\xff\xff\xff\xff", b"not a file of members"] {
            std::fs::write(&path, bytes).expect("a writable folder");
            assert!(load(&path, SecretKey::from_bytes(&[1; 32]).node_id()).records.is_empty());
        }
    }

    #[test]
    fn mutated_files_hold_no_record_that_does_not_verify() {
        let members = vec![(record(&SecretKey::from_bytes(&[2; 32])).as_bytes().clone(), UnixTime::from_secs(7))];
        let file = File { since: UnixTime::from_secs(5), members, beacon: Some(Bytes::from_static(b"a beacon")) };
        let valid = [File::default(), file].map(|file| postcard::to_allocvec(&file).expect("owned values encode"));
        chappe_mutations::run(fuzzed::KNOWN, &valid);
    }
}
