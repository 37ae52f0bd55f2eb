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

/// The part of the rate of all allocations that one network may use before others.
const NETWORK_SHARES: u32 = 8;

/// Limits the bytes that all allocations relay. A burst may use the bytes of one second.
///
/// Packets beyond the share of their network only get what the others leave: half of the burst is reserved for packets
/// within a share. So a network alone can use the whole rate, and doesn't take it from others.
#[derive(Debug)]
pub struct TotalLimiter {
    bytes_per_second: u32,
    /// Bytes that may be relayed now, at most those of one second.
    available: u64,
    /// When `available` was last increased, in nanoseconds since the start.
    refilled: u64,
    clock: PacketClock,
}

impl TotalLimiter {
    /// Makes a limiter.
    pub fn new(bytes_per_second: u32, clock: PacketClock) -> Self {
        let bytes_per_second = bytes_per_second.max(MIN_RATE);
        Self { bytes_per_second, available: bytes_per_second.into(), refilled: 0, clock }
    }

    /// Makes the limiter of a network's share.
    pub fn share(&self) -> TrafficLimiter {
        TrafficLimiter::new(self.bytes_per_second / NETWORK_SHARES, self.clock.clone())
    }

    /// Takes the bytes of a packet. Returns whether it may be relayed.
    pub fn allows(&mut self, bytes: usize, share: &TrafficLimiter) -> bool {
        self.refill();
        let reserved = if share.allows(bytes) { 0 } else { u64::from(self.bytes_per_second) / 2 };
        let bytes = bytes.max(MIN_PACKET) as u64;
        let is_allowed = self.available >= reserved + bytes;
        if is_allowed {
            self.available -= bytes;
        }
        is_allowed
    }

    fn refill(&mut self) {
        let (now, rate) = (self.clock.now().as_u64(), u64::from(self.bytes_per_second));
        let elapsed = now.saturating_sub(self.refilled).min(NANOS);
        let bytes = elapsed * rate / NANOS;
        // Less than a byte is kept for the next packet.
        if bytes > 0 {
            self.available = (self.available + bytes).min(rate);
            self.refilled = now;
        }
    }
}

const NANOS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_alone_gets_the_whole_rate_and_leaves_others_their_share() {
        let clock = PacketClock::default();
        let mut total = TotalLimiter::new(1_000_000, clock.clone());
        let (flood, other) = (total.share(), total.share());
        let (mut flooded, mut relayed) = (0, 0);
        let mut run = |is_alone: bool, from: u64| {
            (flooded, relayed) = (0, 0);
            // In each millisecond ten times the rate, and from the other a tenth of the rate.
            for millisecond in from..from + 4000 {
                clock.set(Duration::from_millis(millisecond));
                flooded += (0..10).filter(|_| total.allows(1000, &flood)).count();
                if !is_alone && millisecond.is_multiple_of(10) {
                    relayed += usize::from(total.allows(1000, &other));
                }
            }
            (flooded, relayed)
        };
        let (flooded, _) = run(true, 0);
        assert!((3900..=4700).contains(&flooded), "{flooded}");
        let (flooded, relayed) = run(false, 4000);
        assert_eq!(relayed, 400, "each of its packets");
        assert!((3400..=3800).contains(&flooded), "{flooded}");
    }

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
