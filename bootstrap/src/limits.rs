//! Rate limits for each source.
//!
//! A source is an IPv4 address or an IPv6 /64, which is what one customer of a network has. Exempt ranges have no
//! limit.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use chappe_common::keys::NodeId;
use governor::{DefaultKeyedRateLimiter, Quota};
use ipnet::IpNet;

/// Maximal number of sources in a limiter, about 10 MB. Above it, inactive sources are dropped. If that is not enough,
/// new sources are rejected, so that an attacker cannot exhaust the memory.
const MAX_SOURCES: usize = 65_536;

/// An IPv4 address or an IPv6 /64. Must not be logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SourceKey(IpAddr);

impl SourceKey {
    /// The source of an address.
    pub(crate) fn from_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// Networks without limits. Clones share them, so that a reload replaces them everywhere at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExemptNetworks(Arc<ArcSwap<Vec<IpNet>>>);

impl From<&[IpNet]> for ExemptNetworks {
    fn from(networks: &[IpNet]) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(networks.to_vec())))
    }
}

impl ExemptNetworks {
    /// Whether `address` is in one of the networks.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.load().iter().any(|network| network.contains(&address))
    }

    /// Replaces the networks for all clones.
    pub(crate) fn replace(&self, networks: &[IpNet]) {
        self.0.store(Arc::new(networks.to_vec()));
    }
}

/// A rate limit for each source.
pub(crate) struct SourceLimiter {
    limiter: ArcSwap<DefaultKeyedRateLimiter<SourceKey>>,
    /// Actions in a minute.
    rate: AtomicU32,
    exempt: ExemptNetworks,
}

impl SourceLimiter {
    /// Allows `per_minute` actions in a minute, also in one burst.
    pub(crate) fn new(per_minute: u32, exempt: ExemptNetworks) -> Self {
        Self { limiter: ArcSwap::from_pointee(limiter(per_minute)), rate: per_minute.into(), exempt }
    }

    /// Replaces the rate. Each source begins with its whole allowance.
    pub(crate) fn set_rate(&self, per_minute: u32) {
        self.limiter.store(Arc::new(limiter(per_minute)));
        self.rate.store(per_minute, Ordering::Relaxed);
    }

    /// Whether the source of `address` may act once more. If so, counts the action.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        self.allows_many(address, NonZeroU32::MIN)
    }

    /// Whether the source of `address`, of which one action was counted, may do what counts as `others` more. If so, counts
    /// them. What exceeds the allowance of a minute counts as all of it.
    pub(crate) fn allows_more(&self, address: IpAddr, others: u32) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        NonZeroU32::new(others.min(rate.saturating_sub(1))).is_none_or(|others| self.allows_many(address, others))
    }

    fn allows_many(&self, address: IpAddr, actions: NonZeroU32) -> bool {
        if self.exempt.contains(address) {
            return true;
        }
        let limiter = self.limiter.load();
        if limiter.len() >= MAX_SOURCES {
            limiter.retain_recent();
            if limiter.len() >= MAX_SOURCES {
                return false;
            }
        }
        matches!(limiter.check_key_n(&SourceKey::from_address(address), actions), Ok(Ok(())))
    }

    /// Drops the sources that have been inactive for long enough.
    pub(crate) fn drop_inactive(&self) {
        self.limiter.load().retain_recent();
    }
}

/// Signed requests of a listed node in a minute, from whatever sources it sends them. Each list request takes a commit and a
/// response of up to half a megabyte, and each leave a new directory. A lone node requests the list about ten times in its first
/// minute, and then every ten minutes; the rest is for restarts.
const NODE_PER_MINUTE: u32 = 30;

/// A rate limit for each listed node. The limits of sources do not suffice: a source is a /64, and a /48 contains 65,536 of them.
pub(crate) struct NodeLimiter(DefaultKeyedRateLimiter<NodeId>);

impl Default for NodeLimiter {
    fn default() -> Self {
        Self(DefaultKeyedRateLimiter::keyed(Quota::per_minute(NonZeroU32::new(NODE_PER_MINUTE).expect("not 0"))))
    }
}

impl NodeLimiter {
    /// Whether the node may send one more request. If so, counts it. The caller checks that the node is listed, which bounds the
    /// number of entries.
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        self.0.check_key(&node).is_ok()
    }

    /// Drops the counts of nodes that have sent nothing for long enough.
    pub(crate) fn drop_inactive(&self) {
        self.0.retain_recent();
    }
}

fn limiter(per_minute: u32) -> DefaultKeyedRateLimiter<SourceKey> {
    DefaultKeyedRateLimiter::keyed(Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_share_their_allowance() {
        let limiter = SourceLimiter::new(2, ExemptNetworks::default());
        let allowed = |address: &str| limiter.allows(address.parse().expect("an address"));
        assert!(allowed("2001:db8::1") && allowed("2001:db8::2"));
        assert!(!allowed("2001:db8::3"));
        assert!(allowed("2001:db8:0:1::1"));
    }

    #[test]
    fn a_large_action_counts_as_several_and_as_no_more_than_all() {
        for (rate, others, times) in [(10, 4, 2), (10, 17, 1), (10, 0, 10), (1, 17, 1)] {
            let limiter = SourceLimiter::new(rate, ExemptNetworks::default());
            let address = "192.0.2.1".parse().expect("an address");
            let allowed = || limiter.allows(address) && limiter.allows_more(address, others);
            assert_eq!((0..20).filter(|_| allowed()).count(), times, "{rate} a minute, {others} others");
        }
    }

    #[test]
    fn an_ipv4_address_counts_the_same_in_either_spelling() {
        let exempt = "10.0.0.0/8".parse().expect("a range");
        let limiter = SourceLimiter::new(1, [exempt].as_slice().into());
        let allowed = |address: &str| limiter.allows(address.parse().expect("an address"));
        assert!(allowed("192.0.2.1"));
        assert!(!allowed("::ffff:192.0.2.1"));
        assert!((0..5).all(|_| allowed("10.1.2.3")), "an exempt range has no rate");
    }
}
