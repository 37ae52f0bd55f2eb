//! Room for connections of others: so many in all, and so many of one network or source.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use super::shrink;

/// The places.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter<K: Copy + Eq + Hash> {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    count: usize,
    /// Those of one that is in no exempt range.
    of: HashMap<K, usize>,
}

impl<K: Copy + Eq + Hash> ConnectionLimiter<K> {
    /// `most` free places, of which anyone may have `most_of_one`.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::new(Taken { count: 0, of: HashMap::new() }) })
    }

    /// A place for one of `whom`; none: it is in an exempt range.
    pub(crate) fn try_take(self: &Arc<Self>, whom: Option<K>) -> Option<Permit<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.count >= self.most {
            return None;
        }
        if let Some(whom) = whom {
            match taken.of.entry(whom) {
                Entry::Occupied(entry) if *entry.get() >= self.most_of_one => return None,
                entry => *entry.or_default() += 1,
            }
        }
        taken.count += 1;
        Some(Permit { places: self.clone(), whom })
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<K: Copy + Eq + Hash> {
    places: Arc<ConnectionLimiter<K>>,
    whom: Option<K>,
}

impl<K: Copy + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.count -= 1;
        if let Some(whom) = self.whom
            && let Entry::Occupied(mut entry) = taken.of.entry(whom)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        shrink::shrink_if_sparse(&mut taken.of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_does_not_take_all_places_and_each_place_is_given_back() {
        let places = ConnectionLimiter::new(256, 16);
        let mut taken: Vec<_> = (0..100).filter_map(|_| places.try_take(Some(1))).collect();
        assert_eq!(taken.len(), 16);
        taken.extend((0..=255).flat_map(|n| [n, n]).filter_map(|n| places.try_take(Some(n))));
        assert_eq!(taken.len(), 256);
        assert!(places.try_take(None).is_none());
        taken.clear();
        let left = places.taken.lock().expect("unharmed");
        assert!((left.count, left.of.len()) == (0, 0));
        drop(left);
        let exempt: Vec<_> = (0..1000).map_while(|_| places.try_take(None)).collect();
        assert_eq!(exempt.len(), 256);
    }
}
