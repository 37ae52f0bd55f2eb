//! The view: an immutable snapshot of the live members for the rest of the node.

use chappe_common::{keys::NodeId, record::NodeRecord};

use crate::placement::{Candidate, Election, Homes, LookupHomes, Network, Placement, Tag};

/// With fewer eligible members than this, all members may be homes, so that a young federation works too.
const MIN_ELIGIBLE: usize = crate::placement::HOMES;

/// The live members, including this node. Cheap to read from any task.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Sorted by node, each with its epoch.
    members: Vec<(NodeId, u64)>,
    /// The members that may be homes by the current term.
    candidates: Vec<Candidate>,
    /// The members that may be homes by the other term, around a switch.
    other_candidates: Option<Vec<Candidate>>,
}

/// A live member.
#[derive(Clone, Copy)]
struct Member {
    node: NodeId,
    epoch: u64,
    network: Network,
    /// Whether it is past probation.
    is_mature: bool,
}

impl View {
    /// Creates a view of the nodes of these records, each with whether it is past probation.
    pub fn new<'a>(placement: &Placement, records: impl Iterator<Item = (&'a NodeRecord, bool)>) -> Self {
        let mut members: Vec<_> = records
            .filter_map(|(record, is_mature)| {
                let network = Network::of(record.quic_addrs.first()?);
                Some(Member { node: record.node, epoch: record.epoch, network, is_mature })
            })
            .collect();
        members.sort_unstable_by_key(|member| member.node);
        members.dedup_by_key(|member| member.node);
        Self {
            candidates: candidates(placement.current(), &members),
            other_candidates: placement.other().map(|election| candidates(election, &members)),
            members: members.iter().map(|member| (member.node, member.epoch)).collect(),
        }
    }

    /// Returns the number of members. A node's own view includes itself.
    #[expect(clippy::len_without_is_empty, reason = "no view is empty")]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether `node` is a live member.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.find(node).is_some()
    }

    /// Returns the epoch of a live member.
    pub fn epoch(&self, node: &NodeId) -> Option<u64> {
        Some(self.members[self.find(node)?].1)
    }

    /// Returns the homes with which a tag is registered.
    pub fn homes(&self, tag: Tag) -> Homes {
        Homes::of(&self.candidates, tag)
    }

    /// Returns the homes to ask for a tag, and the next candidate. Around a switch, they include the homes of both
    /// terms, since other nodes may use either.
    pub fn lookup_homes(&self, tag: Tag) -> LookupHomes {
        let other = self.other_candidates.as_ref().map(|candidates| Homes::of(candidates, tag));
        let (current, next) = Homes::with_next(&self.candidates, tag);
        LookupHomes::new(current, next, other)
    }

    /// Returns whether every tag has the same homes as in `other`, with the same epochs.
    pub fn has_homes_of(&self, other: &Self) -> bool {
        self.candidates == other.candidates
            && self.candidates.iter().all(|candidate| self.epoch(&candidate.node()) == other.epoch(&candidate.node()))
    }

    /// Returns the members, sorted by node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|(node, _)| *node)
    }

    fn find(&self, node: &NodeId) -> Option<usize> {
        self.members.binary_search_by_key(node, |(node, _)| *node).ok()
    }
}

