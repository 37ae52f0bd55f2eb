//! When a home hears of a lease: at times that say nothing about which leases belong to one client.
//!
//! A home sees when each lease is registered, renewed and withdrawn. Leases of one client that came together each time
//! would be linked by that alone, so each has random times of its own.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// How much later the last of `n` leases is registered than the first: this for each of them, up to [`LONGEST_SPREAD`].
const SPREAD: Duration = Duration::from_millis(20);
/// The client waits for its leases to be registered, and callers find it meanwhile at its former node, if at all.
const LONGEST_SPREAD: Duration = Duration::from_secs(1);
/// How long a withdrawal waits at most. A caller that finds the lease meanwhile asks this node, which says that nobody is
/// here.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// How long the registration of one of `count` leases of an `attach` waits. A lease that comes alone waits for nothing.
pub fn registration_delay(random: &mut impl Rng, count: usize) -> Duration {
    let others = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
    SPREAD.saturating_mul(others).min(LONGEST_SPREAD).mul_f64(random.random_range(0.0..1.0))
}

/// When something that was just registered is registered again: its homes forget it after `registration`.
pub fn first_refresh(random: &mut impl Rng, registration: Duration) -> Duration {
    registration.mul_f64(random.random_range(0.05..0.6))
}

/// When it is registered the next time: between 40 and 60 % of the time, which leaves room for a second try.
pub fn next_refresh(random: &mut impl Rng, registration: Duration) -> Duration {
    registration.mul_f64(random.random_range(0.4..0.6))
}

/// How long a withdrawal waits.
pub fn withdrawal_delay(random: &mut impl Rng) -> Duration {
    WITHDRAWAL.mul_f64(random.random_range(0.0..1.0))
}
