//! Discovery against faults, over real sockets: `cargo xtask discovery-faults [--json] [--only NAME] [--runs N]`.
//!
//! Prints the matrix of faults and sources, the times until the first proven node with round trips of 100 ms beside
//! those of a ladder, and how often clients choose a hostile registry's nodes. The exit status is 1 if a target was
//! missed. `--only` runs one of `matrix`, `times` and `hostile`.

use std::{process::ExitCode, time::Duration};

use chappe_discovery_faults::{
    cells::{self, Cell},
    fault,
    hostile::{self, Choice, Distance},
    times::{ROUND_TRIP, Situation, Stage},
    world::World,
};
use chappe_harness::figures::{Figures, percentile};
use futures_util::{StreamExt as _, stream};

/// Seeds of the hostile registry.
const SEEDS: u32 = 1000;
/// Cells at once: most of their time is waiting.
const CELLS: usize = 6;
/// Runs of the ladder: one takes up to a minute.
const CLIMBS: usize = 10;
/// How long finding a node may take, in seconds, when another source is faulty.
const BESIDE: f64 = 1.0;

struct Args {
    only: Option<String>,
    runs: usize,
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { only: None, runs: 100 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--only" => parsed.only = Some(value()?),
                "--runs" => parsed.runs = value()?.parse().map_err(|_| "--runs: a number".to_owned())?,
                "--json" => {}
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if parsed.runs == 0 {
            return Err("--runs: at least 1".to_owned());
        }
        Ok(parsed)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let figures = Figures::from_args();
    let mut ok = true;
    if args.wants("matrix") {
        ok &= matrix(figures).await;
    }
    if args.wants("times") {
        ok &= times(figures, args.runs).await;
    }
    if args.wants("hostile") {
        ok &= hostile_registry(figures);
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn matrix(figures: Figures) -> bool {
    let world = World::start(3, Duration::ZERO).await;
    let cells =
        fault::SOURCES.into_iter().flat_map(|source| fault::of(source).into_iter().map(move |fault| (source, fault)));
    let tried = cells.map(|(source, fault)| cells::try_cell(&world, source, fault));
    let mut tried = stream::iter(tried).buffered(CELLS);
    let mut ok = true;
    while let Some(cell) = tried.next().await {
        ok &= show(figures, &cell);
    }
    drop(tried);
    world.shutdown().await;
    ok
}

fn show(figures: Figures, cell: &Cell) -> bool {
    let name = format!("{}: {:?}", cell.source, cell.fault);
    let alone = figures.print(&format!("{name}, alone: «{}»", cell.says), cell.alone.as_secs_f64(), "s", Some(10.5));
    let beside = cell.beside.map_or(f64::INFINITY, |took| took.as_secs_f64());
    let beside = figures.print(&format!("{name}, beside a referral that works"), beside, "s", Some(BESIDE));
    let wrong = cell.wrong.join("; ");
    let name = if wrong.is_empty() { format!("{name}, not as expected") } else { format!("{name}: {wrong}") };
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let wrong = figures.print(&name, cell.wrong.len() as f64, "", Some(0.0));
    alone && beside && wrong
}

async fn times(figures: Figures, runs: usize) -> bool {
    let world = World::start(3, ROUND_TRIP).await;
    let mut ok = true;
    for (situation, name, target) in Situation::ALL {
        figures.remark(&format!("{name}…"));
        let stage = Stage::set(&world, situation).await;
        let mut took = stage.search(runs, situation).await;
        ok &= figures.print(&format!("{name}, p95 of {runs}"), percentile(&mut took, 0.95), "s", Some(target));
        figures.print(&format!("{name}, median"), percentile(&mut took, 0.5), "s", None);
        if situation.has_ladder() {
            let climbs = runs.min(CLIMBS);
            let mut took = stage.climb(climbs).await;
            figures.print(
                &format!("{name}, a ladder of 10 s a layer, p95 of {climbs}"),
                percentile(&mut took, 0.95),
                "s",
                None,
            );
        }
    }
    world.shutdown().await;
    ok
}

fn hostile_registry(figures: Figures) -> bool {
    let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(SEEDS) * 100.0;
    let mut ok = true;
    // A registry whose nodes are near every client wins races. The second node shows what that is worth.
    for (distance, what, target) in [(Distance::Same, "as far as others", Some(40.0)), (Distance::Near, "near", None)] {
        type Choose = fn(u64, Distance) -> Choice;
        for (choose, when) in [(hostile::choose as Choose, "first search"), (hostile::choose_again, "second search")] {
            let choices: Vec<_> = (0..SEEDS).map(|seed| choose(seed.into(), distance)).collect();
            let first = share(choices.iter().filter(|choice| choice.first).count());
            let both = share(choices.iter().filter(|choice| choice.both).count());
            let name = format!("hostile registry of 1,000 nodes {what}, {when}, {SEEDS} seeds");
            ok &= figures.print(&format!("{name}: the first node is its own"), first, "%", target);
            ok &= figures.print(&format!("{name}: so is the one that confirms"), both, "%", Some(10.0));
        }
    }
    ok
}
