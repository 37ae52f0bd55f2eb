//! How many log lines of this process were lost. The binary that writes the log counts them, the daemons' metrics show them.
//!
//! A process has one standard error, so it has one counter.

use std::sync::atomic::{AtomicU64, Ordering};

static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts one line that could not be written, or that found no room in the queue of the writer.
pub fn count() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// How many lines were lost since the process started.
pub fn total() -> u64 {
    LOST.load(Ordering::Relaxed)
}
