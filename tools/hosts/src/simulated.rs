//! The simulator's figures for the same number of members, to compare with the hosts'.

use std::time::Duration;

use chappe_harness::figures::percentile;
use chappe_simulator::world::{Conditions, World};

/// Crashes in the simulator. They are cheap, so that its median is the more exact one.
const CRASHES: usize = 100;
/// How long the members may take to find each other, and a crash to be known.
const WITHIN: Duration = Duration::from_secs(60);
/// The pause between a start and the next crash.
const PAUSE: Duration = Duration::from_secs(20);

/// How long a crash takes to be known by all members, in seconds, at this percentage of loss. The median, since with
/// much loss a few slow ones would dominate a mean.
pub fn crash_known_by_all(members: usize, loss: u32) -> f64 {
    let mut world = World::new(Conditions { loss: f64::from(loss) / 100.0, ..Conditions::new(1) });
    for _ in 0..members {
        let node = world.add();
        world.start(node);
    }
    let mut known = Vec::new();
    for _ in 0..CRASHES {
        world.run_until(WITHIN, World::is_whole);
        world.run_for(PAUSE);
        let victim = world.any_honest();
        let since = world.time().as_secs_f64();
        world.crash(victim);
        let others = world.honest();
        world.run_until(WITHIN, |world| others.iter().all(|other| !world.sees(*other, victim)));
        known.push(world.time().as_secs_f64() - since);
        world.start(victim);
    }
    percentile(&mut known, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_known_after_two_series_of_probes_and_before_long() {
        let known = crash_known_by_all(10, 2);
        assert!((6.0..15.0).contains(&known), "{known} s");
    }
}
