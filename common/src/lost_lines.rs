//! The number of log lines that this process has lost. The log's writer counts them; the daemons' metrics show them.
//!
//! A process has one standard error, so it has one counter.

use std::sync::atomic::{AtomicU64, Ordering};

static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts a line that could not be written, or that did not fit the writer's queue.
pub fn count() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// The number of lines lost since the process started.
pub fn total() -> u64 {
    LOST.load(Ordering::Relaxed)
}
