//! The matrix of faults and sources, whole, and the hostile registry.

use std::time::Duration;

use chappe_discovery::source::SourceKind;
use chappe_tests::faults::{
    cells, fault,
    hostile::{self, Distance},
    world::World,
};
use futures_util::{StreamExt as _, stream};

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_for_what_it_is_and_costs_nobody_a_node() {
    let world = World::start(3, Duration::ZERO).await;
    let sources = [
        SourceKind::Registry,
        SourceKind::Dns,
        SourceKind::Cache,
        SourceKind::Referral,
        SourceKind::Link,
        SourceKind::Manual,
    ];
    let all = sources.into_iter().flat_map(|source| fault::of(source).into_iter().map(move |fault| (source, fault)));
    let tried = all.map(|(source, fault)| cells::try_cell(&world, source, fault));
    let cells: Vec<_> = stream::iter(tried).buffered(8).collect().await;
    assert_eq!(cells.len(), 87);
    let wrong: Vec<_> = cells.iter().filter(|cell| !cell.wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.shutdown().await;
}

#[test]
fn a_registry_of_a_thousand_nodes_is_the_first_for_few_and_both_for_hardly_any() {
    let choices: Vec<_> = (0..300).map(|seed| hostile::choose(seed, Distance::Same)).collect();
    let first = choices.iter().filter(|choice| choice.first).count();
    let both = choices.iter().filter(|choice| choice.both).count();
    assert!(first > 0, "nobody is shut out for being a registry");
    assert!(first <= 120 && both <= 30, "{first} and {both} of 300");
}
