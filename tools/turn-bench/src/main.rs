//! Measures what relaying costs beside other TURN servers: `cargo xtask turn-bench [--json] [--quick] [--only FIGURE]…`.
//!
//! Real processes over loopback. `docs/benchmarks.md` defines the figures.

use std::process::ExitCode;

use chappe_harness::{args::Args, cores, figures::Figures, process};
use chappe_turn_bench::{
    rows::{Bench, ROWS},
    servers, signalling,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "usage: turn-bench [--json] [--quick] [--only FIGURE]…";

fn main() -> ExitCode {
    allow_many_files();
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A process of this program that the bench starts.
    if let [kind, server] = &args[..]
        && kind == "serve"
    {
        process::end_with_parent();
        servers::serve(&serde_json::from_str(server).expect("a server"));
        return ExitCode::SUCCESS;
    }
    if let [kind, url] = &args[..]
        && kind == "signal"
    {
        signalling::run(url);
        return ExitCode::SUCCESS;
    }
    measure(&args)
}

fn measure(args: &[String]) -> ExitCode {
    let Ok(Args { quick, mut rows }) = Args::parse(args, &ROWS) else {
        return fail(&format!("{USAGE}\nfigures: {}", ROWS.join(", ")));
    };
    if rows.is_empty() {
        rows = ROWS.to_vec();
    }
    cores::move_to(cores::GENERATORS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bench = Bench::new(Figures::from_args(), quick);
    for row in rows {
        runtime.block_on(bench.run(row));
    }
    ExitCode::SUCCESS
}

/// Raises the limit of open files as far as is allowed. Servers inherit it.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With the old limit, rows with few allocations still work.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn fail(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(2)
}
