//! The ports of the relayed addresses, drawn at random.

use std::{collections::HashSet, ops::RangeInclusive};

use rand::{Rng, RngExt as _};

/// Random draws before the free ports are searched in order.
const DRAWS: usize = 16;

/// Which ports a client asks for (RFC 8656, 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any port.
    Any,
    /// EVEN-PORT.
    Even,
}

/// The relay ports of one address family.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    used: HashSet<u16>,
}

impl Ports {
    /// Makes a range with all ports free.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, used: HashSet::new() }
    }

    /// Takes a random free port. Returns `None` if there is none.
    pub fn take(&mut self, parity: Parity, rng: &mut impl Rng) -> Option<u16> {
        let suits =
            |port: u16, used: &HashSet<u16>| (parity == Parity::Any || port.is_multiple_of(2)) && !used.contains(&port);
        let mut drawn = None;
        for _ in 0..DRAWS {
            let port = rng.random_range(self.range.clone());
            if suits(port, &self.used) {
                drawn = Some(port);
                break;
            }
        }
        // Nearly all ports are used: search in order from a random port.
        let port = drawn.or_else(|| {
            let from = rng.random_range(self.range.clone());
            (from..=*self.range.end()).chain(*self.range.start()..from).find(|port| suits(*port, &self.used))
        })?;
        self.used.insert(port);
        Some(port)
    }

    /// Frees a port.
    pub fn release(&mut self, port: u16) {
        self.used.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

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
