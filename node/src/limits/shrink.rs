//! The room of tables that a crowd has left goes back: else a flood's would stay for as long as the node runs.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use dashmap::DashMap;

/// A table for fewer entries than this is kept as it is.
const SMALL: usize = 1024;
/// A table is made smaller when less than this part of it is used, and so it costs little, however often the entries come
/// and go.
const PART: usize = 8;

const fn is_mostly_empty(len: usize, capacity: usize) -> bool {
    capacity >= SMALL && len < capacity / PART
}

/// Gives back the room of a table that is mostly empty.
pub(crate) fn shrink_if_sparse<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if is_mostly_empty(table.len(), table.capacity()) {
        table.shrink_to(table.len() * 2);
    }
}

/// The same of a queue.
pub(crate) fn shrink_queue_if_sparse<T>(queue: &mut VecDeque<T>) {
    if is_mostly_empty(queue.len(), queue.capacity()) {
        queue.shrink_to(queue.len() * 2);
    }
}

/// The same of a sharded one.
pub(crate) fn shrink_sharded_if_sparse<K: Eq + Hash, V>(table: &DashMap<K, V>) {
    if is_mostly_empty(table.len(), table.capacity()) {
        table.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_crowd_that_has_left_goes_back_and_what_is_used_stays() {
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
