//! Room for the handshakes and first words of others: so many in all, and so many from one network.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use crate::placement::Network;

/// The part of the places that one /24 or /48 may take, which has two members: whoever holds its connections open fills no
/// more than this.
pub(crate) const HANDSHAKES_PART: usize = 16;

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<HashMap<Option<Network>, usize>>,
}

impl Places {
    /// `most` free places.
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// A place for one from `network`; none: it is in an exempt range.
    pub(super) fn try_take(self: &Arc<Self>, network: Option<Network>) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.most {
            return None;
        }
        let of_network = taken.entry(network).or_default();
        if network.is_some() && *of_network >= self.most / HANDSHAKES_PART {
            return None;
        }
        *of_network += 1;
        Some(Place { places: self.clone(), network })
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    network: Option<Network>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = taken.entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: u8) -> Option<Network> {
        Some(Network::of(&([203, 0, n, 1], 1).into()))
    }

    #[test]
    fn one_network_does_not_take_all_places_and_each_place_is_given_back() {
        let places = Arc::new(Places::new(256));
        let mut taken: Vec<_> = (0..100).filter_map(|_| places.try_take(network(1))).collect();
        assert_eq!(taken.len(), 16);
        taken.extend((0..=255).flat_map(|n| [n, n]).filter_map(|n| places.try_take(network(n))));
        assert_eq!(taken.len(), 256);
        assert!(places.try_take(None).is_none());
        taken.clear();
        assert!(places.taken.lock().expect("unharmed").is_empty());
        let exempt: Vec<_> = (0..1000).map_while(|_| places.try_take(None)).collect();
        assert_eq!(exempt.len(), 256);
    }
}
