use std::collections::BTreeMap;

use chappe_common::{
    federation::FederationId,
    record::{Abilities, NodeRecord},
    signed::Signed,
};

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn pools(seed: u8) -> PoolKey {
    PoolKey::derive(&SecretKey::from_bytes(&[seed; 32]))
}

fn node(index: u16) -> SignedRecord {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&index.to_le_bytes());
    let key = SecretKey::from_bytes(&seed);
    let [high, low] = index.to_be_bytes();
    let record = NodeRecord {
        federation: FederationId::of_roots(&[]),
        node: key.node_id(),
        epoch: 1,
        seq: 1,
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(600),
        client_urls: Vec::new(),
        quic_addrs: vec![([20 + high, low, 0, 1], 1).into()],
        region: String::new(),
        version: String::new(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, &key).expect("a record within its bounds")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn one_network_sees_one_part_for_three_hours_and_another_one_then() {
    let (pools, slot) = (pools(1), Slot::containing(NOW));
    let part = |text| pools.part_of(address(text), slot);
    assert_eq!(part("192.0.2.1"), part("192.0.255.255"));
    assert_eq!(part("192.0.2.1"), part("::ffff:192.0.9.9"));
    assert_eq!(part("2001:db8:1::1"), part("2001:db8:ffff::1"));
    let start = NOW.as_secs() / 10_800 * 10_800;
    assert_eq!(Slot::containing(UnixTime::from_secs(start)), Slot::containing(UnixTime::from_secs(start + 10_799)));
    assert_ne!(Slot::containing(UnixTime::from_secs(start)), Slot::containing(UnixTime::from_secs(start + 10_800)));
    let over = |slot| (0..=255).map(|low| pools.part_of([10, low, 0, 1].into(), slot)).collect::<Vec<_>>();
    assert_ne!(over(slot), over(Slot(slot.0 + 1)));
}

#[test]
fn networks_are_spread_over_the_parts() {
    let pools = pools(1);
    let mut counts = BTreeMap::<u16, u32>::new();
    for network in 0..=u16::MAX {
        let [high, low] = network.to_be_bytes();
        *counts.entry(pools.part_of([high, low, 0, 1].into(), Slot(1))).or_default() += 1;
    }
    // 64 networks for each part on average; the standard deviation is 8.
    assert_eq!(counts.len(), usize::from(PARTS));
    assert!(counts.values().all(|count| (24..=104).contains(count)), "{counts:?}");
}

#[test]
fn every_node_is_in_a_part_and_a_part_has_eight() {
    let (pools, nodes) = (pools(1), (0..200).map(node).collect::<Vec<_>>());
    let mut shown = BTreeMap::<_, u32>::new();
    for part in 0..PARTS {
        let picked = pools.select_part(&nodes, part, Slot(1));
        assert_eq!(picked.len(), PART_SIZE);
        for record in picked {
            *shown.entry(record.node).or_default() += 1;
        }
    }
    // 41 parts for each node on average.
    assert_eq!(shown.len(), nodes.len());
    assert!(shown.values().all(|count| (10..=90).contains(count)), "{shown:?}");
}

#[test]
fn another_key_reveals_nothing_of_the_parts() {
    let nodes: Vec<_> = (0..100).map(node).collect();
    let picks = |pools: &PoolKey| {
        (0..20)
            .map(|part| pools.select_part(&nodes, part, Slot(1)).iter().map(|r| r.node).collect())
            .collect::<Vec<Vec<_>>>()
    };
    assert_eq!(picks(&pools(1)), picks(&pools(1)), "the same after a restart");
    assert_ne!(picks(&pools(1)), picks(&pools(2)));
    assert_ne!(pools(1).part_of(address("192.0.2.1"), Slot(1)), pools(2).part_of(address("192.0.2.1"), Slot(1)));
}

#[test]
fn one_network_does_not_fill_a_part_as_long_as_there_are_others() {
    let pools = pools(1);
    // 200 nodes in one /16, and four in other networks.
    let crowd = (0..200).map(|index| {
        let mut record = node(index).into_value();
        record.quic_addrs = vec![([198, 51, 100, 1], 1).into()];
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&index.to_le_bytes());
        Signed::sign(record, &SecretKey::from_bytes(&seed)).expect("a record within its bounds")
    });
    let nodes: Vec<_> = crowd.chain((200..204).map(node)).collect();
    for part in 0..50 {
        let picked = pools.select_part(&nodes, part, Slot(1));
        let elsewhere = picked.iter().filter(|record| record.quic_addrs[0].ip() != address("198.51.100.1")).count();
        assert_eq!((picked.len(), elsewhere), (PART_SIZE, 4));
    }
}

#[test]
fn a_node_that_goes_is_replaced_and_the_others_stay() {
    let pools = pools(1);
    let nodes: Vec<_> = (0..100).map(node).collect();
    let ids = |picked: Vec<&SignedRecord>| picked.iter().map(|record| record.node).collect::<BTreeSet<_>>();
    for part in 0..50 {
        let before = ids(pools.select_part(&nodes, part, Slot(1)));
        let gone = *before.first().expect("eight");
        let rest: Vec<_> = nodes.iter().filter(|record| record.node != gone).cloned().collect();
        assert_eq!(before.intersection(&ids(pools.select_part(&rest, part, Slot(1)))).count(), PART_SIZE - 1);
    }
}
