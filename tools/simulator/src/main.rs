//! Runs the simulator: `cargo xtask simulate --members 1000 [--json] [--seed S] [--only NAME]`.
//!
//! Progress goes to stderr, figures to stdout: a table, or a JSON object a line. The exit status is 1 if a target was
//! missed. `--only` selects scenarios with NAME in their name: start, steady, crash, join, partition, attacked, loss,
//! stalls, flaps, attack with the name of one, placement, lookups.

use std::{process::ExitCode, time::Instant};

use chappe_harness::figures::Figures;
use chappe_simulator::{
    scenario::{
        Figure, Sizes,
        attacks::{self, Attack},
        calm::Calm,
        faults, leases,
    },
    world::Conditions,
};

/// Sizes that are measured in addition to the one of `--members`.
const SMALLER: [usize; 2] = [100, 300];

struct Args {
    members: usize,
    seed: u64,
    only: Option<String>,
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { members: 1000, seed: 1, only: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--members" => parsed.members = value()?.parse().map_err(|_| "--members: a number".to_owned())?,
                "--seed" => parsed.seed = value()?.parse().map_err(|_| "--seed: a number".to_owned())?,
                "--only" => parsed.only = Some(value()?),
                "--json" => {}
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if parsed.members < 20 {
            return Err("--members: at least 20".to_owned());
        }
        Ok(parsed)
    }
}

/// A run of the program.
struct Run {
    args: Args,
    figures: Figures,
    started: Instant,
    missed: usize,
}

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut run = Run { args, figures: Figures::from_args(), started: Instant::now(), missed: 0 };
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    run.show("seed", vec![Figure::info("seed", run.args.seed as f64, "")]);
    let members = run.args.members;
    let conditions = Conditions::new(run.args.seed);
    for size in SMALLER.into_iter().filter(|size| *size < members) {
        run.calm(conditions, Sizes { repeats: 10, ..Sizes::full(size) });
    }
    let sizes = Sizes::full(members);
    run.calm(conditions, sizes);
    run.try_one("stalls", || faults::stalls(conditions, sizes));
    run.try_one("flaps", || faults::flaps(conditions, sizes));
    for (name, attack) in Attack::all() {
        run.try_one(&format!("attack {name}"), || attacks::attack(conditions, sizes, &name, attack));
    }
    run.try_one("attack strangers", || attacks::strangers(conditions, sizes));
    run.try_one("attack anchors", || attacks::anchors(conditions, sizes));
    run.try_one("placement", || leases::placement(conditions.seed, sizes));
    run.try_one("lookups", || leases::lookups(conditions.seed, sizes));
    if run.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.args.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Runs the scenarios without attackers, all in one world.
    fn calm(&mut self, conditions: Conditions, sizes: Sizes) {
        type Try = fn(&mut Calm) -> Vec<Figure>;
        let tries: [(&str, Try); 6] = [
            ("steady", Calm::steady),
            ("crash", Calm::crash),
            ("join", Calm::join),
            ("partition", Calm::partition),
            ("attacked", Calm::attacked),
            ("loss", Calm::loss),
        ];
        if !self.wants("start") && tries.iter().all(|(name, _)| !self.wants(name)) {
            return;
        }
        let mut calm = Calm::new(conditions, sizes);
        let started = calm.start();
        self.show("start", started);
        for (name, attempt) in tries {
            if self.wants(name) {
                let figures = attempt(&mut calm);
                self.show(name, figures);
            }
        }
    }

    fn try_one(&mut self, name: &str, attempt: impl FnOnce() -> Vec<Figure>) {
        if self.wants(name) {
            let figures = attempt();
            self.show(name, figures);
        }
    }

    fn show(&mut self, name: &str, figures: Vec<Figure>) {
        eprintln!("{name}: done after {:.0} s", self.started.elapsed().as_secs_f64());
        for figure in figures {
            self.missed += usize::from(!figure.is_ok());
            self.figures.print(&figure.name, figure.value, figure.unit, figure.target);
        }
    }
}
