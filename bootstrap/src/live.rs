//! The values that a running registry replaces when its configuration is read again.
//!
//! Invariant: all of a configuration is replaced, or nothing of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use chappe_common::changed_keys::ChangedKeys;
use ipnet::IpNet;

use crate::{
    config::{BootstrapConfig, ConfigError},
    limits::SourceLimiter,
};

/// The keys that are replaced. The binary applies `bootstrap.log`. All others are built into tasks and rules at the start.
const RELOADED: [&str; 6] = [
    "bootstrap.log",
    "http.trusted_proxies",
    "limits.connections_per_minute",
    "limits.max_connections",
    "limits.registrations_per_minute",
    "limits.requests_per_minute",
];

/// The values that are replaced while the registry runs. Connections and requests that begin later use them.
pub(crate) struct Live {
    pub(crate) trusted_proxies: ArcSwap<Vec<IpNet>>,
    pub(crate) max_connections: Arc<AtomicUsize>,
    pub(crate) connections: Arc<SourceLimiter>,
    pub(crate) requests: SourceLimiter,
    pub(crate) registrations: SourceLimiter,
    /// The configuration with all values that were replaced.
    in_use: Mutex<BootstrapConfig>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    pub(crate) fn new(config: &BootstrapConfig) -> Self {
        let limits = &config.limits;
        let limiter = |per_minute| SourceLimiter::new(per_minute, &limits.exempt);
        Self {
            trusted_proxies: ArcSwap::from_pointee(config.http.trusted_proxies.clone()),
            max_connections: Arc::new(AtomicUsize::new(limits.max_connections)),
            connections: Arc::new(limiter(limits.connections_per_minute)),
            requests: limiter(limits.requests_per_minute),
            registrations: limiter(limits.registrations_per_minute),
            in_use: Mutex::new(config.clone()),
        }
    }

    /// Replaces the values. Sources begin with their whole allowance again if its rate has changed.
    ///
    /// # Errors
    /// A value is out of bounds. Nothing was replaced.
    pub(crate) fn reload(&self, new: &BootstrapConfig) -> Result<ChangedKeys, ConfigError> {
        new.check()?;
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = ChangedKeys::between(&*in_use, new, |key| RELOADED.contains(&key));
        let limits = &new.limits;
        self.trusted_proxies.store(Arc::new(new.http.trusted_proxies.clone()));
        self.max_connections.store(limits.max_connections, Ordering::Relaxed);
        for (limiter, old, new) in [
            (&*self.connections, in_use.limits.connections_per_minute, limits.connections_per_minute),
            (&self.requests, in_use.limits.requests_per_minute, limits.requests_per_minute),
            (&self.registrations, in_use.limits.registrations_per_minute, limits.registrations_per_minute),
        ] {
            if old != new {
                limiter.set_rate(new);
            }
        }
        in_use.bootstrap.log.clone_from(&new.bootstrap.log);
        in_use.http.trusted_proxies.clone_from(&new.http.trusted_proxies);
        in_use.limits.max_connections = limits.max_connections;
        in_use.limits.connections_per_minute = limits.connections_per_minute;
        in_use.limits.requests_per_minute = limits.requests_per_minute;
        in_use.limits.registrations_per_minute = limits.registrations_per_minute;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{changed_keys::values, keys::SecretKey};

    use super::*;

    fn config() -> BootstrapConfig {
        let mut config = BootstrapConfig::default();
        config.federation.roots = vec![SecretKey::from_bytes(&[1; 32]).public()];
        config
    }

    #[test]
    fn the_list_names_keys_that_exist_and_each_of_them_is_replaced() {
        let (old, all) = (config(), values(&config()));
        let mut new = old.clone();
        new.bootstrap.log = "warn".to_owned();
        new.http.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        new.limits.max_connections = 7;
        new.limits.connections_per_minute = 1;
        new.limits.requests_per_minute = 2;
        new.limits.registrations_per_minute = 3;
        new.limits.max_nodes = 9;
        new.directory.lifetime /= 2;
        let live = Live::new(&old);
        let changed = live.reload(&new).expect("a valid configuration");
        assert_eq!(changed.reloaded, RELOADED);
        assert!(RELOADED.iter().all(|key| all.contains_key(*key)));
        assert_eq!(changed.need_restart, ["directory.lifetime", "limits.max_nodes"]);
        assert_eq!(live.max_connections.load(Ordering::Relaxed), 7);
        assert_eq!(**live.trusted_proxies.load(), new.http.trusted_proxies);
        for (limiter, allowed) in [(&*live.connections, 1), (&live.requests, 2), (&live.registrations, 3)] {
            assert_eq!((0..10).filter(|_| limiter.allows([192, 0, 2, 1].into())).count(), allowed);
        }
        // Nothing has changed since, and what needs a restart still does.
        let again = live.reload(&new).expect("a valid configuration");
        assert_eq!((again.reloaded.len(), again.need_restart), (0, changed.need_restart));
        assert!(!live.requests.allows([192, 0, 2, 1].into()), "a rate that stays the same has counted on");
        new.limits.max_connections = 0;
        assert!(live.reload(&new).is_err());
        assert_eq!(live.max_connections.load(Ordering::Relaxed), 7);
    }
}
