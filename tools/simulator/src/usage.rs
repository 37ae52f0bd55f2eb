//! What this process uses: memory and time on a processor.

use std::time::Duration;

/// The clock ticks in a second of `/proc`: 100 on every Linux (USER_HZ).
const TICKS: f64 = 100.0;

/// The memory of this process in bytes, as the kernel counts it; 0 where `/proc` isn't there.
pub fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// The time that this process has been on a processor; none where `/proc` isn't there.
pub fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}
