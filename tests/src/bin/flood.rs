//! Attacks a real node while honest people call: `cargo run --release -p chappe-tests --bin flood -- [--json]
//! [--only NAME] [--quick]`.
//!
//! Fails where an honest message was lost, somebody new wasn't let in, the node panicked, refused without counting it, or
//! counted otherwise than the attacker did, where guessing codes tells anything, and where the same attack played twice leaves more memory behind each time.
//! Latency is printed with what is wanted.

use std::{process::ExitCode, time::Duration};

use chappe_tests::{
    bench::cores,
    figures::Figures,
    flood::{
        attack::{ATTACKS, carry_out},
        honest,
        plan::{Plan, Tally},
        run::{Course, run},
    },
    process,
};
use tokio::time::Instant;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let after = |name: &str| args.iter().position(|arg| arg == name).map(|at| &args[at + 1..]);
    // The processes that the course starts of this program.
    if let Some([plan, ..]) = after("--honest") {
        honest::run(&serde_json::from_str(plan).expect("a plan"));
        return ExitCode::SUCCESS;
    }
    if let Some([name, node, quic, id, millis, ..]) = after("--attack") {
        println!("{}", attack(name, [node, quic, id, millis], quick));
        return ExitCode::SUCCESS;
    }
    let only = after("--only").and_then(|rest| rest.first()).cloned();
    let is_known = |arg: &String| matches!(arg.as_str(), "--json" | "--quick" | "--only") || Some(arg) == only.as_ref();
    if let Some(unknown) = args.iter().find(|arg| !is_known(arg)) {
        eprintln!("error: unknown argument {unknown}; there are --json, --quick, and --only NAME");
        return ExitCode::FAILURE;
    }
    if only.as_ref().is_some_and(|only| only != "guess-codes" && ATTACKS.iter().all(|attack| attack.name != only)) {
        let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        eprintln!("error: no such attack; there are {} and guess-codes", names.join(", "));
        return ExitCode::FAILURE;
    }
    if !process::is_built() {
        eprintln!("error: cargo build -p chappe failed");
        return ExitCode::FAILURE;
    }
    // The node has the other core to itself.
    cores::move_to(cores::GENERATORS);
    let figures = Figures::from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if runtime.block_on(run(figures, &Course { only, quick })) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Carries one attack out, on one thread, as it has one core.
fn attack(name: &str, [node, quic, id, millis]: [&String; 4], quick: bool) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let until = Instant::now() + Duration::from_millis(millis.parse().expect("a number"));
        let (node, quic) = (node.parse().expect("an address"), quic.parse().expect("an address"));
        carry_out(name, Plan { node, quic, id: id.clone(), until, quick, tally: Tally::default() }).await
    })
}
