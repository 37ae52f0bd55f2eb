//! Scenarios with malicious members: which attacks fail, and which have an effect.

use std::{net::Ipv4Addr, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use chappe_node::membership::counts::{Counts, Reason};

use super::{Figure, NEVER, Sizes, share_of, start_all};
use crate::{
    attack::{
        Behaviour,
        accuse::Accuse,
        claim::{ClaimDead, Hide, Invent, Quiet},
        replay::Replay,
        selective::Selective,
        versatile::Versatile,
        words::Words,
    },
    node::Ix,
    watch::Fact,
    world::{Conditions, World},
};

/// The longest, in seconds, until a crash is known although a tenth of all lie. Who has just been accused in vain isn't
/// looked at again for twenty seconds on others' word; after that it takes what it takes where nobody lies.
const CRASH_KNOWN: f64 = 30.0;

/// The most checks that may be open at a node, and the most claims that may wait, as the engine has them.
const MOST_CHECKS: usize = 256;
const MOST_CLAIMS: usize = 4096;

/// An attack by malicious members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Packets that lie.
    Words(Words),
    /// False accusations, all of the same member.
    AccuseOne,
    /// False accusations of everybody.
    AccuseMany,
    /// Accusations in the name of others.
    ForgeAccusations,
    /// Old records, leaves and accusations, of members that have left, crashed and started again.
    Replay,
    /// Records of invented nodes.
    Invent,
    /// Members that have died are said to be there.
    ClaimDead,
    /// Half of the members find them silent, and half don't.
    Selective,
    /// All of it in turn.
    Everything,
}

impl Attack {
    /// All of them, with their names.
    pub fn all() -> Vec<(String, Self)> {
        let words = Words::ALL.iter().map(|words| (format!("{words:?}"), Self::Words(*words)));
        let others = [
            Self::AccuseOne,
            Self::AccuseMany,
            Self::ForgeAccusations,
            Self::Replay,
            Self::Invent,
            Self::ClaimDead,
            Self::Selective,
            Self::Everything,
        ];
        words.chain(others.into_iter().map(|attack| (format!("{attack:?}"), attack))).collect()
    }

    /// The behaviour of a member that tries this. All accuse `victim`; `dead` are members that have crashed.
    pub(super) fn behaviour(self, world: &mut World, victim: Ix, dead: &[Ix], rng: &mut StdRng) -> Box<dyn Behaviour> {
        match self {
            Self::Words(words) => Box::new(words),
            Self::AccuseOne => Box::new(Accuse::One(world.member(victim))),
            Self::AccuseMany => Box::new(Accuse::Many),
            Self::ForgeAccusations => Box::new(Accuse::Forged),
            Self::Replay => Box::new(Replay::default()),
            Self::Invent => Box::new(Invent::new(world.federation(), world.now(), 400, rng)),
            Self::ClaimDead => Box::new(ClaimDead { dead: dead.iter().map(|ix| world.record(*ix)).collect() }),
            Self::Selective => Box::new(Selective),
            Self::Everything => {
                let parts = Self::all().into_iter().map(|(_, attack)| attack).filter(|attack| *attack != self);
                Box::new(Versatile::new(parts.map(|part| part.behaviour(world, victim, dead, rng)).collect()))
            }
        }
    }
}

/// A world under attack.
struct Attacked {
    world: World,
    dead: Vec<Ix>,
    victim: Option<Ix>,
    rng: StdRng,
}

impl Attacked {
    fn new(conditions: Conditions, members: usize) -> Self {
        let mut world = World::new(conditions);
        for _ in 0..members {
            world.add();
        }
        start_all(&mut world);
        world.run_for(Duration::from_secs(30));
        Self { world, dead: Vec::new(), victim: None, rng: StdRng::seed_from_u64(conditions.seed ^ 0x6576_696c) }
    }

    /// Makes members malicious.
    fn turn(&mut self, count: usize, attack: Attack) {
        let victim = self.world.any_honest();
        self.victim = Some(victim);
        if matches!(attack, Attack::ClaimDead | Attack::Everything) {
            self.dead = self.world.honest().into_iter().filter(|ix| *ix != victim).sample(&mut self.rng, 2);
            for ix in self.dead.clone() {
                self.world.crash(ix);
            }
            self.world.run_for(Duration::from_secs(30));
        }
        let honest = self.world.honest().into_iter().filter(|ix| *ix != victim);
        for ix in honest.sample(&mut self.rng, count) {
            let behaviour = attack.behaviour(&mut self.world, victim, &self.dead, &mut self.rng);
            self.world.corrupt(ix, behaviour);
        }
    }

