//! The members on disk. With this file, a restarted node finds the federation without a registry, and knows which
//! members are new.

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

use crate::{membership::event::Known, state_file};

/// Maximum length of the file in bytes: 4096 records of maximum length, and a beacon.
const MAX_LEN: u64 = 4096 * 600;

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    since: UnixTime,
    members: Vec<(Bytes, UnixTime)>,
    beacon: Option<Bytes>,
}

/// The state of the last run.
#[derive(Debug, Default)]
pub(crate) struct LastRun {
    /// Since when this node and others have been members.
    pub(crate) since: Vec<(NodeId, UnixTime)>,
    /// The members' records. Many have expired, but most nodes still have the same address.
    pub(crate) records: Vec<SignedRecord>,
    /// The newest signed beacon.
    pub(crate) beacon: Option<Bytes>,
}

/// Reads the file. A damaged file counts as a missing one: the registry knows more.
pub(crate) fn load(path: &Path, me: NodeId) -> LastRun {
    let consequence = "starting without known members; the registry names some";
    state_file::load(path, MAX_LEN, consequence, |bytes| decode(&bytes, me)).unwrap_or_default()
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

/// Writes the file, unless there are no members: a node that is alone needs its former members to rejoin.
pub(crate) fn store(path: &Path, known: Known) {
    if known.members.is_empty() {
        return;
    }
    let members = known.members.into_iter().map(|(record, since)| (record.as_bytes().clone(), since)).collect();
    // Encoding byte strings cannot fail.
    let Ok(bytes) = postcard::to_allocvec(&File { since: known.since, members, beacon: known.beacon }) else { return };
    if let Err(error) = private_file::write_own(path, &bytes) {
        tracing::warn!(%error, path = %path.display(), "cannot write the file of known members");
    }
}

/// Properties that tests and the fuzzer check for every input.
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

    /// A members file, with at most one record that verifies.
    pub const KNOWN: (&str, fn(&[u8]) -> bool) = ("known members", |bytes| {
        let Some(last) = decode(bytes, *ME) else { return false };
        assert!(last.records.iter().all(|record| *record == *OTHER));
        last.since.len() == last.records.len() + 1
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chappe_common::keys::SecretKey;

    use super::{fuzzed::record, *};

    #[test]
    fn the_file_is_read_again_and_a_lone_node_does_not_overwrite_it() {
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
    fn a_broken_file_counts_as_missing() {
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
