use std::time::Duration;

use std::net::Ipv4Addr;

use chappe_common::{
    keys::SecretKey,
    list_request::Load,
    reachability::{DoorFault, Outcome},
    record::{Abilities, NodeRecord},
    removal::MAX_REMOVAL,
    roots::Roots,
};

use super::*;
use crate::{config::CapsSection, limits::ExemptNetworks};

const NOW: u64 = 1_800_000_000;
/// Longer than the lifetime of the records in these tests.
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

fn bounds() -> RuleConfig {
    RuleConfig {
        federation: federation(),
        online: key(98).public(),
        trust: Roots::pinned(vec![key(99).public(), key(98).public()], Some(federation())).into(),
        max_nodes: 3,
        node_timeout: SEEN_WITHIN,
        caps: Caps::new(CapsSection { ipv4_24: 2, ..CapsSection::default() }, ExemptNetworks::default()),
        probe_interval: Duration::from_secs(300),
        failure_threshold: 3,
        door_grace: Duration::from_secs(900),
    }
}

fn registry(records: &[SignedRecord]) -> RegistryState {
    let mut registry = RegistryState::new(bounds());
    for record in records {
        admit(&mut registry, record.clone(), millis());
    }
    registry
}

fn admit(registry: &mut RegistryState, record: SignedRecord, now: Millis) {
    let changes = registry.admit(record, Ipv4Addr::LOCALHOST.into(), now).expect("an acceptable record");
    apply(registry, changes);
}

/// At `now`, or as soon as the probe is due.
fn probe(registry: &mut RegistryState, seed: u8, answered: bool, now: Millis) {
    let node = key(seed).node_id();
    let due = registry.nodes.get(&node).expect("a listed node").probes.due();
    let change =
        registry.record_probe(node, answered, DoorTry::NotTried, 0.5, now.max(due)).expect("a node that is due");
    registry.apply(change);
}

fn public(registry: &RegistryState) -> Vec<NodeId> {
    registry.public_nodes().map(|listing| listing.record.node).collect()
}

fn ids(seeds: &[u8]) -> Vec<NodeId> {
    let mut ids: Vec<_> = seeds.iter().map(|seed| key(*seed).node_id()).collect();
    ids.sort_unstable();
    ids
}

fn apply(registry: &mut RegistryState, changes: Vec<Change>) {
    for change in changes {
        registry.apply(change);
    }
}

#[test]
fn a_higher_epoch_and_sequence_replaces_a_lower_one_and_never_the_other_way_round() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 2, 5)]);
    for (epoch, seq) in [(1, 9), (2, 4)] {
        assert_eq!(registry.check_record(&record(&key, epoch, seq), now()), Err(RuleRejection::Stale), "{epoch} {seq}");
    }
    for (epoch, seq) in [(2, 6), (3, 0)] {
        admit(&mut registry, record(&key, epoch, seq), millis());
    }
    assert_eq!(registry.listings().map(|listing| listing.record.epoch).collect::<Vec<_>>(), [3]);
}

#[test]
fn the_same_bytes_again_only_refresh_when_the_node_was_seen() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 1, 1)]);
    let later = Millis(millis().0 + 5000);
    admit(&mut registry, record(&key, 1, 1), later);
    let listing = registry.listings().next().expect("still listed");
    assert_eq!((listing.registered_at, listing.last_seen), (millis(), later));

    let mut other = unsigned(&key, 1, 1);
    other.region = "elsewhere".to_owned();
    let other = Signed::sign(other, &key).expect("a record within its bounds");
    assert_eq!(
        registry.check_record(&other, later.secs()),
        Err(RuleRejection::Stale),
        "other bytes under the same sequence"
    );
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
        (foreign, RuleRejection::Federation),
        (future, RuleRejection::Clock),
        (over, RuleRejection::Expired),
        (endless, RuleRejection::Lifetime),
    ];
    for (altered, reason) in cases {
        let altered = Signed::sign(altered, &key).expect("a record within its bounds");
        assert_eq!(registry.check_record(&altered, now()), Err(reason));
    }
}

