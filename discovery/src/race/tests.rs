//! The race's rules on virtual time.

use std::collections::BTreeMap;

use chappe_common::keys::SecretKey;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::network::Network;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn node(n: u16) -> NodeId {
    let mut seed = [3; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&seed).node_id()
}

/// A candidate for node `n`, which is alone in its network.
fn of(source: SourceKind, n: u16) -> Candidate {
    let [a, b] = n.to_le_bytes();
    Candidate::new(format!("ws://{}.{a}.0.1:1", 20 + b), Some(node(n)), source)
}

fn all_of(source: SourceKind, nodes: std::ops::Range<u16>) -> Vec<Candidate> {
    nodes.map(|n| of(source, n)).collect()
}

/// How a source reacts to a query.
#[derive(Clone)]
enum Answer {
    NameResolver(Duration, Vec<Candidate>),
    Fails(Duration),
    Silent,
}

/// How a node reacts to a dial.
#[derive(Clone, Copy)]
enum Manner {
    Proves(Duration),
    Fails(Duration),
    Silent,
}

/// Simulated sources and nodes with fixed delays.
struct World {
    sources: Vec<(SourceKind, Answer)>,
    manner: Box<dyn Fn(&Candidate) -> Manner>,
    warm: bool,
    avoid: Vec<NodeId>,
}

#[derive(Debug, Default)]
struct Course {
    asked: Vec<(usize, Duration)>,
    dialled: Vec<(Candidate, Duration)>,
    most_dials: usize,
    won: Option<Candidate>,
    took: Duration,
    endorsements: Endorsements,
}

enum Event {
    Answered(usize),
    Dialled(DialId, bool),
}

impl World {
    fn new(sources: Vec<(SourceKind, Answer)>, manner: impl Fn(&Candidate) -> Manner + 'static) -> Self {
        Self { sources, manner: Box::new(manner), warm: false, avoid: Vec::new() }
    }

    fn run(&self, seed: u64) -> Course {
        let kinds = self.sources.iter().map(|(kind, _)| *kind);
        let mut race = Race::new(kinds, &self.avoid, self.warm, StdRng::seed_from_u64(seed));
        let mut noise = StdRng::seed_from_u64(!seed);
        let (mut now, mut course, mut serial) = (Duration::ZERO, Course::default(), 0_u64);
        let mut events: BTreeMap<(Duration, u64), Event> = BTreeMap::new();
        let mut running = HashSet::new();
        loop {
            let mut schedule = |at: Duration, event| {
                serial += 1;
                // A little noise varies the order of simultaneous events.
                events.insert((now + at + Duration::from_micros(noise.random_range(0..2000)), serial), event);
            };
            while let Some(action) = race.poll_action(now) {
                match action {
                    Action::Query(index) => {
                        course.asked.push((index, now));
                        match &self.sources[index].1 {
                            Answer::NameResolver(after, _) | Answer::Fails(after) => {
                                schedule(*after, Event::Answered(index))
                            }
                            Answer::Silent => {}
                        }
                    }
                    Action::Dial(id, candidate) => {
                        match (self.manner)(&candidate) {
                            Manner::Proves(after) => schedule(after, Event::Dialled(id, true)),
                            Manner::Fails(after) => schedule(after, Event::Dialled(id, false)),
                            // The driver's own timeout ends such a dial.
                            Manner::Silent => schedule(ms(3000), Event::Dialled(id, false)),
                        }
                        course.dialled.push((candidate, now));
                        running.insert(id);
                        course.most_dials = course.most_dials.max(running.len());
                    }
                    Action::Abandon(id) => assert!(running.remove(&id), "it was running"),
                    Action::Done => {
                        course.took = now;
                        course.endorsements = race.endorsements().clone();
                        return course;
                    }
                }
            }
            let timeout = race.poll_timeout(now);
            let event = events.first_key_value().map(|((at, _), _)| *at);
            now = match (timeout, event) {
                (Some(timeout), Some(event)) => timeout.min(event.max(now)),
                (timeout, event) => timeout.or(event).expect("something happens until it is over"),
            };
            while let Some(entry) = events.first_entry().filter(|entry| entry.key().0 <= now) {
                match entry.remove() {
                    Event::Answered(index) => match &self.sources[index].1 {
                        Answer::NameResolver(_, candidates) => {
                            race.handle_candidates(index, candidates.iter().cloned(), now)
                        }
                        Answer::Fails(_) | Answer::Silent => race.handle_source_failed(index, now),
                    },
                    Event::Dialled(id, proved) if running.contains(&id) => {
                        if proved {
                            race.handle_proof(id);
                            course.won = race.winner().cloned();
                        } else {
                            running.remove(&id);
                            race.handle_dial_failed(id);
                        }
                    }
                    Event::Dialled(..) => {}
                }
            }
        }
    }
}