    /// Lets members leave, crash and restart, so that there is old gossip to replay.
    fn come_and_go(&mut self) {
        let leaver = self.world.any_honest();
        self.world.leave(leaver);
        self.world.run_for(Duration::from_secs(5));
        self.world.crash(leaver);
        let crasher = self.world.any_honest();
        self.world.crash(crasher);
        self.world.run_for(Duration::from_secs(30));
        self.world.start(leaver);
        self.world.start(crasher);
    }
}

/// One attack, by one member and by a tenth of them.
#[expect(clippy::cast_precision_loss, reason = "few members")]
pub fn attack(conditions: Conditions, sizes: Sizes, name: &str, attack: Attack) -> Vec<Figure> {
    let members = sizes.attacked;
    let mut figures = Vec::new();
    for (by, count) in [("one", 1), ("10 %", members / 10)] {
        let mut attacked = Attacked::new(conditions, members);
        attacked.turn(count, attack);
        if matches!(attack, Attack::Replay | Attack::Everything) {
            attacked.world.run_for(sizes.attack / 4);
            attacked.come_and_go();
        }
        let before = attacked.cost();
        let (mut checks, mut claims) = (0, 0);
        let end = attacked.world.time() + sizes.attack;
        while attacked.world.time() < end {
            attacked.world.run_for(Duration::from_secs(5));
            let open = attacked.world.honest().into_iter().map(|ix| attacked.world.engine(ix).open_counts());
            (checks, claims) = open.fold((checks, claims), |(c, w), open| (c.max(open.checks), w.max(open.claims)));
        }
        let cost = attacked.cost();
        let name = |figure: &str| format!("{name} by {by}: {figure} (N = {members})");
        let honest = attacked.world.honest();
        let minutes = honest.len() as f64 * sizes.attack.as_secs_f64() / 60.0;
        figures.extend(attacked.harm(&name));
        let over = checks.saturating_sub(MOST_CHECKS) + claims.saturating_sub(MOST_CLAIMS);
        figures.push(Figure::target(name("open checks and claims over their bounds"), over as f64, "", 0.0));
        figures.push(Figure::info(name("refused, disproved or in vain"), attacked.noticed() as f64, ""));
        figures.push(Figure::info(
            name("vain dials of an honest member"),
            (cost.0 - before.0) as f64 / minutes,
            "/min",
        ));
        figures.push(Figure::info(
            name("messages of an honest member"),
            (cost.1 - before.1) as f64 / minutes / 60.0,
            "/s",
        ));
        let known = attacked.crash();
        figures.push(Figure::target(
            name("a crash of the victim known by all honest members"),
            known,
            "s",
            CRASH_KNOWN,
        ));
    }
    figures
}

#[expect(clippy::cast_precision_loss, reason = "few members")]
impl Attacked {
    /// The victim crashes: after how long all honest members know.
    fn crash(&mut self) -> f64 {
        let victim = self.victim.expect("a victim was chosen when members were turned");
        let gone = self.world.watch_for(Fact::Gone(self.world.id(victim)));
        self.world.crash(victim);
        let others = self.world.honest();
        self.world.run_for(Duration::from_secs(60));
        let answers = self.world.known_after(gone, &others);
        self.world.stop_watching();
        share_of(&answers, 100)
    }

    /// Vain dials, and messages, of all honest members so far.
    fn cost(&self) -> (u64, u64) {
        let loads = self.world.honest().into_iter().map(|ix| self.world.load(ix));
        loads.fold((0, 0), |(dials, messages), load| (dials + load.vain_dials, messages + load.messages))
    }

    /// How often an honest member has refused something, found an accusation false, or a claimed node not there.
    fn noticed(&self) -> u64 {
        let counts = self.world.honest().into_iter().map(|ix| self.world.engine(ix).counts());
        let refused = |counts: &Counts| Reason::ALL.iter().map(|reason| counts.refused(*reason)).sum::<u64>();
        counts.map(|counts| refused(counts) + counts.disproved + counts.false_claims).sum()
    }

