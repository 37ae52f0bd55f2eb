//! Connection permits, limited in total and for each network or source.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::shrink;

/// Limits connections in total and for each key.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter<K: Copy + Eq + Hash> {
    max_total: usize,
    max_per_key: AtomicUsize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    count: usize,
    /// Permits of each key. Exempt connections have no key.
    by_key: HashMap<K, usize>,
}

impl<K: Copy + Eq + Hash> ConnectionLimiter<K> {
    /// Creates a limiter for `max_total` connections, of which one key may have `max_per_key`.
    pub(crate) fn new(max_total: usize, max_per_key: usize) -> Arc<Self> {
        let taken = Mutex::new(Taken { count: 0, by_key: HashMap::new() });
        Arc::new(Self { max_total, max_per_key: AtomicUsize::new(max_per_key), taken })
    }

    /// Replaces the maximum of a key. Permits that were taken stay.
    pub(crate) fn set_max_per_key(&self, max: usize) {
        self.max_per_key.store(max, Ordering::Relaxed);
    }

    /// Takes a permit for a connection of `key`, which is `None` in an exempt range.
    pub(crate) fn try_take(self: &Arc<Self>, key: Option<K>) -> Option<Permit<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.count >= self.max_total {
            return None;
        }
        if let Some(key) = key {
            match taken.by_key.entry(key) {
                Entry::Occupied(entry) if *entry.get() >= self.max_per_key.load(Ordering::Relaxed) => return None,
                entry => *entry.or_default() += 1,
            }
        }
        taken.count += 1;
        Some(Permit { limiter: self.clone(), key })
    }
}

/// A permit for one connection, released on drop.
#[derive(Debug)]
pub(crate) struct Permit<K: Copy + Eq + Hash> {
    limiter: Arc<ConnectionLimiter<K>>,
    key: Option<K>,
}

impl<K: Copy + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut taken = self.limiter.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.count -= 1;
        if let Some(key) = self.key
            && let Entry::Occupied(mut entry) = taken.by_key.entry(key)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        shrink::shrink_if_sparse(&mut taken.by_key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_does_not_take_all_permits_and_each_permit_is_released() {
        let limiter = ConnectionLimiter::new(256, 16);
        let mut taken: Vec<_> = (0..100).filter_map(|_| limiter.try_take(Some(1))).collect();
        assert_eq!(taken.len(), 16);
        taken.extend((0..=255).flat_map(|n| [n, n]).filter_map(|n| limiter.try_take(Some(n))));
        assert_eq!(taken.len(), 256);
        assert!(limiter.try_take(None).is_none());
        taken.clear();
        let left = limiter.taken.lock().expect("unharmed");
        assert!((left.count, left.by_key.len()) == (0, 0));
        drop(left);
        let exempt: Vec<_> = (0..1000).map_while(|_| limiter.try_take(None)).collect();
        assert_eq!(exempt.len(), 256);
    }

    #[test]
    fn a_new_maximum_applies_to_permits_taken_later() {
        let limiter = ConnectionLimiter::new(usize::MAX, 2);
        let taken = [limiter.try_take(Some(1)), limiter.try_take(Some(1))];
        assert!(taken.iter().all(Option::is_some) && limiter.try_take(Some(1)).is_none());
        limiter.set_max_per_key(3);
        assert!(limiter.try_take(Some(1)).is_some());
        limiter.set_max_per_key(1);
        assert!(limiter.try_take(Some(1)).is_none() && limiter.try_take(Some(2)).is_some());
    }
}
