//! Placement: which three members are the homes of a tag.
//!
//! Rendezvous hashing: every member has a score for the tag, and the three highest are its homes. All nodes compute
//! the same from the same view, and a view that differs by a few members differs by few homes. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use chappe_common::{code::PairingCode, federation::FederationId, keys::NodeId, lease::Inbox};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// How many homes a tag has.
pub const HOMES: usize = 3;

/// What is placed: the hash of an inbox or of a pairing code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(u64);

impl Tag {
    /// The tag of an inbox.
    pub fn of_inbox(inbox: &Inbox) -> Self {
        Self(hash64(b"chappe/tag/inbox/v1\0", inbox.key().as_bytes()))
    }

    /// The tag of a pairing code.
    pub fn of_code(code: &PairingCode) -> Self {
        Self(hash64(b"chappe/tag/code/v1\0", code.as_bytes()))
    }

    /// The tag as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// A number that nobody could know when the nodes' keys were made, so that nobody makes keys that land on a known
/// tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon([u8; 32]);

impl Beacon {
    /// The beacon of a root's note.
    pub const fn new(value: [u8; 32]) -> Self {
        Self(value)
    }

    /// The beacon of a federation whose roots have signed none yet.
    pub fn genesis(federation: FederationId) -> Self {
        Self(
            Sha256::new_with_prefix(b"chappe/beacon/genesis/v1\0")
                .chain_update(federation.as_bytes())
                .finalize()
                .into(),
        )
    }
}

/// By what tags are placed, and on whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    beacon: Beacon,
    /// Sorted. None: whoever is past its probation.
    eligible: Option<Arc<[NodeId]>>,
}

impl Election {
    /// Places by `beacon` on the `eligible`, which are sorted; where there is no list, on who is past its probation.
    pub const fn new(beacon: Beacon, eligible: Option<Arc<[NodeId]>>) -> Self {
        Self { beacon, eligible }
    }

    /// The beacon.
    pub const fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// Whether the list names `node`; `None` where there is no list.
    pub fn names(&self, node: &NodeId) -> Option<bool> {
        self.eligible.as_ref().map(|eligible| eligible.binary_search(node).is_ok())
    }
}

/// The election in force at a time, and around a switch the one on the switch's other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    current: Election,
    other: Option<Election>,
}

impl Placement {
    /// Placement by `current`; lookups ask by `other` too.
    pub const fn new(current: Election, other: Option<Election>) -> Self {
        Self { current, other }
    }

    /// Placement in a federation whose roots have signed no beacon yet.
    pub fn genesis(federation: FederationId) -> Self {
        Self::new(Election::new(Beacon::genesis(federation), None), None)
    }

    /// What is registered by.
    pub const fn current(&self) -> &Election {
        &self.current
    }

    /// What lookups ask by besides.
    pub const fn other(&self) -> Option<&Election> {
        self.other.as_ref()
    }
}

/// The network that a node is in, as placement counts them: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network([u8; 7]);

impl Network {
    /// The network of an address.
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

    /// The same, where what comes from one network is limited; none: the address is in one of the exempt ranges.
    pub fn unless_exempt(addr: &SocketAddr, exempt: &[IpNet]) -> Option<Self> {
        let ip = addr.ip().to_canonical();
        (!exempt.iter().any(|range| range.contains(&ip))).then(|| Self::of(addr))
    }
}

/// A member as placement sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    node: NodeId,
    network: Network,
    /// The hash of beacon and key, computed once and not for every tag.
    salt: u64,
}

impl Candidate {
    /// The place of a member under a beacon.
    pub fn new(beacon: &Beacon, node: NodeId, network: Network) -> Self {
        let mut input = [0; 64];
        input[..32].copy_from_slice(&beacon.0);
        input[32..].copy_from_slice(node.as_bytes());
        Self { node, network, salt: hash64(b"chappe/place/v1\0", &input) }
    }

    /// The member.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The score for a tag: the 64-bit finalizer of splitmix64 (Steele, Lea, Flood: «Fast splittable pseudorandom
    /// number generators», 2014) over both hashes. Two uniform hashes go in, so a mixer does; it is 1.75 µs for a
    /// thousand members where SHA-256 would be 100.
    const fn score(&self, tag: Tag) -> u64 {
        let mut x = self.salt ^ tag.0.rotate_left(32);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The homes of one tag, the highest score first: three, or as many as there are members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homes {
    nodes: [Option<NodeId>; HOMES],
}

impl Homes {
    /// No homes: of an empty view.
    pub const NONE: Self = Self { nodes: [None; HOMES] };

    /// The homes of `tag` among `places`. No two are in one network where there are others.
    pub fn of(places: &[Candidate], tag: Tag) -> Self {
        Self { nodes: first(places, tag) }
    }

    /// The homes, and who would be one if one of them weren't there: by a view that lacks a member, it is.
    pub fn with_next(places: &[Candidate], tag: Tag) -> (Self, Option<NodeId>) {
        let [a, b, c, next] = first(places, tag);
        (Self { nodes: [a, b, c] }, next)
    }

    /// The homes, the highest score first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().copied().flatten()
    }

    /// Whether `node` is one of them.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.nodes.contains(&Some(*node))
    }
}

