//! The addresses at which nodes have proved their keys.

use std::net::SocketAddr;

use chappe_common::{keys::NodeId, record::NodeRecord};
use dashmap::DashMap;

use crate::placement::Network;

/// Maximum number of nodes: as many as there are records.
const MAX_NODES: usize = 4096;
/// Maximum number of addresses of a node: as many as a record has.
const MAX_OF_ONE: usize = 4;

/// For each node, the addresses at which it proved its key; the newest last.
#[derive(Debug, Default)]
pub(super) struct SeenAddrs(DashMap<NodeId, Vec<SocketAddr>>);

impl SeenAddrs {
    /// Records that the node proved its key at this address. Beyond [`MAX_OF_ONE`], its oldest address is dropped.
    pub(super) fn add(&self, node: NodeId, addr: SocketAddr) {
        if self.0.len() >= MAX_NODES && !self.0.contains_key(&node) {
            return;
        }
        let mut seen = self.0.entry(node).or_default();
        let addr = canonical(addr);
        seen.retain(|one| *one != addr);
        if seen.len() >= MAX_OF_ONE {
            seen.remove(0);
        }
        seen.push(addr);
    }

    /// Returns the addresses of a record that belong to its node: the first one, those in the same network, and those
    /// at which the node proved its key. A record may list other people's addresses after the first one, and they must
    /// not receive packets because of that.
    pub(super) fn own_addrs(&self, record: &NodeRecord) -> Vec<SocketAddr> {
        let Some(first) = record.quic_addrs.first() else { return Vec::new() };
        let seen = self.0.get(&record.node);
        let is_own = |addr: &&SocketAddr| {
            Network::of(addr) == Network::of(first)
                || seen.as_ref().is_some_and(|seen| seen.contains(&canonical(**addr)))
        };
        record.quic_addrs.iter().filter(is_own).copied().collect()
    }

    /// Removes unknown nodes.
    pub(super) fn retain(&self, is_known: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| is_known(node));
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
