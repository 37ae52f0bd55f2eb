//! The ports of the relayed addresses, drawn at random.

use std::ops::RangeInclusive;

use rand::{Rng, RngExt as _};

/// Which ports a client asks for (RFC 8656, 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any port.
    Any,
    /// EVEN-PORT.
    Even,
}

/// The free relay ports of one address family: 2 bytes for each. Taking one takes the same time however few are free.
#[derive(Debug)]
pub struct Ports {
    even: Vec<u16>,
    odd: Vec<u16>,
}

impl Ports {
    /// Makes a range with all ports free.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let (even, odd) = range.partition(|port| port.is_multiple_of(2));
        Self { even, odd }
    }

    /// Takes a random free port. Returns `None` if there is none.
    pub fn take(&mut self, parity: Parity, rng: &mut impl Rng) -> Option<u16> {
        let odd = if parity == Parity::Any { self.odd.len() } else { 0 };
        let free = self.even.len() + odd;
        if free == 0 {
            return None;
        }
        let index = rng.random_range(0..free);
        Some(match index.checked_sub(self.even.len()) {
            None => self.even.swap_remove(index),
            Some(index) => self.odd.swap_remove(index),
        })
    }

    /// Frees a port that was taken.
    pub fn release(&mut self, port: u16) {
        if port.is_multiple_of(2) { &mut self.even } else { &mut self.odd }.push(port);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, convert::Infallible};

    use rand::{SeedableRng as _, TryRng, rngs::StdRng};

    use super::*;

    #[test]
    fn all_ports_are_given_once_and_again_after_their_release() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ports = Ports::new(50_001..=50_101);
        let even: HashSet<_> = std::iter::from_fn(|| ports.take(Parity::Even, &mut rng)).collect();
        assert_eq!(even, (50_002..=50_100).step_by(2).collect());
        let odd: HashSet<_> = std::iter::from_fn(|| ports.take(Parity::Any, &mut rng)).collect();
        assert_eq!(odd, (50_001..=50_101).step_by(2).collect());
        ports.release(50_017);
        assert_eq!(ports.take(Parity::Any, &mut rng), Some(50_017));
    }

    /// Counts what is drawn from it.
    struct Counting(StdRng, usize);

    impl TryRng for Counting {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            self.1 += 1;
            self.0.try_next_u32()
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            self.1 += 1;
            self.0.try_next_u64()
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            self.1 += 1;
            self.0.try_fill_bytes(bytes)
        }
    }

    #[test]
    fn the_last_free_port_is_found_without_a_search() {
        let mut rng = Counting(StdRng::seed_from_u64(3), 0);
        let mut ports = Ports::new(49_152..=65_535);
        let taken = std::iter::from_fn(|| ports.take(Parity::Any, &mut rng)).count();
        assert_eq!(taken, 1 << 14);
        for port in [49_153, 60_001, 65_535] {
            ports.release(port);
            rng.1 = 0;
            assert_eq!(ports.take(Parity::Even, &mut rng), None);
            assert_eq!(ports.take(Parity::Any, &mut rng), Some(port));
            assert!(rng.1 <= 1, "{} draws", rng.1);
        }
    }

    // Class 10 of docs/protocol/turn.md.
    #[test]
    fn ports_are_in_no_order() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut ports = Ports::new(49_152..=65_535);
        let drawn: Vec<_> = std::iter::from_fn(|| ports.take(Parity::Any, &mut rng)).take(10_000).collect();
        let runs = 1 + drawn.windows(3).filter(|window| (window[0] < window[1]) != (window[1] < window[2])).count();
        // The expected number of runs is (2n - 1) / 3, its standard deviation 42.
        assert!((6500..6833).contains(&runs), "{runs}");
    }
}
