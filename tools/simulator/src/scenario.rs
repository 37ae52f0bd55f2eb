//! The scenarios, and their figures.

pub mod attacks;
pub mod calm;
pub mod faults;
pub mod leases;

use std::time::Duration;

use super::world::World;

/// The value of a duration that exceeded its deadline, in seconds.
const NEVER: f64 = 1e6;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The most that it may be, if it has a target.
    pub target: Option<f64>,
}

impl Figure {
    /// A figure without a target.
    pub fn info(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, target: None }
    }

    /// A figure that has to be at most `target`.
    pub fn target(name: impl Into<String>, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name: name.into(), value, unit, target: Some(target) }
    }

    /// Whether it is within its target.
    pub fn is_ok(&self) -> bool {
        self.target.is_none_or(|target| self.value <= target)
    }
}

/// The sizes of the scenarios.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Members of the federation.
    pub members: usize,
    /// Members that crash, one after the other; and as many join.
    pub repeats: usize,
    /// How long the steady load is measured.
    pub steady: Duration,
    /// How long a partition lasts.
    pub partition: Duration,
    /// Node-hours at 5 % loss, and at 15 %.
    pub node_hours: (f64, f64),
    /// Members in the scenarios with faults and attackers.
    pub attacked: usize,
    /// How long each attack lasts.
    pub attack: Duration,
    /// Leases, and lookups of them.
    pub leases: (u32, u32),
}

impl Sizes {
    /// The sizes that have targets.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand members")]
    pub fn full(members: usize) -> Self {
        Self {
            members,
            repeats: 20,
            steady: Duration::from_secs(300),
            partition: Duration::from_secs(180),
            node_hours: (members as f64, members as f64 / 4.0),
            attacked: members.min(100),
            attack: Duration::from_secs(300),
            leases: (1_000_000, 100_000),
        }
    }

    /// Sizes for a test.
    pub const fn small() -> Self {
        Self {
            members: 30,
            repeats: 3,
            steady: Duration::from_secs(60),
            partition: Duration::from_secs(120),
            node_hours: (10.0, 4.0),
            attacked: 20,
            attack: Duration::from_secs(60),
            leases: (20_000, 300),
        }
    }
}

/// Starts all nodes. Returns whether they find each other within ten minutes.
fn start_all(world: &mut World) -> bool {
    for ix in world.all() {
        world.start(ix);
    }
    world.run_until(Duration::from_secs(600), World::is_whole)
}

/// The percentile of a sorted list of durations, in seconds; [`NEVER`] if it is missing.
fn share_of(answers: &[Option<Duration>], percent: usize) -> f64 {
    let index = (answers.len() * percent).div_ceil(100).saturating_sub(1);
    answers.get(index).copied().flatten().map_or(NEVER, |after| after.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "few values")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
