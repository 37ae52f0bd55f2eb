//! The matrix of faults and sources, whole, and the hostile registry.

use std::time::Duration;

use chappe_discovery::{
    CauseError,
    source::{SourceError, SourceKind},
};
use chappe_discovery_faults::{
    cells,
    dns::{self, Lie},
    fault,
    hostile::{self, Distance},
    web::Web,
    world::{REGISTRY, World, provider},
};
use futures_util::{StreamExt as _, stream};

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_reported_correctly_and_costs_no_client_its_node() {
    let world = World::start(3, Duration::ZERO).await;
    let all =
        fault::SOURCES.into_iter().flat_map(|source| fault::of(source).into_iter().map(move |fault| (source, fault)));
    let tried = all.map(|(source, fault)| cells::try_cell(&world, source, fault));
    let cells: Vec<_> = stream::iter(tried).buffered(8).collect().await;
    assert_eq!(cells.len(), 87);
    let wrong: Vec<_> = cells.iter().filter(|cell| !cell.wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.shutdown().await;
}

#[tokio::test]
async fn a_provider_that_lies_about_an_address_is_doubted_and_a_public_list_leads_into_no_private_network() {
    let world = World::start(1, Duration::ZERO).await;
    let mirror = world.mirror().await;
    // Nobody listens there; and one that knows.
    let resolve = async |addr: [u8; 4]| {
        let lie = Lie::Addr(addr.into());
        Web::serve(Some(world.tls(&["one.example", "two.example"])), move |_, question| dns::answer(&lie, question))
            .await
    };
    let (liar, honest) = (resolve([127, 0, 0, 2]).await, resolve([127, 0, 0, 1]).await);
    let discovery = world
        .client()
        .registry([format!("https://{REGISTRY}:{}", mirror.addr().port())], [world.root()])
        .provider(provider(0, liar.addr()))
        .provider(provider(1, honest.addr()))
        .build()
        .expect("a client");
    let error = discovery.search(&[]).await.found.expect_err("all nodes are in a private network");
    let cause = error.causes.iter().find(|cause| cause.source == SourceKind::Registry).map(|cause| &cause.error);
    // Its directory was read: the second provider's address was tried after the first one's.
    assert_eq!(cause, Some(&CauseError::Source(SourceError::Empty)));
    world.shutdown().await;
}

#[test]
fn a_registry_of_a_thousand_nodes_is_the_first_for_few_and_both_for_hardly_any() {
    for choose in [hostile::choose, hostile::choose_again] {
        let choices: Vec<_> = (0..300).map(|seed| choose(seed, Distance::Same)).collect();
        let first = choices.iter().filter(|choice| choice.first).count();
        let both = choices.iter().filter(|choice| choice.both).count();
        assert!(first > 0, "nobody is shut out for being a registry");
        assert!(first <= 120 && both <= 30, "{first} and {both} of 300");
    }
}
