//! One suite for both stores, and tests for a shared store.

use std::{net::Ipv4Addr, time::Duration};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    list_request::Load,
    reachability::{DoorFault, Outcome},
    record::{Abilities, NodeLeave, NodeRecord},
    removal::NodeRemoval,
    signed::Signed,
};

use super::*;
use crate::rules::{DoorGrace, DoorHistory, DoorTry, Fault, Listing, Millis, ProbeHistory, StoredLeave, StoredRemoval};

#[path = "../../tests/registry/postgres.rs"]
mod server;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn id(seed: u8) -> NodeId {
    key(seed).node_id()
}

fn federation() -> FederationId {
    FederationId::of_roots(&[key(99).public()])
}

fn list(seed: u8, seq: u64) -> Change {
    let record = NodeRecord {
        federation: federation(),
        node: id(seed),
        epoch: 1,
        seq,
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(600),
        client_urls: Vec::new(),
        quic_addrs: vec![([192, 0, 2, 1], 1).into()],
        region: "eu-west".to_owned(),
        version: "1".to_owned(),
        abilities: Abilities::default(),
    };
    Change::List(Box::new(Listing {
        record: Signed::sign(record, &key(seed)).expect("a record within its bounds"),
        registered_at: Millis(1),
        last_seen: Millis(2),
        proved: Ipv4Addr::new(192, 0, 2, 1).into(),
        probes: ProbeHistory::after_registration(Millis(3), Duration::from_secs(300)).with_result(
            false,
            Millis(4),
            Duration::from_secs(300),
            0.5,
        ),
        load: Load::Busy,
        asked: 5,
        door: DoorHistory::default().with_result(
            DoorTry::Fails(Fault {
                fault: DoorFault { place: 1, outcome: Outcome::CertificateExpired },
                expired_at: Some(NOW),
            }),
            Millis(5),
            DoorGrace { time: Duration::from_secs(900), longest_pause: Duration::from_secs(300) },
            false,
        ),
    }))
}

fn keep_leave(seed: u8) -> Change {
    let leave = NodeLeave { federation: federation(), node: id(seed), epoch: 1, seq: 1, issued_at: NOW };
    let leave = Signed::sign(leave, &key(seed)).expect("a leave within its bounds");
    Change::StoreLeave(StoredLeave { leave, until: NOW + Duration::from_secs(60) })
}

fn keep_removal(seed: u8) -> Change {
    let (federation, signer, until) = (federation(), key(99).public(), NOW + Duration::from_secs(60));
    let removal = NodeRemoval { federation, signer, node: id(seed), issued_at: NOW, until };
    let removal = Signed::sign(removal, &key(99)).expect("a removal within its bounds");
    Change::StoreRemoval(StoredRemoval { removal, until: NOW + Duration::from_secs(70) })
}

fn head(seq: u64) -> SignedDirectory {
    let bundle = Bytes::copy_from_slice(&seq.to_le_bytes());
    SignedDirectory { seq, issued_at: NOW, expires_at: NOW + Duration::from_secs(9), bundle }
}

#[test]
fn a_listing_that_an_earlier_version_has_stored_is_read() {
    let Change::List(listing) = list(1, 1) else { panic!("a listing") };
    let change = Change::List(Box::new(Listing { door: DoorHistory::default(), ..*listing }));
    // Each of the seven fields of a door that was never tried takes a byte. Earlier versions stored none, or the first six.
    for missing in [7, 1] {
        let mut entry = entry::StoreEntry::from_change(&change);
        let body = entry.body.as_mut().expect("a body");
        body.truncate(body.len() - missing);
        assert_eq!(entry.to_change(), Some(change.clone()), "{missing}");
    }
}

