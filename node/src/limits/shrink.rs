//! Shrinks tables and queues after a load spike; otherwise they keep their peak capacity.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use dashmap::DashMap;

/// Tables with less capacity than this are not shrunk.
const SMALL: usize = 1024;
/// A table is shrunk if less than this part of it is used. So shrinking is rare even if entries come and go often.
const PART: usize = 8;

const fn is_mostly_empty(len: usize, capacity: usize) -> bool {
    capacity >= SMALL && len < capacity / PART
}

/// Shrinks a sparse hash map.
pub(crate) fn shrink_if_sparse<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if is_mostly_empty(table.len(), table.capacity()) {
        table.shrink_to(table.len() * 2);
    }
}

/// Shrinks a sparse queue.
pub(crate) fn shrink_queue_if_sparse<T>(queue: &mut VecDeque<T>) {
    if is_mostly_empty(queue.len(), queue.capacity()) {
        queue.shrink_to(queue.len() * 2);
    }
}

/// Shrinks a sparse sharded map.
pub(crate) fn shrink_sharded_if_sparse<K: Eq + Hash, V>(table: &DashMap<K, V>) {
    if is_mostly_empty(table.len(), table.capacity()) {
        table.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_tables_shrink_and_keep_their_entries() {
        let (mut table, mut queue, sharded) = (HashMap::new(), VecDeque::new(), DashMap::new());
        for n in 0..10_000 {
            queue.push_back(n);
            table.insert(n, n);
            sharded.insert(n, n);
        }
        let capacity = table.capacity();
        shrink_if_sparse(&mut table);
        assert_eq!(table.capacity(), capacity);
        table.retain(|n, _| *n < 500);
        sharded.retain(|n, _| *n < 500);
        queue.truncate(500);
        shrink_if_sparse(&mut table);
        shrink_queue_if_sparse(&mut queue);
        shrink_sharded_if_sparse(&sharded);
        assert!(table.capacity() < 2_000 && queue.capacity() < 2_000 && sharded.capacity() < 2_000);
        assert!((0..500).all(|n| table.get(&n) == Some(&n) && sharded.contains_key(&n)));
    }
}
