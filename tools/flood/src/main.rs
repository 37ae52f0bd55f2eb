//! Attacks a real node while honest clients call: `cargo xtask flood [--json] [--only NAME] [--quick] [--buffers MIB]`.
//! With `--buffers` it runs in its own network namespace, in which the system's buffers of a TCP connection grow up to
//! that many MiB.
//!
//! Fails if a message of the baseline was lost or a newcomer wasn't let in; if the node panicked, refused something
//! without counting it, or counted differently from the attacker; if guessing codes reveals anything; or if an attack
//! leaves more memory in use each time it runs. Latency is printed with its target and doesn't fail the run.

use std::{process::ExitCode, time::Duration};

use chappe_flood::{
    attack::{ATTACKS, carry_out},
    baseline,
    plan::{Plan, Tally},
    run::{Course, GUESS_CODES, run},
};
use chappe_harness::{cores, figures::Figures, process};
use tokio::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Processes of this program that the course starts.
    match &args[..] {
        [kind, plan] if kind == "--honest" => baseline::run(&serde_json::from_str(plan).expect("a plan")),
        [kind, name, node, quic, id, millis, rest @ ..] if kind == "--attack" => {
            println!("{}", attack(name, [node, quic, id, millis], rest.iter().any(|arg| arg == "--quick")));
        }
        args => return course(args),
    }
    ExitCode::SUCCESS
}

fn course(args: &[String]) -> ExitCode {
    let mut course = Course { only: None, quick: false };
    let mut buffers = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--json" => {}
            "--quick" => course.quick = true,
            "--buffers" => {
                match rest.next().and_then(|mib| mib.parse::<u32>().ok()).filter(|mib| (1..=64).contains(mib)) {
                    Some(mib) => buffers = Some(mib),
                    None => return fail("--buffers wants a number of MiB from 1 to 64"),
                }
            }
            "--only" => match rest.next().filter(|name| is_attack(name)) {
                Some(name) => course.only = Some(name.clone()),
                None => {
                    let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
                    return fail(&format!("--only wants one of {} and {GUESS_CODES}", names.join(", ")));
                }
            },
            unknown => {
                return fail(&format!(
                    "unknown argument {unknown}; there are --json, --quick, --buffers MIB, and --only NAME"
                ));
            }
        }
    }
    if course.quick && course.only.as_deref() == Some(GUESS_CODES) {
        return fail("guessing codes has no quick form: it would run nothing");
    }
    if !process::is_built() {
        return fail("cargo build -p chappe failed");
    }
    if let Some(mib) = buffers {
        return in_a_namespace(mib, args);
    }
    // The node has the other core.
    cores::move_to(cores::GENERATORS);
    let figures = Figures::from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if runtime.block_on(run(figures, &course)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_attack(name: &str) -> bool {
    name == GUESS_CODES || ATTACKS.iter().any(|attack| attack.name == name)
}

fn fail(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(2)
}

/// Carries out one attack, on one thread, since the process has one core.
fn attack(name: &str, [node, quic, id, millis]: [&String; 4], quick: bool) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let until = Instant::now() + Duration::from_millis(millis.parse().expect("a number"));
        let (node, quic) = (node.parse().expect("an address"), quic.parse().expect("an address"));
        carry_out(name, Plan { node, quic, id: id.clone(), until, quick, tally: Tally::default() }).await
    })
}

/// Runs the course again in its own network namespace, with this bound on buffers.
fn in_a_namespace(mib: u32, args: &[String]) -> ExitCode {
    let at = args.iter().position(|arg| arg == "--buffers").unwrap_or(args.len());
    let rest = args.iter().enumerate().filter(|(index, _)| *index != at && *index != at + 1).map(|(_, arg)| arg);
    let most = mib * 1024 * 1024;
    let script = format!(
        "ip link set lo up && sysctl -qw net.ipv4.tcp_rmem='4096 131072 {most}' net.ipv4.tcp_wmem='4096 16384 {most}' \
         && exec \"$0\" \"$@\""
    );
    let Ok(program) = std::env::current_exe() else { return fail("this program has no path") };
    let mut command = std::process::Command::new("unshare");
    command.args(["-rn", "sh", "-c", &script]).arg(program).args(rest);
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(&format!("unshare (util-linux), ip (iproute2) and sysctl (procps) are needed: {error}")),
    }
}
