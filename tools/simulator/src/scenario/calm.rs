//! Scenarios without attackers: start, steady state, crashes, joins and a partition.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{Figure, NEVER, Sizes, attacks::Attack, mean, share_of, start_all, worst};
use crate::{
    node::{Ix, Load},
    usage,
    watch::Fact,
    world::{Conditions, World},
};

/// How long gossip about a start lasts at most.
const SETTLE: Duration = Duration::from_secs(120);
/// The pause between two crashes: each is known before the next.
const APART: Duration = Duration::from_secs(25);

/// A federation, and the sizes of its scenarios.
pub struct Calm {
    world: World,
    sizes: Sizes,
    memory_before: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages and bytes")]
impl Calm {
    /// Creates a federation whose nodes don't run yet.
    pub fn new(conditions: Conditions, sizes: Sizes) -> Self {
        let memory_before = usage::memory();
        let mut world = World::new(conditions);
        for _ in 0..sizes.members {
            world.add();
        }
        Self { world, sizes, memory_before }
    }

    /// The world.
    pub const fn world(&mut self) -> &mut World {
        &mut self.world
    }

    fn name(&self, figure: &str) -> String {
        format!("{figure} (N = {})", self.sizes.members)
    }

    /// Starts all nodes at once, and waits until gossip about it has ended.
    pub fn start(&mut self) -> Vec<Figure> {
        let all: Vec<_> = self.world.all().collect();
        let complete = self.world.watch_for(Fact::Others(all.len() - 1));
        let whole = start_all(&mut self.world);
        let answers = self.world.known_after(complete, &all);
        self.world.stop_watching();
        self.world.run_for(SETTLE);
        let all_know = if whole { share_of(&answers, 100) } else { NEVER };
        vec![
            Figure::info(self.name("start of all at once: half of the views complete"), share_of(&answers, 50), "s"),
            Figure::target(self.name("start of all at once: every view complete"), all_know, "s", 60.0),
        ]
    }

    /// Measures the load and cost of each member in the steady state.
    pub fn steady(&mut self) -> Vec<Figure> {
        let all = self.world.honest();
        let load = |world: &World| all.iter().map(|ix| world.load(*ix)).fold(Load::default(), add);
        let (before, processor) = (load(&self.world), usage::processor());
        self.world.run_for(self.sizes.steady);
        let after = load(&self.world);
        let node_seconds = self.sizes.steady.as_secs_f64() * all.len() as f64;
        let processor = (usage::processor() - processor).as_secs_f64();
        let per_second = |before: u64, after: u64| (after - before) as f64 / node_seconds;
        let accused: u64 = all.iter().map(|ix| self.world.engine(*ix).counts().accused).sum();
        let age = self.world.time().as_secs_f64() / 3600.0 * all.len() as f64;
        let links: usize = all.iter().map(|ix| self.world.links(*ix)).sum();
        let memory = usage::memory().saturating_sub(self.memory_before) as f64;
        vec![
            Figure::target(self.name("steady load"), per_second(before.messages, after.messages), "messages/s", 2.0),
            Figure::target(self.name("steady gossip payload"), per_second(before.bytes, after.bytes), "B/s", 300.0),
            Figure::info(self.name("steady: links dialled"), per_second(before.links, after.links), "/s"),
            Figure::info(self.name("steady: records shown on links"), per_second(before.greeted, after.greeted), "B/s"),
            Figure::info(self.name("links of one node"), links as f64 / all.len() as f64, "links"),
            Figure::info(self.name("accusations signed since the start"), accused as f64 / age, "/node-hour"),
            Figure::info(self.name("memory of one node's membership"), memory / all.len() as f64 / 1024.0, "KiB"),
            Figure::info(self.name("CPU of one node's membership"), processor / node_seconds * 1e6, "µs/s"),
        ]
    }

    /// Members crash, one after the other.
    pub fn crash(&mut self) -> Vec<Figure> {
        let (mut most, mut all_know) = (Vec::new(), Vec::new());
        for _ in 0..self.sizes.repeats {
            let victim = self.world.any_honest();
            let gone = self.world.watch_for(Fact::Gone(self.world.id(victim)));
            self.world.crash(victim);
            let others = self.world.honest();
            self.world.run_for(APART);
            let answers = self.world.known_after(gone, &others);
            most.push(share_of(&answers, 99));
            all_know.push(share_of(&answers, 100));
            self.world.stop_watching();
            self.world.start(victim);
            self.world.run_for(APART);
        }
        vec![
            Figure::target(self.name("crash known by 99 %, mean"), mean(&most), "s", 12.0),
            Figure::target(self.name("crash known by all, mean"), mean(&all_know), "s", 15.0),
            Figure::info(self.name("crash known by 99 %, worst"), worst(&most), "s"),
            Figure::info(self.name("crash known by all, worst"), worst(&all_know), "s"),
            self.incomplete("views that lack somebody after each crashed member has started again"),
        ]
    }

