//! The `chappe` binary.
mod media;
fn main() {}
