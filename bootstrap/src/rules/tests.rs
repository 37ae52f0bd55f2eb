use std::time::Duration;

use chappe_common::record::{NodeLeave, SignedRecord};
use chappe_common::{
    keys::SecretKey,
    record::{Abilities, NodeRecord},
};

use super::*;

const NOW: u64 = 1_800_000_000;
/// Longer than the records of these tests live.
const SEEN_WITHIN: Duration = Duration::from_secs(7200);

fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

fn millis() -> Millis {
    Millis(NOW * 1000)
}

fn federation() -> FederationId {
    FederationId::of_roots(&[SecretKey::from_bytes(&[99; 32]).public()])
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn unsigned(key: &SecretKey, epoch: u64, seq: u64) -> NodeRecord {
    NodeRecord {
        federation: federation(),
        node: key.node_id(),
        epoch,
        seq,
        issued_at: now(),
        expires_at: now() + Duration::from_secs(1800),
        client_urls: vec!["ws://127.0.0.1:1".to_owned()],
        quic_addrs: vec!["127.0.0.1:1".parse().expect("an address")],
        region: String::new(),
        version: "1".to_owned(),
        abilities: Abilities::default(),
    }
}

fn record(key: &SecretKey, epoch: u64, seq: u64) -> SignedRecord {
    Signed::sign(unsigned(key, epoch, seq), key).expect("a record within its bounds")
}

fn leave(key: &SecretKey, epoch: u64, seq: u64) -> Signed<NodeLeave> {
    let leave = NodeLeave { federation: federation(), node: key.node_id(), epoch, seq, issued_at: now() };
    Signed::sign(leave, key).expect("a leave within its bounds")
}

fn registry(records: &[SignedRecord]) -> Registry {
    let mut registry = Registry::new(federation(), 3, SEEN_WITHIN, now());
    for record in records {
        let change = registry.admit(record.clone(), millis()).expect("an acceptable record");
        registry.apply(change);
    }
    registry
}

fn apply(registry: &mut Registry, changes: Vec<Change>) {
    for change in changes {
        registry.apply(change);
    }
}

#[test]
fn a_higher_epoch_and_sequence_replaces_a_lower_one_and_never_the_other_way_round() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 2, 5)]);
    for (epoch, seq) in [(1, 9), (2, 4)] {
        assert_eq!(registry.judge(&record(&key, epoch, seq), now()), Err(Refusal::Stale), "{epoch} {seq}");
    }
    for (epoch, seq) in [(2, 6), (3, 0)] {
        let change = registry.admit(record(&key, epoch, seq), millis()).expect("a newer record");
        registry.apply(change);
    }
    assert_eq!(registry.listings().map(|listing| listing.record.epoch).collect::<Vec<_>>(), [3]);
}

#[test]
fn the_same_bytes_again_only_refresh_when_the_node_was_seen() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 1, 1)]);
    let later = Millis(millis().0 + 5000);
    let change = registry.admit(record(&key, 1, 1), later).expect("the same record");
    registry.apply(change);
    let listing = registry.listings().next().expect("still listed");
    assert_eq!((listing.registered_at, listing.last_seen), (millis(), later));

    let mut other = unsigned(&key, 1, 1);
    other.region = "elsewhere".to_owned();
    let other = Signed::sign(other, &key).expect("a record within its bounds");
    assert_eq!(registry.judge(&other, later.secs()), Err(Refusal::Stale), "other bytes under the same sequence");
}

#[test]
fn a_record_that_does_not_count_now_is_refused_with_its_reason() {
    let key = key(1);
    let registry = registry(&[]);
    let mut foreign = unsigned(&key, 1, 1);
    foreign.federation = FederationId::of_roots(&[]);
    let mut future = unsigned(&key, 1, 1);
    future.issued_at = UnixTime::from_secs(NOW + 121);
    let mut over = unsigned(&key, 1, 1);
    over.expires_at = now();
    let mut endless = unsigned(&key, 1, 1);
    endless.expires_at = endless.issued_at + Duration::from_secs(8 * 24 * 3600);
    let cases = [
        (foreign, Refusal::Federation),
        (future, Refusal::Clock),
        (over, Refusal::Expired),
        (endless, Refusal::Lifetime),
    ];
    for (altered, reason) in cases {
        let altered = Signed::sign(altered, &key).expect("a record within its bounds");
        assert_eq!(registry.judge(&altered, now()), Err(reason));
    }
}