fn at_once(source: SourceKind, candidates: Vec<Candidate>) -> (SourceKind, Answer) {
    (source, Answer::NameResolver(Duration::ZERO, candidates))
}

fn asked_at(course: &Course, source: usize) -> Option<Duration> {
    course.asked.iter().find(|(index, _)| *index == source).map(|(_, at)| *at)
}

/// Whether a time is as expected, up to the noise.
fn about(at: Option<Duration>, expected: Duration) -> bool {
    at.is_some_and(|at| at >= expected && at < expected + ms(20))
}

#[test]
fn sources_that_need_no_network_are_asked_at_once_and_the_others_in_their_turn() {
    use SourceKind::{Cache, Dns, Invite, Manual, Referral, Registry};
    let silent = |kind| (kind, Answer::Silent);
    let kinds = [Manual, Invite, Referral, Cache, Registry, Dns, Dns, Dns];
    let mut world = World::new(kinds.map(silent).into(), |_| Manner::Silent);
    for (warm, registry) in [(false, ms(0)), (true, ms(250))] {
        world.warm = warm;
        let course = world.run(1);
        for (index, at) in [0, 0, 0, 0].into_iter().enumerate() {
            assert!(about(asked_at(&course, index), ms(at)), "{index}");
        }
        assert!(about(asked_at(&course, 4), registry));
        for (index, at) in [(5, 250), (6, 500), (7, 750)] {
            assert!(about(asked_at(&course, index), ms(at)), "{index} {course:?}");
        }
        assert_eq!(course.took, SEARCH_TIMEOUT);
    }
}

#[test]
fn a_source_that_fails_has_the_next_asked_at_once() {
    let dns = || (SourceKind::Dns, Answer::Silent);
    let world = World::new(vec![(SourceKind::Registry, Answer::Fails(ms(40))), dns(), dns()], |_| Manner::Silent);
    let course = world.run(1);
    assert!(about(asked_at(&course, 1), ms(40)));
    assert!(about(asked_at(&course, 2), ms(500)));
}

#[test]
fn sources_whose_nodes_have_all_failed_have_the_next_asked_at_once() {
    let mut world = World::new(
        vec![at_once(SourceKind::Cache, all_of(SourceKind::Cache, 0..2)), (SourceKind::Registry, Answer::Silent)],
        |_| Manner::Fails(ms(30)),
    );
    world.warm = true;
    assert!(about(asked_at(&world.run(1), 1), ms(30)));
}

#[test]
fn two_cached_nodes_of_different_networks_and_manually_named_nodes_are_dialled_at_once() {
    let mut cached = all_of(SourceKind::Cache, 0..1);
    // Many nodes in one network, and one in another.
    cached.extend((1..20).map(|n| Candidate::new(format!("ws://99.9.0.{n}:1"), Some(node(n)), SourceKind::Cache)));
    let mut world = World::new(
        vec![
            at_once(SourceKind::Cache, cached),
            at_once(SourceKind::Invite, all_of(SourceKind::Invite, 100..101)),
            at_once(SourceKind::Manual, all_of(SourceKind::Manual, 200..201)),
        ],
        |_| Manner::Silent,
    );
    world.warm = true;
    for seed in 0..20 {
        let course = world.run(seed);
        let first: Vec<_> = course.dialled.iter().filter(|(_, at)| *at < ms(20)).map(|(one, _)| one).collect();
        let cached: HashSet<_> =
            first.iter().filter(|one| one.source == SourceKind::Cache).map(|one| one.network()).collect();
        assert_eq!((first.len(), cached.len()), (4, 2), "{first:?}");
        assert!(cached.contains(&Network::V4([99, 9])));
    }
}

