//! What the kernel says of time: how long processes ran, and how much of a core went to others.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::cores;

/// The percentage of a core that others may use without changing figures by more than they differ anyway.
pub const MAX_OTHERS: f64 = 5.0;

/// The unit of `/proc/stat`: the kernel's ABI fixes it at a hundredth of a second.
const TICK: Duration = Duration::from_millis(10);

/// The time that a process's threads have run. Threads that have ended count no more; a server's don't.
///
/// # Panics
/// It has ended, or this is not Linux.
pub fn of_process(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let of_task = |task: fs::DirEntry| {
        // One that ends meanwhile.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|first| first.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
    };
    tasks.flatten().map(of_task).sum()
}

/// The time that a core did not idle, the host's theft included.
fn of_core(core: usize) -> Duration {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let name = format!("cpu{core} ");
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(&name)) else { return Duration::ZERO };
    let ticks: Vec<u32> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let busy: u32 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum();
    TICK * busy
}

/// A window of time that is being measured.
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

/// What a window cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Use {
    /// How long the window was.
    pub elapsed: Duration,
    /// How long the servers ran.
    pub servers: Duration,
    /// How long this process ran.
    pub own: Duration,
    /// The larger part of either core that went to anybody else, 0 to 1.
    pub others: f64,
    /// The part of the servers' core alone that did.
    pub others_on_servers: f64,
}

impl Meter {
    /// Starts a window.
    pub fn start(servers: &[u32]) -> Self {
        Self { servers: servers.to_owned(), since: Instant::now(), start: Reading::take(servers) }
    }

    /// Ends it.
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
