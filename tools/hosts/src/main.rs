//! Twenty nodes on hosts of their own, with latency, loss, crashes and partitions: `cargo xtask hosts [--json]`.
//!
//! Needs network namespaces (root, or a system that lets users make them), iproute2 and nftables; takes a quarter of an
//! hour. Figures are seen from outside: what each node's `/members` says, ten times a second, and what clients get.

use std::{process::ExitCode, time::Duration};

use chappe_harness::{figures::Figures, process};
use chappe_hosts::{
    fleet::Fleet,
    sandbox::{self, SandboxError},
    scenarios::Scenarios,
    topology,
};
use tokio::time::{Instant, timeout};

/// How many hosts there are.
const HOSTS: u8 = 20;
/// The latency of a packet from one host to another and its jitter, in milliseconds.
const LATENCY_MS: u32 = 50;
const SPREAD_MS: u32 = 20;
/// The percentages of lost packets.
const LOSSES: [u32; 4] = [0, 2, 5, 15];
/// The nodes that are killed, one after the other, at each loss.
const CRASHES: [usize; 5] = [4, 8, 11, 14, 17];
/// The percentage of lost packets during stalls and partitions.
const USUAL_LOSS: u32 = 2;
/// The timeout of a run.
const LONGEST: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    if sandbox::is_inside() {
        process::end_with_parent();
        return inside();
    }
    if !process::is_built() {
        eprintln!("error: cargo build -p chappe failed");
        return ExitCode::FAILURE;
    }
    match sandbox::run_inside() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error @ SandboxError::NotAllowed { .. }) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn inside() -> ExitCode {
    let figures = Figures::from_args();
    let run = async {
        topology::make(HOSTS);
        let in_kernel = topology::delay_in_kernel(HOSTS, LATENCY_MS, SPREAD_MS);
        figures.remark(if in_kernel { "latency is the kernel's (netem)" } else { "latency is the relays'" });
        let millis = |ms: u32| Duration::from_millis(ms.into());
        let latency = if in_kernel {
            Duration::ZERO..Duration::ZERO
        } else {
            millis(LATENCY_MS - SPREAD_MS)..millis(LATENCY_MS + SPREAD_MS)
        };
        figures.remark(&format!("{HOSTS} hosts start…"));
        let since = Instant::now();
        let fleet = Fleet::start(HOSTS, latency).await;
        let mut scenarios = Scenarios::start(fleet, since, figures).await;
        for loss in LOSSES {
            scenarios.crashes(loss, &CRASHES).await;
        }
        scenarios.stall(USUAL_LOSS, 7).await;
        scenarios.partition(USUAL_LOSS).await;
    };
    if timeout(LONGEST, run).await.is_err() {
        eprintln!("error: it is not over after {LONGEST:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
