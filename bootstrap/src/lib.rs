//! The registry: checks node records, keeps them while they are fresh, signs directories.
