//! The figures, each selected by name.

mod allocation;
mod packets;
mod signalling;

use chappe_harness::{cores, figures::Figures};

use crate::{
    contender::{Contender, Rounds, alternate},
    generator::{Load, Loaded, Route},
    servers::Kind,
};

/// The names, in the order of a whole run.
pub const ROWS: [&str; 10] =
    ["channels", "many", "hairpin", "loss", "allocation", "tcp", "voice", "growth", "signalling", "connect"];

/// Payloads: audio, and video.
const AUDIO: usize = 200;
const VIDEO: usize = 1200;

/// Rounds of a full run. Other load on the machine disturbs some short rounds, and seldom all of them.
const ROUNDS: usize = 10;

const ALL: [Kind; 4] = [Kind::Chappe, Kind::Coturn, Kind::TurnCrate, Kind::Floor];

/// A run of the bench.
#[derive(Debug)]
pub struct Bench {
    figures: Figures,
    quick: bool,
}

/// Targets for chappe, relative to coturn.
#[derive(Clone, Copy, Debug, Default)]
struct Targets {
    /// Of the processor's time for a packet.
    cpu: Option<f64>,
    /// Of the 99th percentile of latency.
    p99: Option<f64>,
    /// Of the lost packets, in percent; absolute.
    lost: Option<f64>,
}

impl Bench {
    /// A run; a quick one has fewer and shorter rounds.
    pub fn new(figures: Figures, quick: bool) -> Self {
        if !cores::are_two() {
            figures.warn("no two cores (or no taskset, of util-linux): what is measured shares one, and no figure is to be trusted");
        }
        if !Kind::Coturn.is_installed() {
            figures.warn("turnserver, of coturn, is not installed: nothing is compared with it");
        }
        Self { figures, quick }
    }

    /// Measures one row.
    ///
    /// # Panics
    /// There is no such row, or a process fails.
    pub async fn run(&self, row: &str) {
        self.figures.remark(&format!("{row}…"));
        match row {
            "channels" => self.channels().await,
            "many" => self.many().await,
            "hairpin" => self.hairpin().await,
            "loss" => self.loss().await,
            "allocation" => self.allocation().await,
            "tcp" => self.tcp().await,
            "voice" => self.voice().await,
            "growth" => self.growth().await,
            "signalling" => self.signalling().await,
            "connect" => self.first_byte().await,
            other => panic!("no such figure: {other}; there are {}", ROWS.join(", ")),
        }
    }

    /// Starts the contenders that are installed.
    async fn contenders(&self, kinds: &[Kind], clients: usize, route: Route) -> Vec<Contender> {
        let mut contenders = Vec::new();
        for (number, kind) in (1..).zip(kinds) {
            if kind.is_installed() {
                contenders.push(Contender::start(*kind, number, clients, route).await);
            }
        }
        contenders
    }

    /// Puts a load on each contender in turn, and prints the figures.
    fn compare(&self, what: &str, contenders: &mut [Contender], load: Load, targets: Targets) -> Vec<Rounds> {
        let (rounds, seconds) = if self.quick { (2, 0.5) } else { (ROUNDS, load.seconds) };
        let all = alternate(contenders, &Load { seconds, ..load }, rounds);
        let figures = self.figures;
        for (contender, rounds) in contenders.iter().zip(&all) {
            let name = &contender.name;
            let of = |figure: &str| format!("{what}: {figure}, {name}");
            let is_own = contender.kind == Kind::Chappe;
            figures.print(&of("CPU of a packet"), rounds.median(Loaded::cpu_us), "µs", None);
            figures.print(&of("latency, p50"), rounds.least(|loaded| loaded.latency_us[0]), "µs", None);
            figures.print(&of("latency, p99"), rounds.least(|loaded| loaded.latency_us[1]), "µs", None);
            figures.print(&of("lost"), rounds.lost_percent(), "%", targets.lost.filter(|_| is_own));
            let faults = rounds.faults();
            let wrong = faults.misrouted + faults.altered + faults.reordered;
            if wrong > 0 {
                figures.warn(&format!("{what}, {name}: {faults:?}"));
            }
            let busy = rounds.median(Loaded::server_percent);
            if busy > 97.0 {
                figures.warn(&format!("{what}, {name}: the server was saturated, with {busy:.0} % of its core"));
            }
            for limit in rounds.limits() {
                figures.warn(&format!("{what}, {name}: {limit}"));
            }
        }
        let of = |kind| contenders.iter().position(|contender| contender.kind == kind).map(|index| &all[index]);
        if let (Some(own), Some(coturn)) = (of(Kind::Chappe), of(Kind::Coturn)) {
            let cpu = own.ratio(coturn, Loaded::cpu_us);
            figures.print(&format!("{what}: CPU of a packet, chappe ÷ coturn"), cpu, "", targets.cpu);
            let p99 = own.least(|loaded| loaded.latency_us[1]) / coturn.least(|loaded| loaded.latency_us[1]);
            figures.print(&format!("{what}: latency, p99, chappe ÷ coturn"), p99, "", targets.p99);
        }
        all
    }
}
