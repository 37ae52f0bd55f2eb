//! The simulator at a small size. At full size: `cargo xtask simulate`.

use std::time::Duration;

use chappe_simulator::{
    scenario::{
        Figure, Sizes,
        attacks::{self, Attack},
        calm::Calm,
        faults, leases,
    },
    world::{Conditions, World},
};

const SEED: u64 = 7;

fn assert_reached(figures: &[Figure]) {
    let missed: Vec<_> = figures.iter().filter(|figure| !figure.is_ok()).collect();
    assert!(missed.is_empty(), "seed {SEED}: {missed:#?}");
}

/// A few members that start, run for a while with loss, and lose one of them.
fn trace(seed: u64) -> (u64, u64) {
    let mut world = World::new(Conditions { loss: 0.1, ..Conditions::new(seed) });
    let nodes: Vec<_> = (0..12).map(|_| world.add()).collect();
    for node in &nodes {
        world.start(*node);
    }
    world.run_for(Duration::from_secs(60));
    world.crash(nodes[3]);
    world.run_for(Duration::from_secs(60));
    world.trace()
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    assert_eq!(trace(SEED), trace(SEED));
    assert_ne!(trace(SEED), trace(SEED + 1));
}

#[test]
fn in_a_network_that_loses_everything_all_members_are_declared_down() {
    let mut world = World::new(Conditions { loss: 0.0, ..Conditions::new(SEED) });
    let nodes: Vec<_> = (0..6).map(|_| world.add()).collect();
    for node in &nodes {
        world.start(*node);
    }
    world.run_for(Duration::from_secs(30));
    assert!(world.is_whole() && world.unjust().is_empty());
    world.set_loss(1.0);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.unjust().len(), 6 * 5, "each of six loses five, and all of it is seen");
}

#[test]
fn a_small_federation_reaches_the_figures_of_a_large_one() {
    let mut calm = Calm::new(Conditions::new(SEED), Sizes::small());
    let tries = [Calm::start, Calm::steady, Calm::crash, Calm::join, Calm::partition, Calm::attacked, Calm::loss];
    for attempt in tries {
        assert_reached(&attempt(&mut calm));
    }
}

#[test]
fn members_that_stall_or_flap_affect_no_other_member() {
    assert_reached(&faults::stalls(Conditions::new(SEED), Sizes::small()));
    assert_reached(&faults::flaps(Conditions::new(SEED), Sizes::small()));
}

#[test]
fn no_attacker_evicts_hides_or_invents_a_member() {
    for (name, attack) in Attack::all() {
        let figures = attacks::attack(Conditions::new(SEED), Sizes::small(), &name, attack);
        assert_reached(&figures);
        // An attack without refusals has not been tried.
        let noticed = figures.iter().filter(|figure| figure.name.contains("refused"));
        assert!(noticed.clone().count() == 2 && noticed.clone().all(|figure| figure.value > 0.0), "{figures:#?}");
    }
}

#[test]
fn strangers_are_admitted_by_the_rules_and_lying_anchors_hide_members_only_briefly() {
    assert_reached(&attacks::strangers(Conditions::new(SEED), Sizes::small()));
    assert_reached(&attacks::anchors(Conditions::new(SEED), Sizes::small()));
}

#[test]
fn leases_spread_evenly_and_one_lying_home_misleads_no_lookup() {
    let sizes = Sizes { members: 100, ..Sizes::small() };
    assert_reached(&leases::placement(SEED, sizes));
    assert_reached(&leases::lookups(SEED, sizes));
}