    /// Figures that no attack may affect.
    fn harm(&mut self, name: &impl Fn(&str) -> String) -> Vec<Figure> {
        let evicted = self.world.unjust().len() as u64 + self.world.ended();
        let honest = self.world.honest();
        let revived = honest.iter().map(|ix| self.dead.iter().filter(|dead| self.world.sees(*ix, **dead)).count());
        let invented: usize = honest.iter().map(|ix| self.world.strangers(*ix)).sum();
        let revived: usize = revived.sum();
        let lack = honest.iter().filter(|ix| self.world.missing(**ix, &honest) > 0).count();
        vec![
            Figure::target(name("honest members evicted"), evicted as f64, "members", 0.0),
            Figure::target(name("views that lack an honest member"), lack as f64, "views", 0.0),
            Figure::target(name("members in views that aren't there"), (revived + invented) as f64, "members", 0.0),
        ]
    }
}

/// Attackers that haven't been admitted, or shouldn't be.
#[expect(clippy::cast_precision_loss, reason = "few members")]
pub fn strangers(conditions: Conditions, sizes: Sizes) -> Vec<Figure> {
    let members = sizes.attacked;
    let mut attacked = Attacked::new(conditions, members);
    // A dozen nodes of one person, in one /24; and a dozen more that show the address of a member, of
    // nobody, or of something in the hearer's own network.
    let world = &mut attacked.world;
    let mut sybils = Vec::new();
    for n in 1..=12 {
        let sybil = world.add_at((Ipv4Addr::new(70, 16, 5, n), 8711).into(), None);
        sybils.push(sybil);
    }
    let victim = world.any_honest();
    let shown = world.record(victim).quic_addrs[0];
    let mut liars = Vec::new();
    for n in 1..=12 {
        let shown = match n % 3 {
            0 => shown,
            1 => (Ipv4Addr::new(60, 0, n, 1), 8711).into(),
            _ => (Ipv4Addr::new(192, 168, 0, n), 8711).into(),
        };
        liars.push(world.add_at((Ipv4Addr::new(70, 17, n, 1), 8711).into(), Some(shown)));
    }
    for ix in sybils.iter().chain(&liars) {
        world.corrupt(*ix, Box::new(Quiet));
        world.start(*ix);
    }
    let before = attacked.cost();
    attacked.world.run_for(sizes.attack);
    let minutes = members as f64 * sizes.attack.as_secs_f64() / 60.0;
    let dials = (attacked.cost().0 - before.0) as f64 / minutes;
    let world = &attacked.world;
    let seen = |ix: &Ix, of: &[Ix]| of.iter().filter(|other| world.sees(*ix, **other)).count();
    let honest = world.honest();
    let most = honest.iter().map(|ix| seen(ix, &sybils)).max().unwrap_or_default();
    let false_addresses: usize = honest.iter().map(|ix| seen(ix, &liars)).sum();
    let name = |figure: &str| format!("strangers: {figure} (N = {members})");
    let mut figures = vec![
        Figure::target(name("members of one /24 in a view"), most as f64, "members", 2.0),
        Figure::target(name("members at addresses that aren't theirs"), false_addresses as f64, "members", 0.0),
        Figure::info(name("vain dials of an honest member"), dials, "/min"),
    ];
    figures.extend(attacked.harm(&name));
    figures
}

/// A joiner whose anchors show it a view of their own.
pub fn anchors(conditions: Conditions, sizes: Sizes) -> Vec<Figure> {
    let members = sizes.attacked;
    let conditions = Conditions { registry: true, ..conditions };
    let mut figures = Vec::new();
    for (what, lying, longest) in [("two of three anchors lie", 2, 60), ("all anchors lie", 3, 700)] {
        let mut attacked = Attacked::new(conditions, members);
        let world = &mut attacked.world;
        let chosen = world.honest().into_iter().sample(&mut attacked.rng, 3);
        let shown = chosen[..lying].iter().map(|ix| world.id(*ix)).collect();
        let hide = Hide { shown };
        for ix in &chosen[..lying] {
            world.corrupt(*ix, Box::new(hide.clone()));
        }
        let joiner = world.add();
        world.set_anchors(joiner, chosen);
        world.start(joiner);
        let since = world.time();
        let others = world.honest();
        let sees = |world: &World| world.missing(joiner, &others) == 0;
        let whole = world.run_until(Duration::from_secs(longest), sees);
        let after = if whole { (world.time() - since).as_secs_f64() } else { NEVER };
        let name = format!("{what}: the joiner's view whole after (N = {members})");
        #[expect(clippy::cast_precision_loss, reason = "a few minutes")]
        figures.push(Figure::target(name, after, "s", longest as f64));
    }
    figures
}
