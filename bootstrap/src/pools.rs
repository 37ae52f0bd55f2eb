//! Selects the few public nodes that an unauthenticated client gets.
//!
//! All clients of one network get the same nodes for three hours, so that nobody can collect the full list by asking
//! often. A keyed hash maps networks to a fixed number of parts, and another one selects the nodes of each part.
//! Without the key, nobody can compute which networks get which nodes. The key is derived from the online key, so it
//! survives restarts, and registries with the same online key agree.
//!
//! Pure: the same nodes, key and time lead to the same parts.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use chappe_common::{keys::SecretKey, record::SignedRecord, time::UnixTime};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ipnet::IpNet;
use sha2::Sha256;

use crate::rules::caps::wide_network;

/// Maximal number of nodes in a part: enough that some work, and few enough that collecting all of them is laborious.
pub(crate) const PART_SIZE: usize = 8;
/// Number of parts. It is far more than the number of nodes, so that two networks rarely share a part. All parts
/// together fit into 10 MB.
pub(crate) const PARTS: u16 = 1024;
/// How long a network gets the same nodes.
const SLOT: Duration = Duration::from_secs(3 * 3600);

/// A period of three hours, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u64);

impl Slot {
    /// The period that contains `time`.
    pub(crate) const fn containing(time: UnixTime) -> Self {
        Self(time.as_secs() / SLOT.as_secs())
    }
}

/// The key of both hashes.
#[derive(Clone)]
pub(crate) struct PoolKey(Hmac<Sha256>);

impl PoolKey {
    /// Derives the key from the online key.
    pub(crate) fn derive(online: &SecretKey) -> Self {
        let keyed = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        let derived = keyed(&*online.to_bytes()).chain_update(b"chappe/pools/v1\0").finalize().into_bytes();
        Self(keyed(&derived))
    }

    fn hash(&self, what: &[&[u8]]) -> u64 {
        let hash = what.iter().fold(self.0.clone(), |hash, part| hash.chain_update(part));
        let digest: [u8; 32] = hash.finalize().into_bytes().into();
        let (first, _) = digest.split_first_chunk().expect("a digest of 32 bytes");
        u64::from_le_bytes(*first)
    }

    /// The part for clients at `address`.
    pub(crate) fn part_of(&self, address: IpAddr, slot: Slot) -> u16 {
        let network = match wide_network(address) {
            IpNet::V4(net) => net.network().octets().to_vec(),
            IpNet::V6(net) => net.network().octets().to_vec(),
        };
        let hash = self.hash(&[b"network", &slot.0.to_le_bytes(), &network]);
        u16::try_from(hash % u64::from(PARTS)).expect("less than the number of parts")
    }

    /// The nodes of a part.
    pub(crate) fn select_part<'a>(&self, nodes: &'a [SignedRecord], part: u16, slot: Slot) -> Vec<&'a SignedRecord> {
        self.select_up_to(nodes, part, slot, PART_SIZE)
    }

    /// Selects at most `most` nodes, in the order of `nodes`. Takes one node of each wide network before a second of
    /// any.
    pub(crate) fn select_up_to<'a>(
        &self,
        nodes: &'a [SignedRecord],
        part: u16,
        slot: Slot,
        most: usize,
    ) -> Vec<&'a SignedRecord> {
        let score = |&place: &usize| {
            let node = nodes[place].node;
            self.hash(&[b"node", &slot.0.to_le_bytes(), &part.to_le_bytes(), node.as_bytes()])
        };
        let mut ranked: Vec<usize> = (0..nodes.len()).collect();
        // When a node is added or removed, the scores of the others stay, so few of the selected nodes change.
        ranked.sort_by_cached_key(score);
        let mut networks = BTreeSet::new();
        // Listed nodes have proved their keys in the network of their first address.
        let (first, rest): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|&place| {
            let first = nodes[place].quic_addrs.first();
            first.is_some_and(|addr| networks.insert(wide_network(addr.ip())))
        });
        let mut picked: Vec<_> = first.into_iter().chain(rest).take(most).collect();
        picked.sort_unstable();
        picked.into_iter().map(|place| &nodes[place]).collect()
    }
}

impl std::fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolKey")
    }
}

#[cfg(test)]
mod tests;