#[test]
fn a_node_in_the_internet_names_no_private_url_and_one_in_a_private_network_does() {
    let mut bounds = bounds();
    bounds.caps = Caps::new(CapsSection::default(), ["9.9.0.0/16".parse().expect("a network")].as_slice().into());
    let registry = RegistryState::new(bounds);
    let check_record = |addrs: &[&str], url: &str| {
        let mut record = unsigned(&key(1), 1, 1);
        record.quic_addrs = addrs.iter().map(|addr| addr.parse().expect("an address")).collect();
        record.client_urls = vec![url.to_owned()];
        registry.check_record(&Signed::sign(record, &key(1)).expect("a record within its bounds"), now())
    };
    let private = ["ws://127.0.0.1:1", "wss://192.168.1.1/ws", "wss://router.lan", "ws://0x7f.1", "ws://localhost"];
    for url in private {
        assert_eq!(check_record(&["8.8.8.8:1"], url), Err(RuleRejection::PrivateUrl), "{url}");
        assert_eq!(check_record(&["127.0.0.1:1", "8.8.8.8:1"], url), Err(RuleRejection::PrivateUrl), "{url}");
        assert_eq!(check_record(&["127.0.0.1:1", "[fd00::1]:1"], url), Ok(()), "{url}");
        assert_eq!(check_record(&["9.9.9.9:1"], url), Ok(()), "a test network: {url}");
    }
    for url in ["wss://relay.example.org", "wss://8.8.8.8/ws", "ws://[2606:4700::1111]:80"] {
        assert_eq!(check_record(&["8.8.8.8:1"], url), Ok(()), "{url}");
    }
}

#[test]
fn a_full_registry_still_renews_listed_nodes() {
    let registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1), record(&key(3), 1, 1)]);
    assert_eq!(registry.check_record(&record(&key(4), 1, 1), now()), Err(RuleRejection::Full));
    assert_eq!(registry.check_record(&record(&key(3), 1, 2), now()), Ok(()));
}

#[test]
fn a_record_that_was_left_does_not_come_back_and_a_newer_one_does() {
    let key = key(1);
    let mut registry = registry(&[record(&key, 1, 3)]);
    let changes = registry.leave(leave(&key, 1, 3), now()).expect("the node's own leave");
    apply(&mut registry, changes);
    assert_eq!(registry.listings().len(), 0);
    assert_eq!(registry.check_record(&record(&key, 1, 3), now()), Err(RuleRejection::Stale));
    assert_eq!(registry.check_record(&record(&key, 1, 2), now()), Err(RuleRejection::Stale));
    assert_eq!(registry.check_record(&record(&key, 2, 0), now()), Ok(()));
}

#[test]
fn an_old_leave_does_not_end_a_newer_record() {
    let key = key(1);
    let registry = registry(&[record(&key, 2, 1)]);
    assert_eq!(registry.leave(leave(&key, 1, 9), now()), Err(RuleRejection::Stale));
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
    assert_eq!(registry.expire(just_before, now()), Vec::new());
    assert_eq!(registry.check_record(&listed, just_before), Err(RuleRejection::Stale));
    assert_eq!(registry.expire(listed.expires_at, now()), [Change::DeleteLeave(key.node_id())]);
    assert_eq!(registry.check_record(&listed, listed.expires_at), Err(RuleRejection::Expired));
}

#[test]
fn kept_leaves_are_bounded() {
    let mut registry = registry(&[]);
    for seed in 1..=40 {
        let key = key(seed);
        admit(&mut registry, record(&key, 1, 1), millis());
        let changes = registry.leave(leave(&key, 1, 1), now()).expect("the node's own leave");
        apply(&mut registry, changes);
    }
    assert_eq!(registry.leaves.len(), 3 * LEAVES_PER_NODE);
}

