//! The values that a running node replaces when its configuration is read again, and which keys changed.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::{LimitsSection, NodeConfig};

/// Keys outside of `limits` that are replaced while the node runs.
const RELOADED: [&str; 4] = ["client.tls_cert", "client.tls_key", "client.trusted_proxies", "node.log"];
/// Keys of `limits` whose bound is built at the start.
const FIXED_LIMITS: [&str; 1] = ["limits.max_pending_leases"];

/// The values that are replaced while the node runs. Connections, sessions and requests that begin later use them.
#[derive(Clone, Debug)]
pub(crate) struct LiveConfig {
    pub(crate) limits: LimitsSection,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Applied by the binary.
    pub(crate) log: String,
}

impl LiveConfig {
    pub(crate) fn of(config: &NodeConfig) -> Self {
        Self {
            limits: config.limits.clone(),
            trusted_proxies: config.client.trusted_proxies.clone(),
            log: config.node.log.clone(),
        }
    }
}

#[cfg(test)]
impl LiveConfig {
    /// Those of the default configuration.
    pub(crate) fn shared_defaults() -> std::sync::Arc<arc_swap::ArcSwap<Self>> {
        std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(Self::of(&NodeConfig::default())))
    }
}

/// The keys that differ between two configurations. Values are not part of it: some are secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    /// Those that a running node replaces.
    pub reloaded: Vec<String>,
    /// Those that need a restart.
    pub need_restart: Vec<String>,
}

impl ChangedKeys {
    /// Compares two configurations.
    pub(crate) fn between(old: &NodeConfig, new: &NodeConfig) -> Self {
        let (old, new) = (values(old), values(new));
        let changed = new.into_iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(key, _)| key);
        let is_reloaded = |key: &String| {
            let is_limit = key.starts_with("limits.") && !FIXED_LIMITS.contains(&key.as_str());
            is_limit || RELOADED.contains(&key.as_str())
        };
        let (reloaded, need_restart) = changed.partition(is_reloaded);
        Self { reloaded, need_restart }
    }

    /// Moves keys to those that need a restart.
    pub(crate) fn move_to_restart(&mut self, is_moved: impl Fn(&str) -> bool) {
        let moved = self.reloaded.extract_if(.., |key| is_moved(key));
        self.need_restart.extend(moved);
        self.need_restart.sort();
    }

    /// Returns whether a key of this section, or this key, was replaced.
    pub(crate) fn has_reloaded(&self, prefix: &str) -> bool {
        self.reloaded.iter().any(|key| key.starts_with(prefix))
    }
}

/// All keys as `section.key` or `section.table.key`, with their values.
fn values(config: &NodeConfig) -> BTreeMap<String, Value> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_keys_are_told_apart_by_whether_they_need_a_restart() {
        let old = NodeConfig::default();
        let mut new = old.clone();
        assert_eq!(ChangedKeys::between(&old, &new), ChangedKeys::default());
        new.limits.messages_per_minute = 7;
        new.limits.max_pending_leases = 20_000;
        new.client.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        new.client.listen.set_port(1);
        new.client.tls_cert = Some("cert.pem".into());
        new.client.acme.enabled = true;
        new.node.region = "eu-west".to_owned();
        let changed = ChangedKeys::between(&old, &new);
        assert_eq!(changed.reloaded, ["client.tls_cert", "client.trusted_proxies", "limits.messages_per_minute"]);
        assert_eq!(
            changed.need_restart,
            ["client.acme.enabled", "client.listen", "limits.max_pending_leases", "node.region"]
        );
        assert!(changed.has_reloaded("limits.") && !changed.has_reloaded("node.log"));
    }

    #[test]
    fn the_lists_name_keys_that_exist() {
        let all = values(&NodeConfig::default());
        for key in RELOADED.into_iter().chain(FIXED_LIMITS) {
            assert!(all.contains_key(key), "{key}");
        }
    }
}
