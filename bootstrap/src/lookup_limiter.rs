//! Limits how often the names in nodes' URLs are looked up: for each node, and for all nodes together.
//!
//! A record names hosts that its sender has chosen. A name that does not exist costs up to ten queries: two at each provider of
//! DNS over HTTPS, which may block a registry that asks too much.

use std::num::NonZeroU32;

use chappe_common::{keys::NodeId, record::MAX_ADDRESSES};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};

/// Lookups for a node in a minute: those of two probes with all its URLs. After a failure, probes are about a minute apart.
const NODE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(2 * MAX_ADDRESSES as u32).expect("not 0");
/// Lookups in a second for all nodes. A thousand nodes with four names each need 13.
const TOTAL_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("not 0");
/// The lookups that may be made at once: those of 16 concurrent probes (`probing.max_concurrent`) with four names.
const TOTAL_BURST: NonZeroU32 = NonZeroU32::new(64).expect("not 0");

/// Which limit a lookup exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupRefused {
    /// The node's own.
    Node,
    /// The one for all nodes.
    Total,
}

impl LookupRefused {
    /// As a metric's label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Node => "node_rate",
            Self::Total => "total_rate",
        }
    }
}

/// A rate limiter for lookups.
pub(crate) struct LookupLimiter {
    /// Only listed nodes are probed, so it has as many entries as there are listed nodes, and those of a minute ago.
    by_node: DefaultKeyedRateLimiter<NodeId>,
    total: DefaultDirectRateLimiter,
}

impl LookupLimiter {
    pub(crate) fn new() -> Self {
        Self {
            by_node: DefaultKeyedRateLimiter::keyed(Quota::per_minute(NODE_PER_MINUTE)),
            total: DefaultDirectRateLimiter::direct(Quota::per_second(TOTAL_PER_SECOND).allow_burst(TOTAL_BURST)),
        }
    }

    /// Counts a lookup for a node.
    ///
    /// # Errors
    /// It must not be made now. A lookup beyond the node's own limit does not count for all nodes. One beyond the limit of all
    /// counts for its node.
    pub(crate) fn try_lookup(&self, node: NodeId) -> Result<(), LookupRefused> {
        self.by_node.check_key(&node).map_err(|_| LookupRefused::Node)?;
        self.total.check().map_err(|_| LookupRefused::Total)
    }

    /// Drops the counts of nodes whose names were not looked up recently.
    pub(crate) fn drop_inactive(&self) {
        self.by_node.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([number; 32]))
    }

    #[test]
    fn one_node_uses_up_its_own_lookups_alone() {
        let limiter = LookupLimiter::new();
        let allowed = (0..1000).filter(|_| limiter.try_lookup(node(1)).is_ok()).count();
        assert_eq!(allowed, 8);
        assert_eq!(limiter.try_lookup(node(1)), Err(LookupRefused::Node));
        assert_eq!(limiter.try_lookup(node(2)), Ok(()));
    }

    #[test]
    fn all_nodes_together_are_bounded() {
        let limiter = LookupLimiter::new();
        let tries: Vec<_> = (0..200).map(|number| limiter.try_lookup(node(number))).collect();
        let allowed = tries.iter().filter(|tried| tried.is_ok()).count();
        // A slow machine may get a few of the next second.
        assert!((64..150).contains(&allowed), "{allowed}");
        assert!(tries.contains(&Err(LookupRefused::Total)));
    }
}
