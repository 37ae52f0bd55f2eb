//! The keys that differ between two configurations of a daemon, told apart by whether they need a restart.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// The keys that differ between two configurations. Values are not part of it: some are secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    /// Those that a running daemon replaces.
    pub reloaded: Vec<String>,
    /// Those that need a restart.
    pub need_restart: Vec<String>,
}

impl ChangedKeys {
    /// Compares two configurations. `is_reloaded` tells whether a key, such as `section.key`, is replaced in a running daemon.
    ///
    /// # Panics
    /// A value has no JSON form.
    pub fn between<C: Serialize>(old: &C, new: &C, is_reloaded: impl Fn(&str) -> bool) -> Self {
        let (old, new) = (values(old), values(new));
        let changed = new.into_iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(key, _)| key);
        let (reloaded, need_restart) = changed.partition(|key: &String| is_reloaded(key));
        Self { reloaded, need_restart }
    }

    /// Moves keys to those that need a restart.
    pub fn move_to_restart(&mut self, is_moved: impl Fn(&str) -> bool) {
        let moved = self.reloaded.extract_if(.., |key| is_moved(key));
        self.need_restart.extend(moved);
        self.need_restart.sort();
    }

    /// Returns whether a key of this section, or this key, was replaced.
    pub fn has_reloaded(&self, prefix: &str) -> bool {
        self.reloaded.iter().any(|key| key.starts_with(prefix))
    }
}

/// All keys as `section.key` or `section.table.key`, with their values.
///
/// # Panics
/// A value has no JSON form.
pub fn values<C: Serialize>(config: &C) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let all = serde_json::to_value(config).expect("every key has a JSON form");
    let mut open = vec![(String::new(), all)];
    while let Some((key, value)) = open.pop() {
        match value {
            Value::Object(keys) => {
                let of_table = |inner: String| if key.is_empty() { inner } else { format!("{key}.{inner}") };
                open.extend(keys.into_iter().map(|(inner, value)| (of_table(inner), value)));
            }
            value => {
                found.insert(key, value);
            }
        }
    }
    found
}
