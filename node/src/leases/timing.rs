//! Random timing of lease requests, so that their times do not reveal which leases belong to one client.
//!
//! A home sees when each lease is registered, renewed and withdrawn. Leases that always arrive together would be linked
//! to one client, so each has random times of its own.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Range of the registration delay for each further lease, up to [`LONGEST_SPREAD`] in total.
const SPREAD: Duration = Duration::from_millis(20);
/// Maximum registration delay. The client waits for it, and callers find the inbox only at its former node meanwhile,
/// if at all.
const LONGEST_SPREAD: Duration = Duration::from_secs(1);
/// Maximum delay of a withdrawal. Until then a caller may find the lease, and this node answers that the inbox is not
/// here.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// Returns the registration delay of one of the `count` leases of an `attach`. A single lease is not delayed.
pub fn registration_delay(random: &mut impl Rng, count: usize) -> Duration {
    let others = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
    SPREAD.saturating_mul(others).min(LONGEST_SPREAD).mul_f64(random.random_range(0.0..1.0))
}

/// Returns the time from the first registration to its refresh. Homes expire it after `registration`.
pub fn first_refresh(random: &mut impl Rng, registration: Duration) -> Duration {
    registration.mul_f64(random.random_range(0.05..0.6))
}

/// Returns the time to the next refresh: 40 to 60 % of `registration`, which leaves time for a retry.
pub fn next_refresh(random: &mut impl Rng, registration: Duration) -> Duration {
    registration.mul_f64(random.random_range(0.4..0.6))
}

/// Returns the delay of a withdrawal.
pub fn withdrawal_delay(random: &mut impl Rng) -> Duration {
    WITHDRAWAL.mul_f64(random.random_range(0.0..1.0))
}
