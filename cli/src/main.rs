//! The `chappe` binary.
mod config;
mod media;
fn main() {}
