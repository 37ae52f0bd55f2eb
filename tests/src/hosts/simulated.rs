//! What the simulator says of as many members, to hold the hosts' figures against.

use crate::simulation::{
    scenario::{Sizes, calm::Calm},
    world::Conditions,
};

/// Crashes in the simulator: they cost nothing, so their mean is the exact one of the two.
const CRASHES: usize = 100;

/// How long a crash takes to be known by all members, in seconds, while so many packets in a hundred are lost.
///
/// # Panics
/// The simulator has no such figure any more.
pub fn crash_known_by_all(members: usize, loss: u32) -> f64 {
    let conditions = Conditions { loss: f64::from(loss) / 100.0, ..Conditions::new(1) };
    let mut calm = Calm::new(conditions, Sizes { repeats: CRASHES, ..Sizes::full(members) });
    calm.start();
    let figures = calm.crash();
    let mean = figures.iter().find(|figure| figure.name.starts_with("crash known by all, mean"));
    mean.expect("a figure of the simulator").value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_has_the_figure() {
        assert!((1.0..60.0).contains(&crash_known_by_all(5, 0)));
    }
}
