//! Attacks a real node while honest people call: `cargo run --release -p chappe-tests --bin flood -- [--json]
//! [--only NAME] [--quick]`.
//!
//! Fails where an honest message was lost, somebody new wasn't let in, the node panicked, or refused without counting it.
//! Latency and memory are printed with what is wanted.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use chappe_tests::{
    figures::Figures,
    flood::{
        attack::{ATTACKS, Plan, Tally, carry_out},
        run::{Course, run},
    },
};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let after = |name: &str| args.iter().position(|arg| arg == name).map(|at| &args[at + 1..]);
    // The process of one attack, as the course starts it.
    if let Some([name, node, quic, id, millis, ..]) = after("--attack") {
        let until = Instant::now() + Duration::from_millis(millis.parse().expect("a number"));
        let (node, quic) = (node.parse().expect("an address"), quic.parse().expect("an address"));
        let plan = Plan { node, quic, id: id.clone(), until, quick, tally: Tally::default() };
        println!("{}", carry_out(name, plan).await);
        return ExitCode::SUCCESS;
    }
    let only = after("--only").and_then(|rest| rest.first()).cloned();
    if only.as_ref().is_some_and(|only| only != "guess-codes" && ATTACKS.iter().all(|attack| attack.name != only)) {
        let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        eprintln!("error: no such attack; there are {} and guess-codes", names.join(", "));
        return ExitCode::FAILURE;
    }
    let figures = Figures::from_args();
    // Cargo runs this, and has not built the other binary; whoever runs it by itself has.
    if let Some(cargo) = std::env::var_os("CARGO") {
        figures.remark("building the binary…");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let built = Command::new(cargo).current_dir(root).args(["build", "--release", "--quiet"]).status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("error: cargo build --release failed");
            return ExitCode::FAILURE;
        }
    }
    if run(figures, &Course { only, quick }).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
