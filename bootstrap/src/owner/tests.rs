use chappe_common::{
    directory::{Delegation, MAX_DELEGATION},
    federation::FederationId,
    keys::SecretKey,
    record::{Abilities, NodeRecord},
};

use chappe_discovery::trust::Trust;
use prometheus_client::metrics::counter::Counter;

use super::*;
use crate::{
    config::CapsSection,
    limits::ExemptNetworks,
    pools::PART_SIZE,
    rules::{Caps, DoorTry, RuleConfig},
    storage::Embedded,
};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn federation() -> FederationId {
    FederationId::of_roots(&[key(1).public()])
}

fn online(now: Millis) -> Arc<OnlineKey> {
    let (root, not_before) = (key(1), now.secs());
    let (key, expires_at) = (key(2), not_before + MAX_DELEGATION);
    let delegation =
        Delegation { federation: federation(), root: root.public(), key: key.public(), not_before, expires_at };
    Arc::new(OnlineKey {
        key,
        delegations: vec![Signed::sign(delegation, &root).expect("a delegation within its bounds")],
        trust: vec![root.public()].into(),
    })
}

fn record(seed: u8, seq: u64, now: Millis) -> SignedRecord {
    let record = NodeRecord {
        federation: federation(),
        node: key(seed).node_id(),
        epoch: 1,
        seq,
        issued_at: now.secs(),
        expires_at: now.secs() + Duration::from_secs(3600),
        client_urls: vec!["ws://127.0.0.1:1".to_owned()],
        quic_addrs: vec![([127, 0, 0, seed], 1).into()],
        region: String::new(),
        version: String::new(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, &key(seed)).expect("a record within its bounds")
}

fn rules(node_timeout: Duration) -> RuleConfig {
    RuleConfig {
        federation: federation(),
        online: key(2).public(),
        trust: Trust::default(),
        max_nodes: 100,
        node_timeout,
        caps: Caps::new(CapsSection::default(), ExemptNetworks::default()),
        probe_interval: Duration::from_secs(300),
        failure_threshold: 3,
        door_grace: Duration::from_secs(900),
    }
}

async fn owner(dir: &std::path::Path, now: Millis) -> Owner {
    let bounds = rules(Duration::from_secs(7200));
    let signing = SigningConfig { online: online(now), lifetime: Duration::from_secs(3600) };
    let store = Box::new(Embedded::open(dir, Counter::default()).expect("a store"));
    Owner::start(RegistryState::new(bounds), store, signing, Arc::default()).await.expect("an owner")
}

async fn admit(owner: &mut Owner, record: SignedRecord, now: Millis) {
    let proved = record.quic_addrs.first().expect("an address").ip();
    let decide = |registry: &RegistryState| registry.admit(record.clone(), proved, now);
    owner.change(now, false, decide).await.expect("an acceptable record");
}

fn number(owner: &Owner) -> u64 {
    owner.published.load().head().seq
}

/// A directory that another registry on the same store has signed.
fn store_update(version: Version, head: SignedDirectory) -> StoreUpdate {
    StoreUpdate { version, head: Some(head), ..StoreUpdate::default() }
}

#[tokio::test]
async fn a_registry_whose_clock_is_behind_shows_strangers_no_more_than_another_and_signs_nothing_against_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let now = clock();
    let mut owner = owner(dir.path(), now).await;
    for seed in 10..30 {
        admit(&mut owner, record(seed, 1, now), now).await;
    }
    let nodes: Vec<_> = owner.registry.public_nodes().map(|listing| listing.record.clone()).collect();
    let ahead = Millis(now.0 + 4 * 3600 * 1000);
    let head =
        owner.signing.online.sign_directory(&nodes, ahead.0, owner.signing.lifetime, ahead).expect("a directory");
    let version = owner.version.expect("a version");
    owner.apply_update(store_update(version, head.clone()), now);

    let published = owner.published.load_full();
    assert_eq!((published.head(), published.public_count()), (&head, 20));
    let shown = published.directory_for([192, 0, 2, 1].into()).expect("a part");
    let shown =
        DirectoryBundle::decode(shown.body, &owner.signing.online.trust.roots(), ahead.secs()).expect("a directory");
    assert_eq!(shown.directory().nodes.len(), PART_SIZE);
    owner.handle_tick(now).await;
    assert_eq!(number(&owner), head.seq);
}