    /// New members join, one after the other.
    pub fn join(&mut self) -> Vec<Figure> {
        let (mut known, mut knows) = (Vec::new(), Vec::new());
        for _ in 0..self.sizes.repeats {
            let others = self.world.honest();
            let joiner = self.world.add();
            let there = self.world.watch_for(Fact::There(self.world.id(joiner)));
            let sees = self.world.watch_for(Fact::Others((others.len() * 99).div_ceil(100)));
            self.world.start(joiner);
            self.world.run_for(APART);
            known.push(share_of(&self.world.known_after(there, &others), 99));
            knows.push(share_of(&self.world.known_after(sees, &[joiner]), 100));
            self.world.stop_watching();
        }
        self.world.run_for(APART * 2);
        vec![
            Figure::target(self.name("join known by 99 %, mean"), mean(&known), "s", 3.0),
            Figure::target(self.name("joiner knows 99 %, mean"), mean(&knows), "s", 5.0),
            Figure::info(self.name("join known by 99 %, worst"), worst(&known), "s"),
            Figure::info(self.name("joiner knows 99 %, worst"), worst(&knows), "s"),
            self.incomplete("views that lack somebody after the joins"),
        ]
    }

    /// Splits the federation in two halves, and heals it.
    pub fn partition(&mut self) -> Vec<Figure> {
        let (all, before) = (self.world.honest(), self.world.unjust().len());
        self.world.partition(|ix| u8::from(ix.0.is_multiple_of(2)));
        self.world.run_for(self.sizes.partition);
        let lost: usize = all.iter().map(|ix| self.world.missing(*ix, &all)).sum();
        self.world.heal();
        let healed = self.world.time();
        let whole = self.world.run_until(Duration::from_secs(600), World::is_whole);
        let after = if whole { (self.world.time() - healed).as_secs_f64() } else { NEVER };
        let unjust = self.world.unjust().len() - before;
        let halves = (all.len() * all.len()) as f64 / 2.0;
        vec![
            Figure::info(self.name("partition of 50/50: lost across it"), lost as f64 / halves * 100.0, "%"),
            Figure::target(self.name("partition of 50/50 heals, all views whole"), after, "s", 150.0),
            Figure::target(self.name("members of one's own half declared down"), unjust as f64, "members", 0.0),
        ]
    }

    /// Makes one member malicious, and then a tenth of them. First all accuse the same member, then they try
    /// everything.
    pub fn attacked(&mut self) -> Vec<Figure> {
        let mut rng = StdRng::seed_from_u64(self.world.rng.random());
        let (victim, died) = (self.world.any_honest(), self.world.any_honest());
        self.world.crash(died);
        self.world.run_for(APART);
        let mut figures = Vec::new();
        for (by, count) in [("one malicious member", 1), ("10 % of the members", self.sizes.members / 10)] {
            let before = self.world.unjust().len() as u64 + self.world.ended();
            let honest = self.world.honest().into_iter().filter(|ix| *ix != victim);
            let turned = honest.sample(&mut rng, count);
            for attack in [Attack::AccuseOne, Attack::Everything] {
                for ix in &turned {
                    let behaviour = attack.behaviour(&mut self.world, victim, &[died], &mut rng);
                    self.world.corrupt(*ix, behaviour);
                }
                self.world.run_for(self.sizes.attack / 2);
            }
            let evicted = self.world.unjust().len() as u64 + self.world.ended() - before;
            let name = self.name(&format!("honest members evicted by {by}"));
            figures.push(Figure::target(name, evicted as f64, "members", 0.0));
            figures.push(self.incomplete(&format!("views that lack an honest member under attack by {by}")));
        }
        // The remaining scenarios have no malicious members.
        for ix in self.world.all() {
            self.world.cure(ix);
        }
        self.world.start(died);
        self.world.run_for(APART);
        figures
    }

    /// Counts members declared down by mistake when packets are lost.
    pub fn loss(&mut self) -> Vec<Figure> {
        let (five, fifteen) = self.sizes.node_hours;
        let at_five = self.declared_down(0.05, five);
        let at_fifteen = self.declared_down(0.15, fifteen);
        self.world.set_loss(0.02);
        let name = |loss: &str, hours: f64| {
            self.name(&format!("honest members declared down at {loss} loss in {hours:.0} node-hours"))
        };
        vec![
            Figure::target(name("5 %", five), at_five, "members", 0.0),
            Figure::target(
                self.name("honest members declared down at 15 % loss"),
                at_fifteen / fifteen,
                "/node-hour",
                0.05,
            ),
        ]
    }

    fn declared_down(&mut self, loss: f64, node_hours: f64) -> f64 {
        self.world.set_loss(loss);
        let before = self.world.unjust().len();
        let nodes = self.world.honest().len() as f64;
        self.world.run_for(Duration::from_secs_f64(node_hours / nodes * 3600.0));
        (self.world.unjust().len() - before) as f64
    }

    fn incomplete(&self, figure: &str) -> Figure {
        let all = self.world.honest();
        let lacks = |ix: &&Ix| self.world.missing(**ix, &all) > 0;
        Figure::target(self.name(figure), all.iter().filter(lacks).count() as f64, "views", 0.0)
    }
}

const fn add(a: Load, b: Load) -> Load {
    Load {
        messages: a.messages + b.messages,
        bytes: a.bytes + b.bytes,
        links: a.links + b.links,
        greeted: a.greeted + b.greeted,
        vain_dials: a.vain_dials + b.vain_dials,
    }
}
