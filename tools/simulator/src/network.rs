//! The network: how long a packet takes, whether it is lost, and who is cut off from whom.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::node::Ix;

/// The shortest and the longest way between two nodes in microseconds, jitter not counted.
const WAY: (u64, u64) = (10_000, 115_000);
/// The most that one packet is later than another on the same way, in microseconds.
const JITTER: u64 = 5_000;
/// The payload of one packet of a stream.
const PACKET: usize = 1_200;
/// After so many tries everything that waits for a packet has given up.
const TRIES: u32 = 12;
/// What a stream carries in its first round trip: ten packets (RFC 9002, section 7.2).
const FIRST_WINDOW: usize = 10 * PACKET;

/// The network between the nodes.
#[derive(Debug)]
pub(super) struct Network {
    seed: u64,
    rng: StdRng,
    /// The part of all packets that is lost.
    pub(super) loss: f64,
    /// Which side of a partition each node is on.
    sides: Vec<u8>,
}

impl Network {
    pub(super) fn new(seed: u64, loss: f64) -> Self {
        Self { seed, rng: StdRng::seed_from_u64(seed ^ 0x6e65_7477_6f72_6b21), loss, sides: Vec::new() }
    }

    /// How long a packet takes between two nodes.
    pub(super) fn latency(&mut self, a: Ix, b: Ix) -> Duration {
        let (low, high) = (u64::from(a.0.min(b.0)), u64::from(a.0.max(b.0)));
        let way = WAY.0 + mix(self.seed ^ (high << 32 | low)) % (WAY.1 - WAY.0);
        Duration::from_micros(way + self.rng.random_range(0..JITTER))
    }

    /// Whether the packet that is being sent is lost.
    pub(super) fn loses(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }

    /// How often the packet that is being sent is lost before it arrives, at most [`TRIES`] times.
    pub(super) fn losses(&mut self) -> u32 {
        (0..TRIES).find(|_| !self.loses()).unwrap_or(TRIES)
    }

    /// How long a message of this length takes over a stream between two nodes: the window grows, and what is lost is
    /// sent again after one and a half round trips.
    pub(super) fn stream(&mut self, a: Ix, b: Ix, len: usize) -> Duration {
        let round_trip = self.latency(a, b) * 2;
        let mut wait = self.latency(a, b);
        let mut window = FIRST_WINDOW;
        let mut left = len;
        while left > window {
            left -= window;
            window *= 2;
            wait += round_trip;
        }
        let packets = i32::try_from(len.div_ceil(PACKET).max(1)).unwrap_or(i32::MAX);
        if self.loss > 0.0 && self.rng.random_bool(1.0 - (1.0 - self.loss).powi(packets)) {
            wait += round_trip.mul_f64(1.5) * (1 + self.losses());
        }
        wait
    }

    /// Puts a node on a side of a partition.
    pub(super) fn put(&mut self, node: Ix, side: u8) {
        if self.sides.len() <= node.index() {
            self.sides.resize(node.index() + 1, 0);
        }
        self.sides[node.index()] = side;
    }

    /// Whether packets pass between two nodes at all.
    pub(super) fn connects(&self, a: Ix, b: Ix) -> bool {
        let side = |node: Ix| self.sides.get(node.index()).copied().unwrap_or_default();
        side(a) == side(b)
    }
}

/// The finalizer of splitmix64.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_similar_bounded_delay_in_both_directions() {
        let mut network = Network::new(1, 0.0);
        for n in 0..200 {
            let (there, back) = (network.latency(Ix(n), Ix(n + 1)), network.latency(Ix(n + 1), Ix(n)));
            assert!(there.abs_diff(back) < Duration::from_micros(JITTER));
            assert!((Duration::from_millis(10)..Duration::from_millis(120)).contains(&there));
        }
    }

    #[test]
    fn the_loss_rate_is_as_configured_and_a_partition_drops_everything() {
        let mut network = Network::new(1, 0.05);
        let lost = (0..10_000).filter(|_| network.loses()).count();
        assert!((400..600).contains(&lost), "{lost}");
        network.put(Ix(3), 1);
        assert!(network.connects(Ix(0), Ix(1)) && !network.connects(Ix(0), Ix(3)));
    }

    #[test]
    fn a_long_message_takes_more_round_trips_than_a_short_one() {
        let mut network = Network::new(1, 0.0);
        let short = network.stream(Ix(0), Ix(1), 500);
        assert!(network.stream(Ix(0), Ix(1), 300_000) > short * 8);
    }
}