#[tokio::test]
async fn an_invalid_directory_is_not_served_and_the_next_number_is_higher() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let now = clock();
    let mut owner = owner(dir.path(), now).await;
    admit(&mut owner, record(10, 1, now), now).await;
    let (last, seq) = (number(&owner), now.0 + 50_000);
    let head = SignedDirectory {
        seq,
        bundle: bytes::Bytes::from_static(b"nonsense"),
        ..owner.published.load().head().clone()
    };
    let version = owner.version.expect("a version");
    owner.apply_update(store_update(version, head), now);
    assert_eq!(number(&owner), last);
    admit(&mut owner, record(11, 1, now), now).await;
    assert_eq!(number(&owner), seq + 1);
}

#[tokio::test]
async fn newer_records_wait_for_the_tick_and_new_or_removed_nodes_do_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let now = clock();
    let mut owner = owner(dir.path(), now).await;
    let at = |secs: u64| Millis(now.0 + secs * 1000);
    let seqs = |owner: &Owner| -> Vec<_> {
        let bundle = owner.published.load().head().bundle.clone();
        let bundle =
            DirectoryBundle::decode(bundle, &owner.signing.online.trust.roots(), now.secs()).expect("a directory");
        bundle.records(now.secs()).map(|record| record.seq).collect()
    };
    admit(&mut owner, record(10, 1, now), now).await;
    let first = number(&owner);
    for seq in 2..100 {
        admit(&mut owner, record(10, seq, now), at(1)).await;
    }
    assert_eq!((number(&owner), seqs(&owner)), (first, vec![1]));
    owner.handle_tick(at(2)).await;
    assert_eq!(seqs(&owner), [99]);
    let second = number(&owner);
    owner.handle_tick(at(3)).await;
    assert_eq!(number(&owner), second, "once");

    admit(&mut owner, record(11, 1, now), at(3)).await;
    assert_eq!(owner.published.load().public_count(), 2);
    admit(&mut owner, record(10, 100, now), at(30)).await;
    assert!(seqs(&owner).contains(&100), "after a while without a directory, at once");
}

/// The listed nodes after the registry has ticked at each of these times, in seconds from the start. All nodes were seen at
/// the start, and those in `answering` at each tick.
async fn listed_after(ticks: impl Iterator<Item = u64>, count: u8, answering: &[u8]) -> usize {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let start = clock();
    let mut owner = owner(dir.path(), start).await;
    owner.registry = RegistryState::new(rules(Duration::from_secs(1800)));
    owner.initial = owner.registry.clone();
    for seed in 1..=count {
        let mut long = record(seed, 1, start).into_value();
        long.expires_at = start.secs() + Duration::from_secs(7 * 86_400);
        admit(&mut owner, Signed::sign(long, &key(seed)).expect("a record within its bounds"), start).await;
    }
    for second in ticks {
        let now = Millis(start.0 + second * 1000);
        for seed in answering {
            let node = key(*seed).node_id();
            let decide = |registry: &RegistryState| {
                Ok(registry.record_probe(node, true, DoorTry::NotTried, 0.5, now).into_iter().collect())
            };
            owner.change(now, false, decide).await.expect("a store that works");
        }
        owner.handle_tick(now).await;
    }
    owner.registry.listings().count()
}

#[tokio::test]
async fn nodes_are_delisted_for_silence_alone_and_not_for_the_registrys_own() {
    let every = 50;
    // One node of four answers. The others are delisted after half an hour.
    assert_eq!(listed_after((0..1800).step_by(every), 4, &[1]).await, 4);
    assert_eq!(listed_after((0..1900).step_by(every), 4, &[1]).await, 1);
    // The machine was suspended for a day, and one node answers at once. The others have half an hour.
    let suspended = || (0..100).step_by(every).chain((86_400..).step_by(every));
    assert_eq!(listed_after(suspended().take(30), 4, &[1]).await, 4);
    assert_eq!(listed_after(suspended().take(50), 4, &[1]).await, 1);
    // No node answers for two hours: the registry is cut off.
    assert_eq!(listed_after((0..7200).step_by(every), 4, &[]).await, 4);
    // With two nodes, it is they that are down.
    assert_eq!(listed_after((0..1900).step_by(every), 2, &[]).await, 0);
}