#[test]
fn four_dials_run_at_once_and_no_address_twice() {
    let mut names = all_of(SourceKind::Manual, 0..12);
    names.extend(all_of(SourceKind::Manual, 0..12));
    let world = World::new(vec![at_once(SourceKind::Manual, names)], |_| Manner::Fails(ms(200)));
    let course = world.run(1);
    assert_eq!((course.dialled.len(), course.most_dials), (12, MAX_DIALS));
    let urls: HashSet<_> = course.dialled.iter().map(|(one, _)| one.url.clone()).collect();
    assert_eq!(urls.len(), 12);
    assert!(course.took < ms(1000), "it is over when nobody is left");
}

#[test]
fn one_live_node_among_twenty_is_found_within_six_seconds_although_the_others_are_silent() {
    let mut times: Vec<Duration> = (0..100)
        .map(|seed| {
            let live = of(SourceKind::Cache, 7).url;
            let manner = move |one: &Candidate| if one.url == live { Manner::Proves(ms(400)) } else { Manner::Silent };
            let cached = at_once(SourceKind::Cache, all_of(SourceKind::Cache, 0..20));
            let mut world = World::new(
                vec![cached, (SourceKind::Registry, Answer::Silent), (SourceKind::Dns, Answer::Silent)],
                manner,
            );
            world.warm = true;
            let course = world.run(seed);
            assert!(course.most_dials <= MAX_DIALS);
            assert!(course.won.is_some(), "{seed}");
            course.took
        })
        .collect();
    times.sort_unstable();
    assert!(times[99] <= ms(6000), "{:?}", times[99]);
}

#[test]
fn a_slow_node_that_made_room_gets_a_second_turn_with_all_the_time() {
    let slow = of(SourceKind::Manual, 0).url;
    let manner = move |one: &Candidate| if one.url == slow { Manner::Proves(ms(2500)) } else { Manner::Fails(ms(900)) };
    let world = World::new(vec![at_once(SourceKind::Manual, all_of(SourceKind::Manual, 0..12))], manner);
    for seed in 0..20 {
        assert_eq!(world.run(seed).won.map(|one| one.url), Some(of(SourceKind::Manual, 0).url), "{seed}");
    }
}

#[test]
fn a_source_that_comes_late_takes_the_place_of_a_silent_dial() {
    let manner = |one: &Candidate| match one.source {
        SourceKind::Registry => Manner::Proves(ms(300)),
        _ => Manner::Silent,
    };
    let mut world = World::new(
        vec![
            at_once(SourceKind::Cache, all_of(SourceKind::Cache, 0..20)),
            (SourceKind::Registry, Answer::NameResolver(ms(300), all_of(SourceKind::Registry, 50..58))),
        ],
        manner,
    );
    world.warm = true;
    for seed in 0..20 {
        let course = world.run(seed);
        assert!(course.took < ms(950), "{:?}", course.took);
        assert!(course.most_dials <= MAX_DIALS);
    }
}

#[test]
fn avoided_nodes_are_dialled_only_when_nothing_else_is_left() {
    let mut world = World::new(
        vec![
            at_once(SourceKind::Manual, all_of(SourceKind::Manual, 0..2)),
            (SourceKind::Registry, Answer::NameResolver(ms(300), all_of(SourceKind::Registry, 2..4))),
        ],
        |_| Manner::Fails(ms(50)),
    );
    world.avoid = vec![node(0)];
    let course = world.run(1);
    let last = course.dialled.last().expect("all were dialled");
    assert_eq!((last.0.node, course.dialled.len()), (Some(node(0)), 4));
}

