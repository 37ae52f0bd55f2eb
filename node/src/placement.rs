//! Placement: which three members are the homes of a tag.
//!
//! Rendezvous hashing: each member has a score for the tag, and the three highest scores are its homes. All nodes
//! compute the same homes from the same view. Views that differ by a few members give few different homes. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use chappe_common::{code::PairingCode, federation::FederationId, keys::NodeId, lease::Inbox};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// Number of homes of a tag.
pub const HOMES: usize = 3;

/// The hash of an inbox or a pairing code, by which its homes are selected.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(u64);

impl Tag {
    /// Returns the tag of an inbox.
    pub fn of_inbox(inbox: &Inbox) -> Self {
        Self(hash64(b"chappe/tag/inbox/v1\0", inbox.key().as_bytes()))
    }

    /// Returns the tag of a pairing code.
    pub fn of_code(code: &PairingCode) -> Self {
        Self(hash64(b"chappe/tag/code/v1\0", code.as_bytes()))
    }

    /// Returns the tag with this number, such as a random one.
    pub const fn new(tag: u64) -> Self {
        Self(tag)
    }

    /// Returns the tag as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// A random value that was unknown when the nodes' keys were created, so that nobody could choose a key for a known
/// tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconValue([u8; 32]);

impl BeaconValue {
    /// Creates a beacon from the value of a signed beacon.
    pub const fn new(value: [u8; 32]) -> Self {
        Self(value)
    }

    /// Returns the beacon of a federation whose roots have not signed one yet.
    pub fn genesis(federation: FederationId) -> Self {
        Self(
            Sha256::new_with_prefix(b"chappe/beacon/genesis/v1\0")
                .chain_update(federation.as_bytes())
                .finalize()
                .into(),
        )
    }
}

/// A beacon, and the nodes that may be homes under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    beacon: BeaconValue,
    /// Sorted. `None` means all members past their probation.
    eligible: Option<Arc<[NodeId]>>,
}

impl Election {
    /// Creates an election by `beacon` among the `eligible` nodes, which are sorted. Without a list, all members past
    /// their probation are eligible.
    pub const fn new(beacon: BeaconValue, eligible: Option<Arc<[NodeId]>>) -> Self {
        Self { beacon, eligible }
    }

    /// Returns the beacon.
    pub const fn beacon(&self) -> &BeaconValue {
        &self.beacon
    }

    /// Returns whether the list contains `node`, or `None` if there is no list.
    pub fn names(&self, node: &NodeId) -> Option<bool> {
        self.eligible.as_ref().map(|eligible| eligible.binary_search(node).is_ok())
    }
}

/// The current election, and around a switch of beacons the one before or after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    current: Election,
    other: Option<Election>,
}

impl Placement {
    /// Creates a placement by `current`. Lookups use `other` in addition.
    pub const fn new(current: Election, other: Option<Election>) -> Self {
        Self { current, other }
    }

    /// Returns the placement of a federation whose roots have not signed a beacon yet.
    pub fn genesis(federation: FederationId) -> Self {
        Self::new(Election::new(BeaconValue::genesis(federation), None), None)
    }

    /// Returns the election by which leases and codes are registered.
    pub const fn current(&self) -> &Election {
        &self.current
    }

    /// Returns the second election that lookups use around a switch.
    pub const fn other(&self) -> Option<&Election> {
        self.other.as_ref()
    }
}

/// The network of a node: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network([u8; 7]);

impl Network {
    /// Returns the network of an address.
    pub fn of(addr: &SocketAddr) -> Self {
        let mut network = [0; 7];
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => network[1..4].copy_from_slice(&ip.octets()[..3]),
            IpAddr::V6(ip) => {
                network[0] = 6;
                network[1..].copy_from_slice(&ip.octets()[..6]);
            }
        }
        Self(network)
    }

    /// Returns the network of an address, or `None` if the address is in an exempt range.
    pub fn unless_exempt(addr: &SocketAddr, exempt: &[IpNet]) -> Option<Self> {
        let ip = addr.ip().to_canonical();
        (!exempt.iter().any(|range| range.contains(&ip))).then(|| Self::of(addr))
    }
}

/// A member with its precomputed hash, as a candidate for homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    node: NodeId,
    network: Network,
    /// The hash of beacon and key, computed once for all tags.
    salt: u64,
}

impl Candidate {
    /// Creates the candidate of a member under a beacon.
    pub fn new(beacon: &BeaconValue, node: NodeId, network: Network) -> Self {
        let mut input = [0; 64];
        input[..32].copy_from_slice(&beacon.0);
        input[32..].copy_from_slice(node.as_bytes());
        Self { node, network, salt: hash64(b"chappe/place/v1\0", &input) }
    }

    /// Returns the member.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Returns the score for a tag: the 64-bit finalizer of splitmix64 (Steele, Lea, Flood: «Fast splittable
    /// pseudorandom number generators», 2014) over both hashes. Both inputs are uniform, so a mixer is enough. A
    /// thousand members take 1.75 µs, where SHA-256 would take 100 µs.
    const fn score(&self, tag: Tag) -> u64 {
        let mut x = self.salt ^ tag.0.rotate_left(32);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The homes of one tag, the highest score first: three, or fewer if there are fewer members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homes {
    nodes: [Option<NodeId>; HOMES],
}

impl Homes {
    /// The homes by an empty view.
    pub const NONE: Self = Self { nodes: [None; HOMES] };

    /// Returns the homes of `tag` among `candidates`. No two are in one network if there are enough networks.
    pub fn of(candidates: &[Candidate], tag: Tag) -> Self {
        Self { nodes: select(candidates, tag) }
    }

    /// Returns the homes and the next in line, which is a home by a view that lacks one of them.
    pub fn with_next(candidates: &[Candidate], tag: Tag) -> (Self, Option<NodeId>) {
        let [a, b, c, next] = select(candidates, tag);
        (Self { nodes: [a, b, c] }, next)
    }

    /// Iterates over the homes, the highest score first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied().flatten()
    }

    /// Returns whether `node` is one of the homes.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.nodes.contains(&Some(*node))
    }
}

