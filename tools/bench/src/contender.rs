//! Contenders: servers with their generators. They take turns under load, so that changes in the machine's speed affect
//! all of them.

use chappe_harness::{cpu::MAX_OTHERS, figures::percentile};

use super::{
    driver::Generator,
    generator::{Depth, Faults, Load, Loaded, Opened, Pace, Plan},
    server::Servers,
};

/// How late the generator may send, in microseconds: a small part of the target latencies.
const MAX_LATE_US: f64 = 500.0;
/// The percentage of its core from which on a server counts as saturated.
const MIN_SERVER: f64 = 95.0;

/// Servers and their generator.
#[derive(Debug)]
pub struct Contender {
    /// Its name in figures.
    pub name: &'static str,
    /// The servers.
    pub servers: Servers,
    /// Their generator.
    pub generator: Generator,
    /// The servers' memory without sessions, in KiB.
    pub bare_kib: u64,
    /// What opening the sessions cost.
    pub opened: Opened,
}

/// The results of the same load in several rounds.
#[derive(Debug)]
pub struct Rounds(Vec<Loaded>);

impl Contender {
    /// Starts a generator, and opens sessions at the servers.
    ///
    /// # Panics
    /// One isn't opened.
    pub async fn start(name: &'static str, servers: Servers, sessions: u32, depth: Depth) -> Self {
        let plan = servers.plan();
        Self::start_as(name, servers, &plan, sessions, depth).await
    }

    /// Starts a generator, and opens all sessions at the first of the servers.
    ///
    /// # Panics
    /// One isn't opened.
    pub async fn start_at_first(name: &'static str, servers: Servers, sessions: u32, depth: Depth) -> Self {
        let mut plan = servers.plan();
        plan.servers.truncate(1);
        Self::start_as(name, servers, &plan, sessions, depth).await
    }

    async fn start_as(name: &'static str, servers: Servers, plan: &Plan, sessions: u32, depth: Depth) -> Self {
        let bare_kib = servers.resident_kib();
        let mut generator = Generator::start(plan);
        let opened = generator.connect(sessions, depth).await;
        Self { name, servers, generator, bare_kib, opened }
    }

    /// The servers' memory for each session, in KiB.
    pub fn session_kib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
        let grown = self.servers.resident_kib().saturating_sub(self.bare_kib) as f64;
        grown / f64::from(self.opened.sessions)
    }
}

/// Puts the same load on each contender, in turn.
///
/// # Panics
/// A generator has ended.
pub async fn alternate(contenders: &mut [Contender], load: Load, rounds: usize) -> Vec<Rounds> {
    let mut all: Vec<_> = contenders.iter().map(|_| Rounds(Vec::new())).collect();
    for _ in 0..rounds {
        for (contender, rounds) in contenders.iter_mut().zip(&mut all) {
            rounds.0.push(contender.generator.load(load).await);
        }
    }
    all
}

impl Loaded {
    /// The servers' time for a message, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.usage.servers.as_secs_f64() * 1e6 / self.count()
    }

    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.count() / self.usage.elapsed.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "messages of a run fit")]
    fn count(&self) -> f64 {
        self.messages as f64
    }

    /// The part of their core that the servers used, 0 to 1.
    pub fn server_share(&self) -> f64 {
        self.usage.servers.as_secs_f64() / self.usage.elapsed.as_secs_f64()
    }
}

impl Rounds {
    /// The median of a figure over the rounds.
    pub fn median(&self, of: impl Fn(&Loaded) -> f64) -> f64 {
        percentile(&mut self.0.iter().map(of).collect::<Vec<_>>(), 0.5)
    }

    /// The median of the ratios of a figure to another's in the same round.
    pub fn ratio(&self, to: &Self, of: impl Fn(&Loaded) -> f64) -> f64 {
        percentile(&mut self.0.iter().zip(&to.0).map(|(own, other)| of(own) / of(other)).collect::<Vec<_>>(), 0.5)
    }

    /// The faulty messages of all rounds together.
    pub fn faults(&self) -> Faults {
        self.0.iter().fold(Faults::default(), |sum, loaded| {
            let one = loaded.faults;
            Faults {
                lost: sum.lost + one.lost,
                misrouted: sum.misrouted + one.misrouted,
                altered: sum.altered + one.altered,
                reordered: sum.reordered + one.reordered,
                unexpected: sum.unexpected + one.unexpected,
            }
        })
    }

    /// Why its figures aren't reliable, if they aren't.
    pub fn limit(&self, pace: Pace) -> Option<String> {
        let others = self.median(|loaded| loaded.usage.others * 100.0);
        if others > MAX_OTHERS {
            return Some(format!("other processes took {others:.0} % of a core"));
        }
        match pace {
            Pace::Open { .. } => {
                let late = self.median(|loaded| loaded.late_us);
                (late > MAX_LATE_US).then(|| format!("the generator was late by {late:.0} µs (p99)"))
            }
            Pace::Closed { .. } => {
                let share = self.median(|loaded| loaded.server_share() * 100.0);
                (share < MIN_SERVER)
                    .then(|| format!("the generator was the limit: the server used {share:.0} % of its core"))
            }
        }
    }
}