#[test]
fn a_listing_ends_with_its_record() {
    let listed = record(&key(1), 1, 1);
    let mut registry = registry(std::slice::from_ref(&listed));
    assert_eq!(registry.expire(now(), now()), Vec::new());
    let changes = registry.expire(listed.expires_at, now());
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
    admit(&mut registry, long, later);
    assert_eq!(registry.expire(now() + SEEN_WITHIN, now()), Vec::new());
    assert_eq!(registry.expire(later.secs() + SEEN_WITHIN, now()), [Change::Delist(key.node_id())]);

    // After a downtime of the registry, no node is delisted for missed proofs.
    let listing = Box::new((**registry.listings().next().expect("listed")).clone());
    let started = now() + Duration::from_secs(20 * 3600);
    let mut back = RegistryState::new(bounds());
    back.apply(Change::List(listing));
    assert_eq!(back.expire(started, started), Vec::new());
    assert_eq!(back.expire(started + SEEN_WITHIN, started), [Change::Delist(key.node_id())]);
}

#[test]
fn a_registry_is_cut_off_if_none_of_three_nodes_has_proved_its_key_for_long() {
    for (count, is_cut_off) in [(0, false), (2, false), (3, true), (10, true)] {
        let registry = registry_of(count);
        assert!(!registry.is_cut_off(Millis(millis().0 + 450_000)), "{count}");
        assert_eq!(registry.is_cut_off(Millis(millis().0 + 450_001)), is_cut_off, "{count}");
    }
    let mut registry = registry_of(3);
    probe(&mut registry, 1, true, Millis(millis().0 + 450_000));
    assert!(!registry.is_cut_off(Millis(millis().0 + 900_000)), "one that answers is enough");
}

#[test]
fn nodes_of_one_network_are_bounded() {
    let mut registry = registry(&[]);
    let place = |host: u8| IpAddr::from([192, 0, 2, host]);
    let at = |seed: u8, seq| {
        let mut record = unsigned(&key(seed), 1, seq);
        record.quic_addrs = vec![(place(seed), 1).into()];
        record.client_urls = Vec::new();
        Signed::sign(record, &key(seed)).expect("a record within its bounds")
    };
    for seed in 1..=2 {
        let changes = registry.admit(at(seed, 1), place(seed), millis()).expect("room for two");
        apply(&mut registry, changes);
    }
    assert_eq!(registry.check_record(&at(3, 1), now()), Err(RuleRejection::NetworkFull), "before it is dialled");
    assert_eq!(registry.check_record(&at(2, 2), now()), Ok(()), "who is listed stays");
    // Space at another address does not help, because others count the node by its first one.
    let mut both = at(3, 1).into_value();
    both.quic_addrs.push(([198, 51, 100, 3], 1).into());
    let later = Signed::sign(both.clone(), &key(3)).expect("a record within its bounds");
    assert_eq!(registry.check_record(&later, now()), Err(RuleRejection::NetworkFull));
    both.quic_addrs = vec![([192, 0, 3, 3], 1).into(), (place(3), 1).into()];
    let both = Signed::sign(both, &key(3)).expect("a record within its bounds");
    assert_eq!(registry.check_record(&both, now()), Ok(()));
    assert_eq!(
        registry.admit(both.clone(), place(3), millis()),
        Err(RuleRejection::NetworkFull),
        "where it is, there is none"
    );
    assert!(registry.admit(both, [192, 0, 3, 3].into(), millis()).is_ok());
}

#[test]
fn a_reserve_node_is_listed_and_not_shown() {
    let mut reserve = unsigned(&key(2), 1, 1);
    reserve.abilities = Abilities::RESERVE.union(Abilities::ICE_SERVERS);
    let reserve = Signed::sign(reserve, &key(2)).expect("a record within its bounds");
    let registry = registry(&[record(&key(1), 1, 1), reserve]);
    assert_eq!(registry.listings().len(), 2);
    assert_eq!(public(&registry), ids(&[1]));
}