#[test]
fn a_full_registry_still_renews_whom_it_lists() {
    let registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1), record(&key(3), 1, 1)]);
    assert_eq!(registry.judge(&record(&key(4), 1, 1), now()), Err(Refusal::Full));
    assert_eq!(registry.judge(&record(&key(3), 1, 2), now()), Ok(()));
}

#[test]
fn a_record_that_was_left_does_not_come_back_and_a_newer_one_does() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 1, 3)]);
    let changes = registry.leave(leave(&key, 1, 3), now()).expect("the node's own leave");
    apply(&mut registry, changes);
    assert_eq!(registry.listings().len(), 0);
    assert_eq!(registry.judge(&record(&key, 1, 3), now()), Err(Refusal::Stale));
    assert_eq!(registry.judge(&record(&key, 1, 2), now()), Err(Refusal::Stale));
    assert_eq!(registry.judge(&record(&key, 2, 0), now()), Ok(()));
}

#[test]
fn an_old_leave_does_not_end_a_newer_record() {
    let key = key(1);
    let registry = registry(&[record(&key, 2, 1)]);
    assert_eq!(registry.leave(leave(&key, 1, 9), now()), Err(Refusal::Stale));
}

#[test]
fn a_leave_of_a_node_that_is_not_listed_leaves_nothing_behind() {
    assert_eq!(registry(&[]).leave(leave(&key(1), 1, 1), now()), Ok(Vec::new()));
}

#[test]
fn a_leave_is_kept_until_the_record_that_it_ended_would_have_expired() {
    let key = key(1);
    let listed = record(&key, 1, 3);
    let mut registry = registry(std::slice::from_ref(&listed));
    let changes = registry.leave(leave(&key, 1, 3), now()).expect("the node's own leave");
    apply(&mut registry, changes);
    let just_before = UnixTime::from_secs(listed.expires_at.as_secs() - 1);
    assert_eq!(registry.expire(just_before), Vec::new());
    assert_eq!(registry.judge(&listed, just_before), Err(Refusal::Stale));
    assert_eq!(registry.expire(listed.expires_at), [Change::ForgetLeave(key.node_id())]);
    assert_eq!(registry.judge(&listed, listed.expires_at), Err(Refusal::Expired));
}

#[test]
fn kept_leaves_are_bounded() {
    let mut registry = registry(&[]);
    for seed in 1..=40 {
        let key = key(seed);
        let change = registry.admit(record(&key, 1, 1), millis()).expect("room for one");
        registry.apply(change);
        let changes = registry.leave(leave(&key, 1, 1), now()).expect("the node's own leave");
        apply(&mut registry, changes);
    }
    assert_eq!(registry.leaves.len(), 3 * LEAVES_PER_NODE);
}

#[test]
fn a_listing_ends_with_its_record() {
    let listed = record(&key(1), 1, 1);
    let mut registry = registry(std::slice::from_ref(&listed));
    assert_eq!(registry.expire(now()), Vec::new());
    let changes = registry.expire(listed.expires_at);
    apply(&mut registry, changes);
    assert_eq!(registry.listings().len(), 0);
}

#[test]
fn a_node_that_does_not_register_again_is_delisted_long_before_its_record_ends() {
    let key = key(1);
    let mut long = unsigned(&key, 1, 1);
    long.expires_at = now() + Duration::from_secs(24 * 3600);
    let long = Signed::sign(long, &key).expect("a record within its bounds");
    let mut registry = registry(std::slice::from_ref(&long));
    let later = Millis(millis().0 + 3_600_000);
    let change = registry.admit(long, later).expect("the same record again");
    registry.apply(change);
    assert_eq!(registry.expire(now() + SEEN_WITHIN), Vec::new());
    assert_eq!(registry.expire(later.secs() + SEEN_WITHIN), [Change::Delist(key.node_id())]);

    // A registry that was down for a day delists nobody for it.
    let listing = registry.listings().next().expect("listed").clone();
    let started = now() + Duration::from_secs(20 * 3600);
    let mut back = Registry::new(federation(), 3, SEEN_WITHIN, started);
    back.apply(Change::List(listing));
    assert_eq!(back.expire(started), Vec::new());
    assert_eq!(back.expire(started + SEEN_WITHIN), [Change::Delist(key.node_id())]);
}
