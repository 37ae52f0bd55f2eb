//! The addresses at which nodes have proved their keys.

use std::net::SocketAddr;

use chappe_common::{keys::NodeId, record::NodeRecord};
use dashmap::DashMap;

use crate::placement::Network;

/// Nodes whose addresses are remembered: as many as there are records of.
const MAX_NODES: usize = 4096;
/// Addresses remembered of one node: as many as a record has.
const MAX_OF_ONE: usize = 4;

/// Where nodes have been seen with their keys.
#[derive(Debug, Default)]
pub(super) struct SeenAddrs(DashMap<NodeId, Vec<SocketAddr>>);

impl SeenAddrs {
    /// Remembers that the node has proved its key at this address. Beyond [`MAX_OF_ONE`] its oldest address is forgotten.
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

    /// The addresses of a record that are its node's own: the first, at which it is a member, those in the same network,
    /// and those at which it has been seen with its key. A record may name anybody's address after the first, and nobody is
    /// to be sent packets because of that.
    pub(super) fn own_addrs(&self, record: &NodeRecord) -> Vec<SocketAddr> {
        let Some(first) = record.quic_addrs.first() else { return Vec::new() };
        let seen = self.0.get(&record.node);
        let is_own = |addr: &&SocketAddr| {
            Network::of(addr) == Network::of(first)
                || seen.as_ref().is_some_and(|seen| seen.contains(&canonical(**addr)))
        };
        record.quic_addrs.iter().filter(is_own).copied().collect()
    }

    /// Forgets the nodes that are not known any more.
    pub(super) fn retain(&self, is_known: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| is_known(node));
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