#[test]
fn a_node_that_fails_three_probes_is_not_shown_until_it_answers() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1)]);
    for failures in 1..=3 {
        assert_eq!(public(&registry), ids(&[1, 2]), "{failures}");
        probe(&mut registry, 1, false, millis());
    }
    assert_eq!(public(&registry), ids(&[2]));
    assert_eq!(registry.listings().len(), 2, "it is probed on");
    probe(&mut registry, 1, true, millis());
    assert_eq!(public(&registry), ids(&[1, 2]));
}

#[test]
fn a_silent_node_that_registers_again_is_shown_at_once() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1)]);
    (0..3).for_each(|_| probe(&mut registry, 1, false, millis()));
    assert_eq!(public(&registry), ids(&[2]));
    admit(&mut registry, record(&key(1), 1, 1), millis());
    assert_eq!(public(&registry), ids(&[1, 2]));
}

#[test]
fn where_most_are_silent_the_registry_doubts_itself() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1), record(&key(3), 1, 1)]);
    (0..3).for_each(|_| probe(&mut registry, 1, false, millis()));
    assert_eq!(public(&registry), ids(&[2, 3]));
    (0..3).for_each(|_| probe(&mut registry, 2, false, millis()));
    assert_eq!(public(&registry), ids(&[1, 2, 3]));
}

#[test]
fn a_node_that_answers_probes_stays_without_registering_again() {
    let key = key(1);
    let mut long = unsigned(&key, 1, 1);
    long.expires_at = now() + Duration::from_secs(24 * 3600);
    let mut registry = registry(&[Signed::sign(long, &key).expect("a record within its bounds")]);
    let later = Millis(millis().0 + 3_600_000);
    probe(&mut registry, 1, true, later);
    assert_eq!(registry.expire(now() + SEEN_WITHIN, now()), Vec::new());
    assert_eq!(registry.expire(later.secs() + SEEN_WITHIN, now()), [Change::Delist(key.node_id())]);
}

#[test]
fn probes_are_due_one_after_the_other() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1)]);
    let after = |secs: u64| Millis(millis().0 + secs * 1000);
    let due = |registry: &RegistryState, secs| -> Vec<_> {
        registry.due_probes(after(secs)).iter().map(|listing| listing.record.node).collect()
    };
    assert_eq!(due(&registry, 299), []);
    assert_eq!(due(&registry, 300).len(), 2);
    probe(&mut registry, 1, true, after(300));
    assert_eq!(due(&registry, 300), ids(&[2]));
    probe(&mut registry, 2, false, after(300));
    assert_eq!(due(&registry, 360), ids(&[2]), "a failure is looked into sooner");
}

#[test]
fn a_node_that_vanished_is_probed_no_more_after_a_week_even_if_the_registry_restarts_again_and_again() {
    for (restart_every, last_day) in [(u64::MAX, 0), (1800, 6)] {
        let mut long = unsigned(&key(1), 1, 1);
        long.expires_at = now() + MAX_RECORD_LIFETIME;
        let config = RuleConfig { node_timeout: Duration::from_secs(3600), ..bounds() };
        let mut registry = RegistryState::new(config.clone());
        admit(&mut registry, Signed::sign(long, &key(1)).expect("a record within its bounds"), millis());
        let (mut days, mut started) = ([0; 10], now());
        for second in (0..10 * 24 * 3600).step_by(10) {
            let now = Millis(millis().0 + second * 1000);
            if second % restart_every >= restart_every - 10 {
                let stored: Vec<_> =
                    registry.listings().map(|listing| Change::List(Box::new((**listing).clone()))).collect();
                (registry, started) = (RegistryState::new(config.clone()), now.secs());
                apply(&mut registry, stored);
            }
            let changes = registry.expire(now.secs(), started);
            apply(&mut registry, changes);
            for listing in registry.due_probes(now) {
                days[usize::try_from(second / (24 * 3600)).expect("a day")] += 1;
                let change = registry
                    .record_probe(listing.record.node, false, DoorTry::NotTried, 0.5, now)
                    .expect("a node that is due");
                registry.apply(change);
            }
        }
        println!("restarted every {restart_every} s: {days:?} probes on each day");
        assert_eq!(days.iter().rposition(|probes| *probes > 0), Some(last_day), "{days:?}");
        assert_eq!(days[7..], [0, 0, 0]);
    }
}

