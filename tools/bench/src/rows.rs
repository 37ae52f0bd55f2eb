//! The rows of figures, each selected by name.

mod connect;
mod cross;
mod forwarding;
mod growth;
mod killed;
mod rest;

use std::path::{Path, PathBuf};

use chappe_harness::{cores, figures::Figures};
use chappe_testkit::tls::Files;
use tempfile::TempDir;

use super::{
    contender::{Contender, Rounds, alternate},
    generator::{Load, Pace},
};

/// The rows, in the order of a whole run.
pub const ROWS: [&str; 10] = ["plain", "tls", "cross", "1000", "18000", "connect", "idle", "churn", "killed", "growth"];

/// The rows of a quick run. It has no row for a thousand sessions, since all its rows have a thousand.
pub const QUICK_ROWS: [&str; 7] = ["plain", "tls", "cross", "connect", "idle", "churn", "killed"];

/// A payload of a candidate with its description, sealed and padded; and the next larger ones.
const SMALL: usize = 1024;
const LARGE: usize = 8 * 1024;

/// A run of the bench.
#[derive(Debug)]
pub struct Bench {
    figures: Figures,
    dir: TempDir,
    quick: bool,
}

/// Targets for the last of the contenders, relative to others.
#[derive(Clone, Copy, Debug)]
struct Targets<'a> {
    /// Of the processor's time for a message: the contender and the most that is wanted of its.
    cpu: &'a [(&'a str, f64)],
    /// The same, of the 99th percentile of latency.
    p99: &'a [(&'a str, f64)],
    /// The same, of messages a second: the least.
    rate: &'a [(&'a str, f64)],
}

const NO_TARGETS: Targets<'static> = Targets { cpu: &[], p99: &[], rate: &[] };

impl Bench {
    /// A run; a quick one has fewer and shorter rounds.
    ///
    /// # Panics
    /// There is no folder for temporary files.
    pub fn new(figures: Figures, quick: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Files::make(dir.path());
        if !cores::are_two() {
            figures.warn("no two cores (or no taskset, of util-linux): what is measured shares one, and no figure is to be trusted");
        }
        Self { figures, dir, quick }
    }

    /// Measures one row.
    ///
    /// # Panics
    /// There is no such row, or a process fails.
    pub async fn run(&self, row: &str) {
        self.figures.remark(&format!("{row}…"));
        match row {
            "plain" => self.plain().await,
            "tls" => self.over_tls().await,
            "cross" => self.cross().await,
            "1000" => self.other_size(1000).await,
            "18000" => self.other_size(18_000).await,
            "connect" => self.connecting().await,
            "idle" => self.idle().await,
            "churn" => self.come_and_go().await,
            "killed" => self.killed().await,
            "growth" => self.growth().await,
            other => panic!("no such row: {other}; there are {}", ROWS.join(", ")),
        }
    }

    fn tls(&self) -> &Path {
        self.dir.path()
    }

    /// A folder for a server's files.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn sessions(&self) -> u32 {
        if self.quick { 1000 } else { 10_000 }
    }

    /// Puts a load on each contender in turn, and prints what came of it.
    async fn compare(&self, what: &str, contenders: &mut [Contender], load: Load, targets: Targets<'_>) -> Vec<Rounds> {
        let (rounds, seconds) = if self.quick { (2, 0.5) } else { (5, load.seconds) };
        for contender in contenders.iter() {
            let retried = contender.opened.retried;
            if retried > 0 {
                self.figures.warn(&format!("{}: {retried} pairs of clients weren't served at once", contender.name));
            }
        }
        let all = alternate(contenders, Load { seconds, ..load }, rounds).await;
        let figures = self.figures;
        let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
        for (name, rounds) in names.iter().zip(&all) {
            let of = |figure: &str| format!("{what}: {figure}, {name}");
            if let Pace::Closed { .. } = load.pace {
                figures.print_least(&of("throughput"), rounds.median(|loaded| loaded.rate()), "/s", None);
            }
            figures.print(&of("CPU a message"), rounds.median(|loaded| loaded.cpu_us()), "µs", None);
            for (at, share) in ["p50", "p99", "p99.9"].iter().enumerate() {
                figures.print(&of(share), rounds.median(|loaded| loaded.latency_us[at]), "µs", None);
            }
            let faults = rounds.faults();
            #[expect(clippy::cast_precision_loss, reason = "faults of a run fit")]
            let total = faults.total() as f64;
            if !figures.print(&of("lost, misrouted, altered or reordered"), total, "", Some(0.0)) {
                figures.warn(&format!("{what}, {name}: {faults:?}"));
            }
            if let Some(limit) = rounds.limit(load.pace) {
                figures.warn(&format!("{what}, {name}: not to be trusted: {limit}"));
            }
        }
        let (Some(name), Some(own)) = (names.last(), all.last()) else { return all };
        let floor = |wanted: &str| names.iter().position(|name| *name == wanted).map(|at| &all[at]);
        let of = |figure: &str, to: &str| format!("{what}: {figure}, {name} ÷ {to}");
        for (to, most) in targets.cpu {
            let Some(floor) = floor(to) else { continue };
            figures.print(&of("CPU", to), own.ratio(floor, |loaded| loaded.cpu_us()), "", Some(*most));
        }
        for (to, most) in targets.p99 {
            let Some(floor) = floor(to) else { continue };
            figures.print(&of("p99", to), own.ratio(floor, |loaded| loaded.latency_us[1]), "", Some(*most));
        }
        for (to, least) in targets.rate {
            let Some(floor) = floor(to) else { continue };
            figures.print_least(&of("throughput", to), own.ratio(floor, |loaded| loaded.rate()), "", Some(*least));
        }
        all
    }
}
