//! What the measurement programs share: how figures are printed, and how processes are started, placed on cores and
//! measured.

pub mod accept_queue;
pub mod args;
pub mod cores;
pub mod cpu;
pub mod figures;
pub mod process;
