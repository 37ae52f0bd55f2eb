//! Limits the bytes that are relayed.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};

/// The time of the current packet, since the server's start. It is set once for a batch of packets: reading the system's
/// clock for each packet costs more. Two limiters in each allocation have a handle of it, so it is small.
#[derive(Clone, Debug, Default)]
pub struct PacketClock(Arc<AtomicU64>);

impl PacketClock {
    /// Sets the time since the server's start.
    pub fn set(&self, since_start: Duration) {
        self.0.store(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for PacketClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

/// Limits bytes per second. A burst may use the bytes of one second.
#[derive(Debug)]
pub struct TrafficLimiter(RateLimiter<NotKeyed, InMemoryState, PacketClock, NoOpMiddleware<Nanos>>);

/// The minimum number of bytes that a packet counts as. A short packet costs the system as much time as a long one.
const MIN_PACKET: usize = 256;

/// The minimum rate: the longest packet must fit into one second's bytes.
const MIN_RATE: u32 = 1 << 16;

impl TrafficLimiter {
    /// Makes a limiter.
    pub fn new(bytes_per_second: u32, clock: PacketClock) -> Self {
        let rate = NonZeroU32::new(bytes_per_second.max(MIN_RATE)).expect("not zero");
        Self(RateLimiter::direct_with_clock(Quota::per_second(rate), clock))
    }

    /// Takes the bytes of a packet. Returns whether it may be relayed.
    pub fn allows(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes.max(MIN_PACKET)).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        matches!(self.0.check_n(bytes), Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate() {
        let clock = PacketClock::default();
        let limiter = TrafficLimiter::new(100_000, clock.clone());
        let passed = |packets: usize| (0..packets).filter(|_| limiter.allows(1000)).count();
        assert_eq!(passed(300), 100);
        clock.set(Duration::from_millis(500));
        assert_eq!(passed(300), 50);
        assert!(!limiter.allows(1000));
        clock.set(Duration::from_secs(2));
        let empty = (0..1000).filter(|_| limiter.allows(0)).count();
        assert_eq!(empty, 100_000 / MIN_PACKET);
    }
}
