//! Finding a node that works: sources, verification and the cache.