#[test]
fn an_avoided_node_is_dialled_despite_a_source_that_stays_silent() {
    let silent = (SourceKind::Registry, Answer::Silent);
    let cached = at_once(SourceKind::Cache, all_of(SourceKind::Cache, 0..1));
    let mut world = World::new(vec![silent, cached], |_| Manner::Proves(ms(50)));
    world.avoid = vec![node(0)];
    let course = world.run(1);
    assert!(course.won.is_some() && about(Some(course.took), AVOIDED_AFTER + ms(50)), "{:?}", course.took);
}

#[test]
fn the_registrys_nodes_wait_briefly_for_those_of_dns_unless_dns_has_failed() {
    let registry = (SourceKind::Registry, Answer::NameResolver(ms(100), all_of(SourceKind::Registry, 0..8)));
    let first = |sources| {
        let course = World::new(sources, |_| Manner::Proves(ms(300))).run(1);
        course.dialled[0].1
    };
    assert!(about(Some(first(vec![registry.clone()])), ms(100)), "nobody else");
    let silent = (SourceKind::Dns, Answer::Silent);
    assert!(about(Some(first(vec![registry.clone(), silent])), ms(450)));
    let fails = (SourceKind::Dns, Answer::Fails(ms(10)));
    assert!(about(Some(first(vec![registry.clone(), fails])), ms(260)));
    let link = at_once(SourceKind::Invite, all_of(SourceKind::Invite, 50..51));
    assert!(about(Some(first(vec![registry, link])), ms(0)));
}

/// A registry that lists a thousand hostile nodes in three networks.
fn flooded(cached: u16, hostile_are: Duration) -> World {
    let flood = (1000..2000)
        .map(|n| Candidate::new(format!("ws://200.{}.0.1:{n}", n % 3), Some(node(n)), SourceKind::Registry))
        .collect();
    let dns = || (SourceKind::Dns, Answer::NameResolver(ms(300), all_of(SourceKind::Dns, 0..14)));
    let mut sources = vec![(SourceKind::Registry, Answer::NameResolver(ms(300), flood)), dns(), dns(), dns(), dns()];
    if cached > 0 {
        sources.push(at_once(SourceKind::Cache, all_of(SourceKind::Cache, 0..cached)));
    }
    let mut world = World::new(sources, move |one| match one.source {
        SourceKind::Registry => Manner::Proves(hostile_are),
        _ => Manner::Proves(ms(300)),
    });
    world.warm = cached > 0;
    world
}

#[test]
fn a_registry_that_lists_a_thousand_of_its_own_is_seldom_the_first_and_hardly_ever_both_of_a_pair() {
    let hostile: HashSet<NodeId> = (1000..2000).map(node).collect();
    // With nodes in the cache the registry comes late, so fewer runs are enough. Being closer than all others does not
    // help the registry either.
    for (cached, far, runs) in [(0, 300, 400), (0, 50, 400), (5, 300, 50)] {
        let world = flooded(cached, ms(far));
        let (mut first, mut both) = (0_u64, 0_u64);
        for seed in 0..runs {
            let course = world.run(seed);
            let won = course.won.expect("a node");
            let winner = won.node.expect("pinned");
            if !hostile.contains(&winner) {
                continue;
            }
            first += 1;
            let all = world.sources.iter().filter_map(|(_, answer)| match answer {
                Answer::NameResolver(_, candidates) => Some(candidates.clone()),
                Answer::Fails(_) | Answer::Silent => None,
            });
            let mut rng = StdRng::seed_from_u64(seed);
            let seconds = confirm::confirming_candidates(&won, winner, all.flatten(), &course.endorsements, &mut rng);
            assert!(!seconds.is_empty(), "somebody can confirm it");
            both += u64::from(seconds[0].node.is_some_and(|node| hostile.contains(&node)));
        }
        println!("{cached} cached, {far} ms away: {first} first, {both} both, of {runs}");
        assert!(first * 10 <= runs * 4 && both * 10 <= runs, "{first} first, {both} both, of {runs}");
    }
}