/// Returns the members that may be homes.
fn candidates(election: &Election, members: &[Member]) -> Vec<Candidate> {
    let is_eligible = |member: &&Member| election.names(&member.node).unwrap_or(member.is_mature);
    let has_enough = members.iter().filter(is_eligible).count() >= MIN_ELIGIBLE;
    let chosen = members.iter().filter(|member| !has_enough || is_eligible(member));
    chosen.map(|member| Candidate::new(election.beacon(), member.node, member.network)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use chappe_common::{
        federation::FederationId,
        keys::PublicKey,
        lease::Inbox,
        record::{Abilities, NodeRecord},
        time::UnixTime,
    };

    use super::*;
    use crate::placement::BeaconValue;

    fn node(n: u32) -> NodeId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::new(PublicKey::from_bytes(key))
    }

    fn record(n: u32) -> NodeRecord {
        let [_, a, b, c] = n.to_be_bytes();
        NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: node(n),
            epoch: u64::from(n),
            seq: 1,
            issued_at: UnixTime::from_secs(0),
            expires_at: UnixTime::from_secs(0),
            client_urls: Vec::new(),
            quic_addrs: vec![SocketAddr::from(([a, b, c, 1], 1))],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        }
    }

    fn view(placement: &Placement, nodes: &[(u32, bool)]) -> View {
        let records: Vec<_> = nodes.iter().map(|(n, is_mature)| (record(*n), *is_mature)).collect();
        View::new(placement, records.iter().map(|(record, is_mature)| (record, *is_mature)))
    }

    fn tags(count: u32) -> impl Iterator<Item = Tag> {
        (0..count).map(|n| Tag::of_inbox(&Inbox::new(*node(n).key())))
    }

    fn genesis() -> Election {
        Election::new(BeaconValue::genesis(FederationId::of_roots(&[])), None)
    }

    fn election(value: u8, eligible: impl Iterator<Item = u32>) -> Election {
        Election::new(BeaconValue::new([value; 32]), Some(eligible.map(node).collect()))
    }

    /// Returns all homes of many tags.
    fn homes_in_use(view: &View) -> Vec<NodeId> {
        let mut homes: Vec<_> = tags(500).flat_map(|tag| view.homes(tag).iter().collect::<Vec<_>>()).collect();
        homes.sort_unstable();
        homes.dedup();
        homes
    }

    #[test]
    fn members_on_probation_are_homes_only_if_fewer_than_three_are_past_it() {
        let placement = Placement::new(genesis(), None);
        let mixed = view(&placement, &[(1, true), (2, false), (3, true), (4, true), (5, false)]);
        assert_eq!(homes_in_use(&mixed), [node(1), node(3), node(4)]);
        assert_eq!(mixed.len(), 5);
        assert!(mixed.contains(&node(2)) && mixed.epoch(&node(5)) == Some(5) && mixed.nodes().count() == 5);
        let young = view(&placement, &[(1, true), (2, false), (3, true), (4, false)]);
        assert_eq!(homes_in_use(&young).len(), 4);
    }

    #[test]
    fn a_member_that_is_no_home_does_not_change_the_homes_and_a_restarted_home_does() {
        let placement = Placement::new(genesis(), None);
        let homes = [(1, true), (3, true), (4, true)];
        let with = |more: &[(u32, bool)]| view(&placement, &[&homes[..], more].concat());
        assert!(with(&[]).has_homes_of(&with(&[(2, false)])));
        assert!(!with(&[]).has_homes_of(&with(&[(2, true)])) && !with(&[(2, true)]).has_homes_of(&with(&[])));
        let mut again = record(3);
        again.epoch += 1;
        let records = [record(1), again, record(4)];
        let again = View::new(&placement, records.iter().map(|record| (record, true)));
        assert!(!again.has_homes_of(&with(&[])));
    }

    #[test]
    fn a_key_that_was_made_after_a_beacon_is_no_home_under_it() {
        let tag = tags(1).next().expect("a tag");
        let placement = Placement::new(election(7, 1..=20), None);
        let before: Vec<(u32, bool)> = (1..=20).map(|n| (n, false)).collect();
        let homes = view(&placement, &before).homes(tag);
        // An attacker who knows the beacon generates keys until one has the highest score, which takes seconds.
        let forged = (1000..).find(|n| {
            let candidate =
                |n: u32| Candidate::new(&BeaconValue::new([7; 32]), node(n), Network::of(&record(n).quic_addrs[0]));
            let candidates: Vec<_> = (1..=20).chain([*n]).map(candidate).collect();
            Homes::of(&candidates, tag).contains(&node(*n))
        });
        let forged = forged.expect("a key that lands on the tag");
        let after: Vec<_> = before.into_iter().chain([(forged, true)]).collect();
        let after = view(&placement, &after);
        assert!(after.contains(&node(forged)));
        assert_eq!(after.homes(tag), homes, "the new key is not listed, whatever it scores");
    }

    #[test]
    fn every_member_may_be_a_home_if_fewer_than_three_listed_nodes_are_up() {
        let placement = Placement::new(election(7, 1..=3), None);
        assert_eq!(homes_in_use(&view(&placement, &[(1, false), (2, false), (3, false), (4, true)])).len(), 3);
        assert_eq!(homes_in_use(&view(&placement, &[(1, false), (2, false), (4, true), (5, true)])).len(), 4);
    }

    #[test]
    fn around_a_switch_lookups_ask_the_homes_of_both_terms() {
        let all: Vec<_> = (1..=40).map(|n| (n, true)).collect();
        let (old, new) = (election(1, 1..=40), election(2, 1..=40));
        let before = view(&Placement::new(old.clone(), Some(new.clone())), &all);
        let after = view(&Placement::new(new, Some(old)), &all);
        for tag in tags(100) {
            let homes: Vec<_> = before.homes(tag).iter().chain(after.homes(tag).iter()).collect();
            for view in [&before, &after] {
                let asked: Vec<_> = view.lookup_homes(tag).iter().collect();
                assert!(homes.iter().all(|home| asked.contains(home)), "both sides ask the homes of both terms");
            }
        }
        let quiet = view(&Placement::new(genesis(), None), &all);
        assert!(tags(100).all(|tag| quiet.lookup_homes(tag).iter().take(3).eq(quiet.homes(tag).iter())));
    }

    #[test]
    fn a_lookup_also_asks_the_node_that_replaces_a_missing_home_in_another_view() {
        let all: Vec<_> = (1..=40).map(|n| (n, true)).collect();
        let placement = Placement::new(genesis(), None);
        let whole = view(&placement, &all);
        for tag in tags(100) {
            let missing = whole.homes(tag).iter().next().expect("a home");
            let lacking: Vec<_> = all.iter().copied().filter(|(n, _)| node(*n) != missing).collect();
            let lacking = view(&placement, &lacking);
            let asked: Vec<_> = whole.lookup_homes(tag).iter().collect();
            assert_eq!(asked.len(), 4);
            assert!(lacking.homes(tag).iter().all(|home| asked.contains(&home)));
        }
    }

    #[test]
    fn no_home_carries_more_than_a_tenth_over_the_mean() {
        // A million leases over 1,000 members give 3,000 each with a deviation of 55; here it is 3,000 leases too.
        let members: Vec<_> = (1..=20).map(|n| (n, true)).collect();
        let view = view(&Placement::new(election(9, 1..=20), None), &members);
        let mut load = std::collections::HashMap::new();
        for tag in tags(20_000) {
            for home in view.homes(tag).iter() {
                *load.entry(home).or_insert(0_u32) += 1;
            }
        }
        assert_eq!(load.len(), 20);
        assert!(load.values().all(|load| (2_700..=3_300).contains(load)), "{load:?}");
    }
}
