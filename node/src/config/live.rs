//! The values that a running node replaces when its configuration is read again, and which keys changed.

use chappe_common::changed_keys::ChangedKeys;
use ipnet::IpNet;

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

/// Compares two configurations.
pub(crate) fn changed_keys(old: &NodeConfig, new: &NodeConfig) -> ChangedKeys {
    ChangedKeys::between(old, new, |key| {
        RELOADED.contains(&key) || (key.starts_with("limits.") && !FIXED_LIMITS.contains(&key))
    })
}

#[cfg(test)]
mod tests {
    use chappe_common::changed_keys::values;

    use super::*;

    #[test]
    fn changed_keys_are_told_apart_by_whether_they_need_a_restart() {
        let old = NodeConfig::default();
        let mut new = old.clone();
        assert_eq!(changed_keys(&old, &new), ChangedKeys::default());
        new.limits.messages_per_minute = 7;
        new.limits.max_pending_leases = 20_000;
        new.client.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        new.client.listen.set_port(1);
        new.client.tls_cert = Some("cert.pem".into());
        new.client.acme.enabled = true;
        new.node.region = "eu-west".to_owned();
        let changed = changed_keys(&old, &new);
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
