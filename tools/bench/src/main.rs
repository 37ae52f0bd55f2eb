//! Measures what messages, sessions and connections cost: `cargo xtask bench [--json] [--quick] [--only ROW]…`.
//!
//! Real processes over loopback: the node beside floors. `docs/benchmarks.md` defines the figures.

use std::process::ExitCode;

use chappe_bench::{
    floors, generator,
    rows::{Bench, QUICK_ROWS, ROWS},
};
use chappe_harness::{args::Args, cores, figures::Figures, process};
use chappe_testkit::members;

const USAGE: &str = "usage: bench [--json] [--quick] [--only ROW]…";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Processes of this program that the bench starts.
    match &args[..] {
        [kind, plan] if kind == "generate" => generator::run(&serde_json::from_str(plan).expect("a plan")),
        [kind, floor] if kind == "floor" => {
            process::end_with_parent();
            floors::run(&serde_json::from_str(floor).expect("a floor"));
        }
        [kind, members] if kind == "members" => {
            process::end_with_parent();
            members::run(&serde_json::from_str(members).expect("members"));
        }
        args => return measure(args),
    }
    ExitCode::SUCCESS
}

fn measure(args: &[String]) -> ExitCode {
    let Ok(Args { quick, mut rows }) = Args::parse(args, &ROWS) else {
        return fail(&format!("{USAGE}\nrows: {}", ROWS.join(", ")));
    };
    if rows.is_empty() {
        rows = if quick { QUICK_ROWS.to_vec() } else { ROWS.to_vec() };
    }
    if !process::is_built() {
        return fail("cargo build -p chappe failed");
    }
    cores::move_to(cores::GENERATORS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bench = Bench::new(Figures::from_args(), quick);
    for row in rows {
        runtime.block_on(bench.run(row));
    }
    ExitCode::SUCCESS
}

fn fail(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(2)
}
