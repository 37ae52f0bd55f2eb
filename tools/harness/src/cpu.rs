//! CPU time from the kernel: how long processes ran, and how much of a core other processes used.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::cores;

/// The percentage of a core that other processes may use before figures are unreliable.
pub const MAX_OTHERS: f64 = 5.0;

/// The unit of `/proc/stat`, fixed by the kernel's ABI.
const TICK: Duration = Duration::from_millis(10);

/// The time that a process's threads have run. Threads that have ended are not included; a server's threads don't end.
///
/// # Panics
/// It has ended, or this is not Linux.
pub fn of_process(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let of_task = |task: fs::DirEntry| {
        // The thread may have ended meanwhile.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|first| first.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
    };
    tasks.flatten().map(of_task).sum()
}

/// The time that a core was busy, including time stolen by the host.
fn of_core(core: usize) -> Duration {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let name = format!("cpu{core} ");
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(&name)) else { return Duration::ZERO };
    let ticks: Vec<u32> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; user includes guests.
    let busy: u32 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum();
    TICK * busy
}

/// A measurement in progress.
#[derive(Debug)]
pub struct Meter {
    servers: Vec<u32>,
    since: Instant,
    start: Reading,
}

#[derive(Debug)]
struct Reading {
    servers: Duration,
    own: Duration,
    server_core: Duration,
    own_core: Duration,
}

/// CPU time used during a measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Use {
    /// How long the measurement took.
    pub elapsed: Duration,
    /// How long the servers ran.
    pub servers: Duration,
    /// How long this process ran.
    pub own: Duration,
    /// The share of a core that other processes used, 0 to 1; the larger of the two cores' shares.
    pub others: f64,
    /// The share of the servers' core that other processes used, 0 to 1.
    pub others_on_servers: f64,
}

impl Meter {
    /// Starts measuring the processes with these ids.
    pub fn start(servers: &[u32]) -> Self {
        Self { servers: servers.to_owned(), since: Instant::now(), start: Reading::take(servers) }
    }

    /// Ends the measurement.
    pub fn stop(self) -> Use {
        let (end, elapsed) = (Reading::take(&self.servers), self.since.elapsed());
        let servers = end.servers.saturating_sub(self.start.servers);
        let own = end.own.saturating_sub(self.start.own);
        let others = |busy: Duration, known: Duration| busy.saturating_sub(known).as_secs_f64() / elapsed.as_secs_f64();
        let on_servers = others(end.server_core.saturating_sub(self.start.server_core), servers);
        let on_own = others(end.own_core.saturating_sub(self.start.own_core), own);
        Use { elapsed, servers, own, others: on_servers.max(on_own), others_on_servers: on_servers }
    }
}

impl Reading {
    fn take(servers: &[u32]) -> Self {
        Self {
            servers: servers.iter().copied().map(of_process).sum(),
            own: of_process(std::process::id()),
            server_core: of_core(cores::SERVERS),
            own_core: of_core(cores::GENERATORS),
        }
    }
}