/// The homes that are asked for a tag, in one group, or in two around a switch of beacons; and the next in line, which is
/// a home by views that differ a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupHomes {
    current: Homes,
    next: Option<NodeId>,
    other: Option<Homes>,
}

impl LookupHomes {
    /// The homes by the current term and the next in line, and the homes by the other term around a switch.
    pub const fn new(current: Homes, next: Option<NodeId>, other: Option<Homes>) -> Self {
        Self { current, next, other }
    }

    /// The next in line.
    pub const fn next(&self) -> Option<NodeId> {
        self.next
    }

    /// Each group of homes that hold the same leases.
    pub fn groups(&self) -> impl Iterator<Item = &Homes> {
        [Some(&self.current), self.other.as_ref()].into_iter().flatten()
    }

    /// The homes without the next in line, each once.
    pub fn home_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.other.iter().flat_map(Homes::iter).filter(|home| !self.current.contains(home));
        self.current.iter().chain(others)
    }

    /// All that are asked, each once.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        let asked = |home: &NodeId| self.current.contains(home) || self.next == Some(*home);
        let others = self.other.iter().flat_map(Homes::iter).filter(move |home| !asked(home));
        self.current.iter().chain(self.next).chain(others)
    }
}

/// The members with the highest scores. No two are in one network where there are others.
fn first<const N: usize>(places: &[Candidate], tag: Tag) -> [Option<NodeId>; N] {
    let mut nodes = [None; N];
    let mut networks = [None; N];
    // A pass for each: no sort, no allocation.
    for i in 0..N {
        let fresh = |place: &&Candidate| !networks[..i].contains(&Some(place.network));
        let free = |place: &&Candidate| !nodes[..i].contains(&Some(place.node));
        let best = highest(places.iter().filter(fresh), tag).or_else(|| highest(places.iter().filter(free), tag));
        nodes[i] = best.map(Candidate::node);
        networks[i] = best.map(|place| place.network);
    }
    nodes
}

fn highest<'a>(places: impl Iterator<Item = &'a Candidate>, tag: Tag) -> Option<&'a Candidate> {
    places.max_by_key(|place| (place.score(tag), place.node))
}

fn hash64(context: &[u8], input: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::new_with_prefix(context).chain_update(input).finalize().into();
    u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn places(count: u32, network: impl Fn(u32) -> u32) -> Vec<Candidate> {
        let beacon = Beacon::genesis(FederationId::of_roots(&[]));
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
    fn a_tag_has_three_different_homes_or_as_many_as_there_are_members() {
        for count in 0..6 {
            let places = places(count, |i| i << 8);
            for tag in tags(50) {
                let homes: Vec<_> = Homes::of(&places, tag).iter().collect();
                let mut unique = homes.clone();
                unique.sort_unstable();
                unique.dedup();
                assert_eq!((homes.len(), unique.len()), (3.min(count as usize), 3.min(count as usize)));
            }
        }
    }

    #[test]
    fn homes_are_in_different_networks_where_there_are_others() {
        // Ten members in one network, two in others: both of the two are homes of every tag.
        let places = places(12, |i| i.saturating_sub(9) << 8);
        for tag in tags(100) {
            let homes = Homes::of(&places, tag);
            assert!(homes.contains(&places[10].node) && homes.contains(&places[11].node));
            assert_eq!(homes.iter().count(), 3);
        }
    }

    #[test]
    fn the_order_of_the_members_changes_nothing() {
        let forward = places(50, |i| i << 8);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        for tag in tags(100) {
            assert_eq!(Homes::of(&forward, tag), Homes::of(&backward, tag));
        }
    }

    #[test]
    fn load_is_spread_evenly_and_a_lost_member_moves_only_its_own() {
        let all = places(100, |i| i << 8);
        let without: Vec<_> = all[1..].to_vec();
        let mut load = vec![0_u32; 100];
        for tag in tags(20_000) {
            let homes = Homes::of(&all, tag);
            for (i, place) in all.iter().enumerate() {
                load[i] += u32::from(homes.contains(&place.node));
            }
            if !homes.contains(&all[0].node) {
                assert_eq!(homes, Homes::of(&without, tag));
            }
        }
        // The mean is 600 with a deviation of 24: five of them to either side.
        assert!(load.iter().all(|n| (480..720).contains(n)), "{load:?}");
    }
}