#[tokio::test]
async fn damaged_entries_are_reported_kept_aside_and_left_out_of_backups() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut store = Embedded::open(dir.path(), Counter::default()).expect("a store");
    let changes = [list(1, 1), list(2, 1), keep_removal(3)];
    store.commit(Version(1), &changes, Some(&head(10))).await.expect("a commit");
    drop(store);
    embedded::alter(dir.path(), |kind, node, body| match (kind, node) {
        // One history that is cut, and one removal that is not signed by its signer any more.
        (0, node) if node == *id(1).as_bytes() => body.truncate(body.len() - 3),
        (2, _) => body[30] ^= 1,
        _ => {}
    });

    let mut store = Embedded::open(dir.path(), Counter::default()).expect("a store");
    let update = store.read_updates(None).await.expect("readable").expect("all of it");
    assert_eq!((update.damaged, update.lost_door_histories, update.changes.len()), (1, 1, 2));
    let listings = update.changes.iter().filter_map(|change| match change {
        Change::List(listing) => Some(listing),
        _ => None,
    });
    let lost: Vec<_> = listings.filter(|listing| listing.door == DoorHistory::default()).collect();
    assert_eq!(lost.iter().map(|listing| listing.record.node).collect::<Vec<_>>(), [id(1)]);
    let aside = std::fs::read(dir.path().join("registry.redb.damaged")).expect("a copy");
    assert!(Snapshot::decode(&aside).is_err(), "it has what is damaged");
    store.commit(update.version, &[list(4, 1)], None).await.expect("a commit");
    let backup = Snapshot::decode(&read_snapshot(dir.path()).expect("a copy for backups")).expect("a valid one");
    assert_eq!(backup.entries().len(), 3);
}

#[tokio::test]
async fn a_lost_or_emptied_store_leaves_its_copy_for_backups() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut store = Embedded::open(dir.path(), Counter::default()).expect("a store");
    store.commit(Version(1), &[keep_removal(3)], None).await.expect("a commit");
    drop(store);
    let copy = read_snapshot(dir.path()).expect("a copy for backups");
    let damages: [fn(&std::path::Path); 2] = [
        |file| std::fs::write(file, b"").expect("a writable folder"),
        |file| std::fs::remove_file(file).expect("a writable folder"),
    ];
    for damage in damages {
        damage(&dir.path().join("registry.redb"));
        std::fs::write(dir.path().join("registry.snapshot"), &copy).expect("a writable folder");
        let mut store = Embedded::open(dir.path(), Counter::default()).expect("a new store");
        store.commit(Version(1), &[list(1, 1)], None).await.expect("a commit");
        let kept = std::fs::read(dir.path().join("registry.snapshot.damaged")).expect("the copy");
        assert_eq!(kept, copy);
        assert_ne!(read_snapshot(dir.path()).expect("a new copy"), copy);
    }
}

#[tokio::test]
async fn a_failed_copy_for_backups_is_counted_and_written_with_the_next_commit() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let failed = Counter::default();
    let mut store = Embedded::open(dir.path(), failed.clone()).expect("a store");
    // A folder in place of the file stands for a disk that is full: it cannot be replaced by a file.
    let copy = dir.path().join("registry.snapshot");
    std::fs::create_dir(&copy).expect("a folder");
    let mut version = Version(1);
    for seq in 1..=2 {
        version = store.commit(version, &[list(1, seq)], None).await.expect("the store itself works");
        assert_eq!(failed.get(), seq);
    }
    std::fs::remove_dir(&copy).expect("a folder of ours");
    store.commit(version, &[list(1, 3)], None).await.expect("a commit");
    assert_eq!(failed.get(), 2);
    let backup = Snapshot::decode(&read_snapshot(dir.path()).expect("a copy")).expect("a valid one");
    assert_eq!(backup.entries().len(), 1);
}

/// The store's content in a fixed order.
async fn all(store: &mut dyn Store) -> (Version, Vec<String>, Option<u64>) {
    let update = store.read_updates(None).await.expect("a store that can be read").expect("all of it");
    assert!(update.complete);
    assert_eq!(update.damaged, 0);
    (update.version, texts(&update), update.head.map(|head| head.seq))
}

/// The changes that add something.
fn texts(update: &StoreUpdate) -> Vec<String> {
    let there = |change: &&Change| matches!(change, Change::List(_) | Change::StoreLeave(_) | Change::StoreRemoval(_));
    sorted(update.changes.iter().filter(there))
}

fn sorted<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Vec<String> {
    let mut texts: Vec<_> = changes.into_iter().map(|change| format!("{change:?}")).collect();
    texts.sort_unstable();
    texts
}