#[test]
fn one_finding_of_several_registries_counts_once() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1)]);
    let due = Millis(millis().0 + 300_000);
    probe(&mut registry, 1, false, due);
    assert_eq!(registry.record_probe(key(1).node_id(), false, DoorTry::NotTried, 0.5, Millis(due.0 + 1000)), None);
    let failures = registry.listings().map(|listing| listing.probes.failures()).max();
    assert_eq!(failures, Some(1));
}

fn removal(signer: &SecretKey, node: u8, issued_at: UnixTime, lasts: u64) -> Signed<NodeRemoval> {
    let removal = NodeRemoval {
        federation: federation(),
        signer: signer.public(),
        node: key(node).node_id(),
        issued_at,
        until: issued_at + Duration::from_secs(lasts),
    };
    Signed::sign(removal, signer).expect("a removal within its bounds")
}

#[test]
fn a_removed_node_is_delisted_and_does_not_come_back_before_its_time() {
    let mut registry = registry(&[record(&key(1), 1, 1), record(&key(2), 1, 1)]);
    let stranger = removal(&key(7), 1, now(), 600);
    assert_eq!(registry.remove(stranger, now()), Err(RuleRejection::Signer));
    let changes = registry.remove(removal(&key(98), 1, now(), 600), now()).expect("an operator's word");
    apply(&mut registry, changes);
    assert_eq!(public(&registry), ids(&[2]));
    assert_eq!(registry.check_record(&record(&key(1), 9, 9), now()), Err(RuleRejection::Removed));
    let end = now() + Duration::from_secs(600);
    assert_eq!(registry.expire(end, now()), [Change::DeleteRemoval(key(1).node_id())]);
    assert_eq!(registry.check_record(&record(&key(1), 9, 9), end), Ok(()));
}

#[test]
fn a_removal_that_was_taken_back_is_not_played_again() {
    let mut registry = registry(&[record(&key(1), 1, 1)]);
    let first = removal(&key(99), 1, now(), 600);
    let changes = registry.remove(first.clone(), now()).expect("an operator's word");
    apply(&mut registry, changes);
    assert_eq!(registry.remove(first.clone(), now()), Ok(Vec::new()), "the same again changes nothing");
    let later = now() + Duration::from_secs(1);
    let changes = registry.remove(removal(&key(99), 1, later, 0), later).expect("a later word");
    apply(&mut registry, changes);
    assert_eq!(registry.check_record(&record(&key(1), 1, 1), later), Ok(()));
    assert_eq!(registry.remove(first.clone(), later), Err(RuleRejection::Stale));
    // The revocation of a removal is stored for as long as the removal could be replayed.
    assert_eq!(registry.expire(now() + Duration::from_secs(599), now()), Vec::new());
    assert_eq!(registry.remove(first, now() + MAX_REMOVAL), Err(RuleRejection::Expired));
}

