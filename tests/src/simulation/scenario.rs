//! What is tried, and the figures that come of it.
pub mod calm;