/// Tests any store. `open` is called for each process of a registry.
async fn keeps_its_promises(open: impl AsyncFn() -> Box<dyn Store>) {
    let mut store = open().await;
    let (version, changes, newest) = all(&mut *store).await;
    assert_eq!((changes.len(), newest), (0, None));
    assert!(store.read_updates(Some(version)).await.expect("readable").is_none(), "nothing is new");

    // The next process reads what was stored.
    let first = [list(1, 1), list(2, 1), keep_leave(3), keep_removal(4)];
    let next = store.commit(version, &first, Some(&head(10))).await.expect("a commit");
    assert!(next > version);
    drop(store);
    let mut store = open().await;
    let (version, changes, newest) = all(&mut *store).await;
    assert_eq!((changes, newest), (sorted(&first), Some(10)));

    // Changes replace or delete entries, and leave others alone. Without a new directory, the old one stays.
    let second = [list(1, 2), Change::Delist(id(2)), Change::DeleteLeave(id(3))];
    store.commit(version, &second, None).await.expect("a commit");
    let (_, changes, newest) = all(&mut *store).await;
    assert_eq!((changes, newest), (sorted(&[list(1, 2), keep_removal(4)]), Some(10)));

    // A decision on an old state is rejected.
    let late = store.commit(version, &[list(5, 1)], Some(&head(20))).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    // A directory that is not newer is rejected together with its changes.
    for seq in [9, 10] {
        // The result of a failed commit is unknown, so the state is read again.
        let (next, ..) = all(&mut *store).await;
        let old = store.commit(next, &[list(5, 1)], Some(&head(seq))).await;
        assert!(matches!(old, Err(CommitError::Failed(_))), "{old:?}");
    }
    let (version, changes, newest) = all(&mut *store).await;
    assert_eq!((changes, newest), (sorted(&[list(1, 2), keep_removal(4)]), Some(10)));
    store.commit(version, &[Change::DeleteRemoval(id(4))], Some(&head(11))).await.expect("a commit after failed ones");
    drop(store);
    let (_, changes, newest) = all(&mut *open().await).await;
    assert_eq!((changes, newest), (sorted(&[list(1, 2)]), Some(11)));
}

#[tokio::test]
async fn the_embedded_store_keeps_its_promises() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let open = async || Box::new(Embedded::open(dir.path(), Counter::default()).expect("a store")) as Box<dyn Store>;
    keeps_its_promises(open).await;
}

#[tokio::test]
async fn postgresql_keeps_its_promises() {
    let Some(server) = server::Server::start() else { return };
    let url = server.url();
    let open_as = async |federation| {
        let store: Box<dyn Store> = Box::new(Postgres::connect(&url, None, federation).await.expect("a store"));
        store
    };
    keeps_its_promises(async || open_as(federation()).await).await;

    // Another federation in the same database has its own state.
    let other = FederationId::of_roots(&[]);
    assert_eq!(all(&mut *open_as(other).await).await.1, Vec::<String>::new());

    let mut pair = [open_as(federation()).await, open_as(federation()).await];
    each_sees_what_the_other_did(&mut pair).await;
    who_slept_for_long_reads_everything(&mut pair).await;
    drop(server);
    let failed = pair[0].read_updates(None).await;
    assert!(failed.is_err(), "a database that is gone");
}

async fn each_sees_what_the_other_did([ours, theirs]: &mut [Box<dyn Store>; 2]) {
    let (version, ..) = all(&mut **ours).await;
    let next = ours.commit(version, &[list(7, 1), list(8, 1)], Some(&head(30))).await.expect("a commit");
    let update = theirs.read_updates(Some(version)).await.expect("readable").expect("an update");
    assert!(!update.complete);
    assert_eq!((update.version, texts(&update)), (next, sorted(&[list(7, 1), list(8, 1)])));
    assert_eq!(update.head, Some(head(30)));

    // Both decide on the same state: one of them gets a conflict, catches up, and learns of the deletion.
    ours.commit(next, &[Change::Delist(id(7))], None).await.expect("a commit");
    let late = theirs.commit(next, &[list(9, 1)], Some(&head(40))).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    let update = theirs.read_updates(Some(next)).await.expect("readable").expect("an update");
    assert_eq!(update.changes, [Change::Delist(id(7))]);
    assert_eq!(update.head, Some(head(30)), "what was overtaken was never stored");
}

async fn who_slept_for_long_reads_everything([ours, theirs]: &mut [Box<dyn Store>; 2]) {
    let (slept_at, ..) = all(&mut **theirs).await;
    let mut version = ours.commit(slept_at, &[Change::Delist(id(8))], None).await.expect("a commit");
    for seq in 0..=postgres::TOMBSTONE_COMMITS {
        version = ours.commit(version, &[list(1, 10 + seq)], None).await.expect("a commit");
    }
    let update = theirs.read_updates(Some(slept_at)).await.expect("readable").expect("an update");
    assert!(update.complete, "it may have missed what was taken away");
    assert_eq!(texts(&update), sorted(&[list(1, 10 + postgres::TOMBSTONE_COMMITS)]));
    assert!(!update.changes.contains(&Change::Delist(id(8))), "forgotten by now");
}
