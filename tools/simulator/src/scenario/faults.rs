//! Scenarios with faulty members: they stall, or restart again and again.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{Figure, NEVER, Sizes, start_all};
use crate::{
    node::Ix,
    time::Time,
    world::{Conditions, World},
};

/// One member in this many is faulty.
const SICK: usize = 20;

/// The next step of a faulty member.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Stop,
    GoOn,
    Crash,
    Start,
}

/// Members stall: each runs for a second in every 2 to 32 seconds.
pub fn stalls(conditions: Conditions, sizes: Sizes) -> Vec<Figure> {
    let cycle = |turn, rng: &mut StdRng| match turn {
        Turn::Stop => (Turn::GoOn, Duration::from_secs(rng.random_range(1..=31))),
        _ => (Turn::Stop, Duration::from_secs(1)),
    };
    sick(conditions, sizes, "5 % of the members stall", Turn::Stop, cycle)
}

/// Members flap: each runs for 5 to 40 seconds, is gone for as long, and starts again.
pub fn flaps(conditions: Conditions, sizes: Sizes) -> Vec<Figure> {
    let cycle = |turn, rng: &mut StdRng| {
        let pause = Duration::from_secs(rng.random_range(5..=40));
        (if matches!(turn, Turn::Crash) { Turn::Start } else { Turn::Crash }, pause)
    };
    sick(conditions, sizes, "5 % of the members flap", Turn::Crash, cycle)
}

/// Lets some members take such steps for a while, then lets all run and find each other.
#[expect(clippy::cast_precision_loss, reason = "few members")]
fn sick(
    conditions: Conditions,
    sizes: Sizes,
    what: &str,
    first: Turn,
    cycle: impl Fn(Turn, &mut StdRng) -> (Turn, Duration),
) -> Vec<Figure> {
    let mut world = World::new(conditions);
    for _ in 0..sizes.attacked {
        world.add();
    }
    start_all(&mut world);
    world.run_for(Duration::from_secs(30));
    let mut rng = StdRng::seed_from_u64(conditions.seed ^ 0x7369_636b);
    let sick = world.all().sample(&mut rng, (sizes.attacked / SICK).max(2));
    let mut turns: Vec<(Time, Ix, Turn)> = sick.iter().map(|ix| (world.time(), *ix, first)).collect();
    let end = world.time() + sizes.attack * 2;
    while let Some((at, ix, turn)) = turns.iter().min_by_key(|turn| turn.0).copied().filter(|turn| turn.0 < end) {
        world.run_for(at - world.time());
        match turn {
            Turn::Stop => world.stop(ix),
            Turn::GoOn => world.go_on(ix),
            Turn::Crash => world.crash(ix),
            Turn::Start => world.start(ix),
        }
        let (next, pause) = cycle(turn, &mut rng);
        turns.retain(|turn| turn.1 != ix);
        turns.push((at + pause, ix, next));
    }
    for (_, ix, next) in turns {
        match next {
            Turn::GoOn => world.go_on(ix),
            Turn::Start => world.start(ix),
            Turn::Stop | Turn::Crash => {}
        }
    }
    let (unjust, since) = (world.unjust().len(), world.time());
    let whole = world.run_until(Duration::from_secs(600), World::is_whole);
    let after = if whole { (world.time() - since).as_secs_f64() } else { NEVER };
    let name = |figure: &str| format!("{what}: {figure} (N = {})", sizes.attacked);
    vec![
        Figure::target(name("others declared down"), unjust as f64, "members", 0.0),
        Figure::target(name("all views whole after they are well"), after, "s", 150.0),
    ]
}