#[test]
fn a_request_for_the_list_is_good_once_and_for_listed_nodes() {
    let mut registry = registry(&[record(&key(1), 1, 1)]);
    let ask = |seed: u8, seq: u64, load| {
        ListRequest::sign(federation(), key(98).public(), &key(seed), seq, load).into_value()
    };
    let first = ask(1, NOW * 1000, Load::Busy);
    let changes = registry.accept_list_request(&first, now()).expect("a listed node's request");
    apply(&mut registry, changes);
    assert_eq!(registry.listings().next().map(|listing| listing.load), Some(Load::Busy));
    assert_eq!(registry.accept_list_request(&first, now()), Err(RuleRejection::Stale));
    assert!(registry.accept_list_request(&ask(1, NOW * 1000 + 1, Load::Idle), now()).is_ok());
    assert_eq!(registry.accept_list_request(&ask(2, NOW * 1000, Load::Idle), now()), Err(RuleRejection::Signer));
    assert_eq!(
        registry.accept_list_request(&ask(1, NOW * 1000 + 200_000, Load::Idle), now()),
        Err(RuleRejection::Clock)
    );
    let elsewhere = ListRequest { registry: key(97).public(), ..ask(1, NOW * 1000 + 1, Load::Idle) };
    assert_eq!(registry.accept_list_request(&elsewhere, now()), Err(RuleRejection::Registry));
    // A new record does not reset the number of list requests.
    admit(&mut registry, record(&key(1), 2, 1), millis());
    assert_eq!(registry.accept_list_request(&first, now()), Err(RuleRejection::Stale));
}

/// A registry of this many nodes.
fn registry_of(count: u8) -> RegistryState {
    let caps = CapsSection { ipv4_24: 100, ipv4_16: 100, ..CapsSection::default() };
    let config = RuleConfig { max_nodes: 100, caps: Caps::new(caps, ExemptNetworks::default()), ..bounds() };
    let mut registry = RegistryState::new(config);
    for seed in 1..=count {
        admit(&mut registry, record(&key(seed), 1, 1), millis());
    }
    registry
}

/// Tries the doors of some nodes every five minutes, for half an hour.
fn try_doors(registry: &mut RegistryState, seeds: std::ops::RangeInclusive<u8>, tried: DoorTry) {
    let due =
        |registry: &RegistryState, seed| registry.nodes.get(&key(seed).node_id()).expect("a listed node").probes.due();
    let start = seeds.clone().map(|seed| due(registry, seed)).max().expect("a node");
    for round in 1..=6 {
        for seed in seeds.clone() {
            let node = key(seed).node_id();
            let now = due(registry, seed).max(Millis(start.0 + round * 300_000));
            let change = registry.record_probe(node, true, tried, 0.5, now).expect("a node that is due");
            registry.apply(change);
        }
    }
}

fn refused() -> DoorTry {
    let fault = DoorFault { place: 0, outcome: Outcome::Refused };
    DoorTry::Fails(Fault { fault, expired_at: None })
}

#[test]
fn a_registry_that_never_reached_a_door_hides_at_most_half_of_the_nodes() {
    for (failing, hidden) in [(1, 1), (5, 5), (6, 0), (10, 0)] {
        let mut registry = registry_of(10);
        try_doors(&mut registry, 1..=failing, refused());
        assert_eq!((10 - public(&registry).len(), registry.doubts_own_network()), (hidden, hidden == 0), "{failing}");
    }
}

#[test]
fn a_tenth_of_the_doors_may_fail_at_once_but_not_more() {
    for (failing, hidden) in [(3, 3), (4, 0)] {
        let mut registry = registry_of(30);
        try_doors(&mut registry, 1..=30, DoorTry::Works);
        try_doors(&mut registry, 1..=failing, refused());
        assert_eq!(30 - public(&registry).len(), hidden, "{failing}");
    }
}

#[test]
fn other_urls_are_other_doors_and_the_same_in_a_new_record_are_not() {
    let mut registry = registry_of(3);
    try_doors(&mut registry, 1..=1, refused());
    assert_eq!(public(&registry), ids(&[2, 3]));
    admit(&mut registry, record(&key(1), 1, 2), millis());
    assert_eq!(public(&registry), ids(&[2, 3]));
    let mut moved = unsigned(&key(1), 1, 3);
    moved.client_urls = vec!["ws://127.0.0.1:2".to_owned()];
    admit(&mut registry, Signed::sign(moved, &key(1)).expect("a record within its bounds"), millis());
    assert_eq!(public(&registry), ids(&[1, 2, 3]));
}
