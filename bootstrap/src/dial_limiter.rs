//! Limits concurrent dial-backs: in total, for unlisted nodes, for each wide network, and for each listed node.
//!
//! A dial to a dead address keeps its permit for `times.dial`, and keys cost nothing. Without separate limits, a dozen
//! sources could lock out all new nodes. A listed node can name dead addresses too, so it has one permit at a time.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use chappe_common::keys::NodeId;
use ipnet::IpNet;

use crate::{limits::ExemptNetworks, rules::wide_network};

/// This fraction of the permits (one in four) is reserved for listed nodes.
const LISTED_RESERVE: usize = 4;
/// Fraction of the permits that unlisted nodes of one wide network (IPv4 /16, IPv6 /32) may hold.
const NETWORK_PART: usize = 16;
/// The same for listed nodes. Many honest nodes may be in one network, and dials to them are short.
const LISTED_NETWORK_PART: usize = 8;

/// A limiter for concurrent dial-backs.
#[derive(Debug)]
pub(crate) struct DialLimiter {
    max_dials: AtomicUsize,
    exempt: ExemptNetworks,
    taken: Mutex<PermitsInUse>,
}

#[derive(Debug, Default)]
struct PermitsInUse {
    count: usize,
    strangers: usize,
    /// Permits in use, by network and by whether the node is listed.
    by_network: HashMap<(IpNet, bool), usize>,
    listed: HashSet<NodeId>,
}

impl DialLimiter {
    /// A limiter with `max_dials` permits. Exempt ranges and loopback have no limit for each network.
    pub(crate) fn new(max_dials: usize, exempt: ExemptNetworks) -> Arc<Self> {
        Arc::new(Self { max_dials: AtomicUsize::new(max_dials), exempt, taken: Mutex::default() })
    }

    /// Replaces the number of permits. Those that are taken stay so.
    pub(crate) fn set_max_dials(&self, max_dials: usize) {
        self.max_dials.store(max_dials, Ordering::Relaxed);
    }

    /// Takes a permit to dial `node` for a request from `client`. Returns `None` if a limit is reached.
    pub(crate) fn try_acquire(self: &Arc<Self>, client: IpAddr, node: NodeId, is_listed: bool) -> Option<DialPermit> {
        let client = client.to_canonical();
        let is_exempt = client.is_loopback() || self.exempt.contains(client);
        let max_dials = self.max_dials.load(Ordering::Relaxed);
        let network = (!is_exempt).then(|| (wide_network(client), is_listed));
        let mut taken = self.permits_in_use();
        let for_strangers = (max_dials - max_dials / LISTED_RESERVE).max(1);
        if taken.count >= max_dials || (!is_listed && taken.strangers >= for_strangers) {
            return None;
        }
        if is_listed && taken.listed.contains(&node) {
            return None;
        }
        if let Some(network) = network {
            let in_network = taken.by_network.get(&network).copied().unwrap_or_default();
            let part = if is_listed { LISTED_NETWORK_PART } else { NETWORK_PART };
            if in_network >= (max_dials / part).max(1) {
                return None;
            }
            taken.by_network.insert(network, in_network + 1);
        }
        taken.count += 1;
        taken.strangers += usize::from(!is_listed);
        if is_listed {
            taken.listed.insert(node);
        }
        drop(taken);
        Some(DialPermit { limiter: Arc::clone(self), network, node, is_listed })
    }

    fn permits_in_use(&self) -> MutexGuard<'_, PermitsInUse> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit, returned on drop.
#[derive(Debug)]
pub(crate) struct DialPermit {
    limiter: Arc<DialLimiter>,
    network: Option<(IpNet, bool)>,
    node: NodeId,
    is_listed: bool,
}

impl Drop for DialPermit {
    fn drop(&mut self) {
        let mut taken = self.limiter.permits_in_use();
        taken.count -= 1;
        taken.strangers -= usize::from(!self.is_listed);
        if self.is_listed {
            taken.listed.remove(&self.node);
        }
        if let Some(network) = self.network
            && let Entry::Occupied(mut entry) = taken.by_network.entry(network)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    #[test]
    fn one_wide_network_does_not_take_all_permits_and_strangers_leave_some_to_the_listed() {
        let limiter = DialLimiter::new(32, ExemptNetworks::default());
        let ip = |a: u8, b: u8| IpAddr::from([a, 1, b, 1]);
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]);
        let mut taken: Vec<_> = (0..100).filter_map(|n| limiter.try_acquire(ip(1, n), node(n), false)).collect();
        taken.extend((0..100).filter_map(|n| limiter.try_acquire(v6(n), node(1), false)));
        assert_eq!(taken.len(), 4, "two of each");
        taken.extend((2..100).filter_map(|n| limiter.try_acquire(ip(n, 1), node(n), false)));
        assert_eq!(taken.len(), 24);
        taken.extend((0..100).filter_map(|n| limiter.try_acquire(ip(1, 1), node(n), true)));
        assert_eq!(taken.len(), 28, "four of one network");
        taken.extend((100..200).filter_map(|n| limiter.try_acquire(ip(n, 1), node(n), true)));
        assert_eq!(taken.len(), 32);
        taken.clear();
        let left = limiter.permits_in_use();
        assert_eq!((left.count, left.strangers, left.by_network.len(), left.listed.len()), (0, 0, 0, 0));
    }

    #[test]
    fn a_key_that_is_listed_holds_one_permit_at_a_time_from_wherever_it_asks() {
        let exempt = "10.0.0.0/8".parse().expect("a network");
        let limiter = DialLimiter::new(32, [exempt].as_slice().into());
        let ip = |a: u8| IpAddr::from([a, 1, 1, 1]);
        let taken: Vec<_> = (1..100).filter_map(|n| limiter.try_acquire(ip(n), node(1), true)).collect();
        assert_eq!(taken.len(), 1);
        assert!(limiter.try_acquire(ip(1), node(2), true).is_some());
        drop(taken);
        assert!(limiter.try_acquire(ip(10), node(1), true).is_some());
    }

    #[test]
    fn a_network_for_tests_and_a_single_permit_are_no_trap() {
        let exempt = ["10.0.0.0/8".parse().expect("a network")];
        let limiter = DialLimiter::new(32, exempt.as_slice().into());
        let taken: Vec<_> =
            (0..100).filter_map(|_| limiter.try_acquire([10, 0, 0, 1].into(), node(1), false)).collect();
        assert_eq!(taken.len(), 24);
        assert!(
            DialLimiter::new(1, ExemptNetworks::default()).try_acquire([192, 0, 2, 1].into(), node(1), false).is_some()
        );
    }
}
