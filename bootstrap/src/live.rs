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
    config::{BootstrapConfig, ConfigError, LimitsSection},
    dial_limiter::DialLimiter,
    limits::{ExemptNetworks, SourceLimiter},
    rules::Caps,
};

/// Keys outside of `caps` and `limits` that are replaced. The binary applies `bootstrap.log`.
const RELOADED: [&str; 2] = ["bootstrap.log", "http.trusted_proxies"];
/// Keys of `limits` that are built into the rules at the start.
const FIXED_LIMITS: [&str; 1] = ["limits.max_nodes"];

/// The values that are replaced while the registry runs. Connections, requests and dials that begin later use them.
pub(crate) struct LiveConfig {
    pub(crate) trusted_proxies: ArcSwap<Vec<IpNet>>,
    pub(crate) max_connections: Arc<AtomicUsize>,
    /// New connections to the public interface.
    pub(crate) connections: Arc<SourceLimiter>,
    /// New connections to the operator's interface.
    pub(crate) admin_connections: Arc<SourceLimiter>,
    pub(crate) requests: Arc<SourceLimiter>,
    pub(crate) registrations: Arc<SourceLimiter>,
    pub(crate) dials: Arc<DialLimiter>,
    /// Dial-backs to each address, for all sources together.
    pub(crate) dial_targets: Arc<SourceLimiter>,
    /// Tries of client URLs at each address, for all nodes together: dial-backs must not use them up.
    pub(crate) door_targets: Arc<SourceLimiter>,
    pub(crate) caps: Caps,
    pub(crate) exempt: ExemptNetworks,
    /// The configuration with all values that were replaced.
    in_use: Mutex<BootstrapConfig>,
}

/// A limiter, and its rate in a configuration.
struct LiveLimiter<'a> {
    limiter: &'a SourceLimiter,
    per_minute: fn(&LimitsSection) -> u32,
}

impl fmt::Debug for LiveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveConfig").finish_non_exhaustive()
    }
}

impl LiveConfig {
    pub(crate) fn new(config: &BootstrapConfig) -> Self {
        let limits = &config.limits;
        let exempt = ExemptNetworks::from(&*limits.exempt);
        let limiter = |per_minute| Arc::new(SourceLimiter::new(per_minute, exempt.clone()));
        Self {
            trusted_proxies: ArcSwap::from_pointee(config.http.trusted_proxies.clone()),
            max_connections: Arc::new(AtomicUsize::new(limits.max_connections)),
            connections: limiter(limits.connections_per_minute),
            admin_connections: limiter(limits.connections_per_minute),
            requests: limiter(limits.requests_per_minute),
            registrations: limiter(limits.registrations_per_minute),
            dials: DialLimiter::new(limits.max_dials, exempt.clone()),
            dial_targets: limiter(limits.dials_per_minute),
            door_targets: limiter(limits.dials_per_minute),
            caps: Caps::new(config.caps.clone(), exempt.clone()),
            exempt,
            in_use: Mutex::new(config.clone()),
        }
    }

    /// All limiters of sources and addresses.
    fn limiters(&self) -> [LiveLimiter<'_>; 6] {
        [
            LiveLimiter { limiter: &self.connections, per_minute: |limits| limits.connections_per_minute },
            LiveLimiter { limiter: &self.admin_connections, per_minute: |limits| limits.connections_per_minute },
            LiveLimiter { limiter: &self.requests, per_minute: |limits| limits.requests_per_minute },
            LiveLimiter { limiter: &self.registrations, per_minute: |limits| limits.registrations_per_minute },
            LiveLimiter { limiter: &self.dial_targets, per_minute: |limits| limits.dials_per_minute },
            LiveLimiter { limiter: &self.door_targets, per_minute: |limits| limits.dials_per_minute },
        ]
    }

    /// Drops the sources and addresses that have been inactive for long enough.
    pub(crate) fn drop_inactive(&self) {
        self.limiters().into_iter().for_each(|one| one.limiter.drop_inactive());
    }