/// The homes that a lookup queries: one group, or two around a switch of beacons. In addition the next in line, which
/// is a home by slightly different views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupHomes {
    current: Homes,
    next: Option<NodeId>,
    other: Option<Homes>,
}

impl LookupHomes {
    /// Creates the set from the homes and the next in line by the current election, and around a switch the homes by
    /// the other one.
    pub const fn new(current: Homes, next: Option<NodeId>, other: Option<Homes>) -> Self {
        Self { current, next, other }
    }

    /// Returns the next in line.
    pub const fn next(&self) -> Option<NodeId> {
        self.next
    }

    /// Iterates over the groups. The homes of a group store the same leases.
    pub fn groups(&self) -> impl Iterator<Item = &Homes> {
        [Some(&self.current), self.other.as_ref()].into_iter().flatten()
    }

    /// Iterates over the homes without the next in line, each once.
    pub fn home_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.other.iter().flat_map(Homes::iter).filter(|home| !self.current.contains(home));
        self.current.iter().chain(others)
    }

    /// Iterates over all nodes to query, each once.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        let asked = |home: &NodeId| self.current.contains(home) || self.next == Some(*home);
        let others = self.other.iter().flat_map(Homes::iter).filter(move |home| !asked(home));
        self.current.iter().chain(self.next).chain(others)
    }
}

/// Returns the nodes of the `N` highest scores. No two are in one network if there are enough networks.
fn select<const N: usize>(candidates: &[Candidate], tag: Tag) -> [Option<NodeId>; N] {
    let mut nodes = [None; N];
    let mut networks = [None; N];
    // One pass for each home: no sort, no allocation.
    for i in 0..N {
        let fresh = |candidate: &&Candidate| !networks[..i].contains(&Some(candidate.network));
        let free = |candidate: &&Candidate| !nodes[..i].contains(&Some(candidate.node));
        let best =
            highest(candidates.iter().filter(fresh), tag).or_else(|| highest(candidates.iter().filter(free), tag));
        nodes[i] = best.map(Candidate::node);
        networks[i] = best.map(|candidate| candidate.network);
    }
    nodes
}

fn highest<'a>(candidates: impl Iterator<Item = &'a Candidate>, tag: Tag) -> Option<&'a Candidate> {
    candidates.max_by_key(|candidate| (candidate.score(tag), candidate.node))
}

fn hash64(context: &[u8], input: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::new_with_prefix(context).chain_update(input).finalize().into();
    u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn candidates(count: u32, network: impl Fn(u32) -> u32) -> Vec<Candidate> {
        let beacon = BeaconValue::genesis(FederationId::of_roots(&[]));
        (0..count)
            .map(|i| {
                let mut key = [0; 32];
                key[..4].copy_from_slice(&i.to_le_bytes());
                let [a, b, c, _] = network(i).to_be_bytes();
                let addr = SocketAddr::from(([a, b, c, 1], 1));
                Candidate::new(&beacon, NodeId::new(PublicKey::from_bytes(key)), Network::of(&addr))
            })
            .collect()
    }

    fn tags(count: u64) -> impl Iterator<Item = Tag> {
        (0..count).map(|i| Tag(hash64(b"test", &i.to_le_bytes())))
    }

    #[test]
    fn a_tag_has_three_distinct_homes_or_all_members() {
        for count in 0..6 {
            let candidates = candidates(count, |i| i << 8);
            for tag in tags(50) {
                let homes: Vec<_> = Homes::of(&candidates, tag).iter().collect();
                let mut unique = homes.clone();
                unique.sort_unstable();
                unique.dedup();
                assert_eq!((homes.len(), unique.len()), (3.min(count as usize), 3.min(count as usize)));
            }
        }
    }

    #[test]
    fn homes_are_in_different_networks_if_possible() {
        // Ten members in one network, two in others: these two are homes of every tag.
        let candidates = candidates(12, |i| i.saturating_sub(9) << 8);
        for tag in tags(100) {
            let homes = Homes::of(&candidates, tag);
            assert!(homes.contains(&candidates[10].node) && homes.contains(&candidates[11].node));
            assert_eq!(homes.iter().count(), 3);
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let forward = candidates(50, |i| i << 8);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        for tag in tags(100) {
            assert_eq!(Homes::of(&forward, tag), Homes::of(&backward, tag));
        }
    }

    #[test]
    fn load_is_spread_evenly_and_a_lost_member_moves_only_its_own() {
        let all = candidates(100, |i| i << 8);
        let without: Vec<_> = all[1..].to_vec();
        let mut load = vec![0_u32; 100];
        for tag in tags(20_000) {
            let homes = Homes::of(&all, tag);
            for (i, candidate) in all.iter().enumerate() {
                load[i] += u32::from(homes.contains(&candidate.node));
            }
            if !homes.contains(&all[0].node) {
                assert_eq!(homes, Homes::of(&without, tag));
            }
        }
        // The mean is 600 with a deviation of 24: five of them to either side.
        assert!(load.iter().all(|n| (480..720).contains(n)), "{load:?}");
    }
}