    /// Replaces the values. Sources begin with their whole allowance again if its rate has changed.
    ///
    /// # Errors
    /// A value is out of bounds. Nothing was replaced.
    pub(crate) fn reload(&self, new: &BootstrapConfig) -> Result<ChangedKeys, ConfigError> {
        new.check()?;
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = ChangedKeys::between(&*in_use, new, is_reloaded);
        let limits = &new.limits;
        self.trusted_proxies.store(Arc::new(new.http.trusted_proxies.clone()));
        self.max_connections.store(limits.max_connections, Ordering::Relaxed);
        for LiveLimiter { limiter, per_minute } in self.limiters() {
            if per_minute(&in_use.limits) != per_minute(limits) {
                limiter.set_rate(per_minute(limits));
            }
        }
        self.dials.set_max_dials(limits.max_dials);
        self.caps.replace(new.caps.clone());
        self.exempt.replace(&limits.exempt);
        in_use.bootstrap.log.clone_from(&new.bootstrap.log);
        in_use.http.trusted_proxies.clone_from(&new.http.trusted_proxies);
        in_use.caps = new.caps.clone();
        in_use.limits = LimitsSection { max_nodes: in_use.limits.max_nodes, ..limits.clone() };
        Ok(changed)
    }
}

fn is_reloaded(key: &str) -> bool {
    let is_limit = key.starts_with("limits.") && !FIXED_LIMITS.contains(&key);
    is_limit || key.starts_with("caps.") || RELOADED.contains(&key)
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
        new.limits.dials_per_minute = 4;
        new.limits.max_dials = 1;
        new.limits.exempt = vec!["10.0.0.0/8".parse().expect("a network")];
        new.caps.ipv4_24 = 1;
        new.limits.max_nodes = 9;
        new.directory.lifetime /= 2;
        let live = LiveConfig::new(&old);
        let changed = live.reload(&new).expect("a valid configuration");
        let reloaded: Vec<_> = [
            "bootstrap.log",
            "caps.ipv4_24",
            "http.trusted_proxies",
            "limits.connections_per_minute",
            "limits.dials_per_minute",
            "limits.exempt",
            "limits.max_connections",
            "limits.max_dials",
            "limits.registrations_per_minute",
            "limits.requests_per_minute",
        ]
        .into();
        assert_eq!(changed.reloaded, reloaded);
        assert!(RELOADED.iter().chain(&FIXED_LIMITS).all(|key| all.contains_key(*key)));
        assert_eq!(changed.need_restart, ["directory.lifetime", "limits.max_nodes"]);
        assert_eq!(live.max_connections.load(Ordering::Relaxed), 7);
        assert_eq!(**live.trusted_proxies.load(), new.http.trusted_proxies);
        for (limiter, allowed) in [
            (&live.connections, 1),
            (&live.admin_connections, 1),
            (&live.requests, 2),
            (&live.registrations, 3),
            (&live.dial_targets, 4),
            (&live.door_targets, 4),
        ] {
            assert_eq!((0..10).filter(|_| limiter.allows([192, 0, 2, 1].into())).count(), allowed);
            assert!((0..10).all(|_| limiter.allows([10, 1, 2, 3].into())), "the network is exempt now");
        }
        let others: [std::net::IpAddr; 1] = [[192, 0, 2, 1].into()];
        assert!(!live.caps.allow([192, 0, 2, 2].into(), others.into_iter()), "one node of a /24 is listed already");
        let node = SecretKey::from_bytes(&[2; 32]).node_id();
        let permit = live.dials.try_acquire([192, 0, 2, 1].into(), node, false);
        assert!(permit.is_some() && live.dials.try_acquire([198, 51, 100, 1].into(), node, false).is_none());
        // Nothing has changed since, and what needs a restart still does.
        let again = live.reload(&new).expect("a valid configuration");
        assert_eq!((again.reloaded.len(), again.need_restart), (0, changed.need_restart));
        assert!(!live.requests.allows([192, 0, 2, 1].into()), "a rate that stays the same has counted on");
        new.limits.max_connections = 0;
        assert!(live.reload(&new).is_err());
        assert_eq!(live.max_connections.load(Ordering::Relaxed), 7);
    }
}
