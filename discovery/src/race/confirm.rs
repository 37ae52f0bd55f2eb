//! Confirmation of a search's result. A second node, of another source and in another network, must prove its key, and
//! the sources' lists are compared. Pure.
//!
//! Lists are samples: a registry lists eight nodes out of hundreds, DNS others. So it means little that a source does
//! not list a node. But two long lists of one federation without any common node are suspicious. Two different lists
//! that one key signed with the same number are proof of misbehaviour. Both are only reported: which source to trust is
//! for people to decide.

use std::{collections::HashMap, time::Duration};

use chappe_common::keys::NodeId;
use rand::{Rng, seq::SliceRandom as _};

use crate::{
    cache::Equivocation,
    source::{Candidate, Origins, SourceKind},
};

/// How long after the start of a search the confirmation is given up.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximal number of nodes dialled for confirmation: one of six is alive.
pub const MAX_CONFIRMING_DIALS: usize = 6;

/// The sources that have named a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endorsement {
    /// In this search.
    pub now: Origins,
    /// In any search, as far as the cache knows.
    pub ever: Origins,
}

/// The sources that have named each node.
pub type Endorsements = HashMap<NodeId, Endorsement>;

/// A node that has proved its key, and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The node.
    pub node: NodeId,
    /// The source that named it. For a cached node, it is the source that the cache learned it from.
    pub via: SourceKind,
}

/// The result of a confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// A second node, of another source and network, has proved its key, and the lists do not contradict each other.
    Confirmed {
        /// The second node.
        second: Proven,
        /// Whether another source names the first node as well. Often none does: lists are samples, and reserve nodes
        /// are in none.
        vouched: bool,
    },
    /// The lists of two sources contradict each other.
    Disagreement {
        /// The second node, if one was reached.
        second: Option<Proven>,
        /// The contradiction.
        what: Disagreement,
    },
    /// No second node has confirmed the choice.
    Unconfirmed(Unconfirmed),
}

/// How the lists of two sources contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The lists of these two sources have no common node: one of them may show a fake federation.
    DisjointLists(SourceKind, SourceKind),
    /// A key has signed two lists with the same number. The proofs are stored beside the cache.
    Equivocation(Vec<Equivocation>),
}

/// Why no second node has confirmed the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconfirmed {
    /// No other source names a node in another network.
    NoOther,
    /// Such nodes were dialled, and none has proved its key.
    NoAnswer,
}

/// The source that a candidate depends on.
pub fn source_of(candidate: &Candidate) -> SourceKind {
    if candidate.source == SourceKind::Cache {
        candidate.origins.iter().next().unwrap_or(SourceKind::Cache)
    } else {
        candidate.source
    }
}

/// The candidates that may confirm `first`, in the order in which to dial them. Each is another node, in another
/// network, that a source other than that of `first` names.
pub fn confirming_candidates(
    first: &Candidate,
    first_node: NodeId,
    all: impl IntoIterator<Item = Candidate>,
    endorsements: &Endorsements,
    rng: &mut impl Rng,
) -> Vec<Candidate> {
    let (network, first_via) = (first.network(), source_of(first));
    let independent = |candidate: &Candidate| {
        let Some(node) = candidate.node else { return false };
        let origins = endorsements.get(&node).copied().unwrap_or_default().ever.union(candidate.origins);
        node != first_node && candidate.network() != network && origins.iter().any(|origin| origin != first_via)
    };
    let mut seconds: Vec<_> = all.into_iter().filter(independent).collect();
    seconds.shuffle(rng);
    // Nodes that only a registry names come last. A registry can answer each client differently, and may also be behind
    // what the cache or a contact named first. Before that, take one node of each network before a second of any.
    let mut networks = Vec::new();
    seconds.sort_by_cached_key(|candidate| {
        let network = candidate.network().clone();
        let again = networks.contains(&network);
        networks.push(network);
        let endorsement = candidate.node.and_then(|node| endorsements.get(&node)).copied().unwrap_or_default();
        let by_registry_alone =
            endorsement.ever.union(candidate.origins).iter().all(|origin| origin == SourceKind::Registry);
        (by_registry_alone, again)
    });
    seconds.truncate(MAX_CONFIRMING_DIALS);
    seconds
}

/// Evaluates the confirmation of `first`, after `dialled` dials.
pub fn evaluate(
    first: Proven,
    second: Option<Proven>,
    dialled: usize,
    endorsements: &Endorsements,
    equivocations: Vec<Equivocation>,
) -> Confirmation {
    if !equivocations.is_empty() {
        return Confirmation::Disagreement { second, what: Disagreement::Equivocation(equivocations) };
    }
    if let Some((a, b)) = disjoint_lists(endorsements) {
        return Confirmation::Disagreement { second, what: Disagreement::DisjointLists(a, b) };
    }
    let Some(second) = second else {
        return Confirmation::Unconfirmed(if dialled == 0 { Unconfirmed::NoOther } else { Unconfirmed::NoAnswer });
    };
    let vouched = endorsements
        .get(&first.node)
        .is_some_and(|endorsement| endorsement.ever.iter().any(|origin| origin != first.via));
    Confirmation::Confirmed { second, vouched }
}

/// The two bulk sources, if each lists several nodes and they have none in common.
fn disjoint_lists(endorsements: &Endorsements) -> Option<(SourceKind, SourceKind)> {
    /// Shorter lists may be disjoint by chance: in a young federation, or with reserve nodes.
    const SEVERAL: usize = 3;
    let (a, b) = (SourceKind::Registry, SourceKind::Dns);
    let count =
        |of: &dyn Fn(&Origins) -> bool| endorsements.values().filter(|endorsement| of(&endorsement.now)).count();
    let both = count(&|origins| origins.contains(a) && origins.contains(b));
    let (of_a, of_b) = (count(&|origins| origins.contains(a)), count(&|origins| origins.contains(b)));
    (both == 0 && of_a >= SEVERAL && of_b >= SEVERAL).then_some((a, b))
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn node(n: u8) -> NodeId {
        SecretKey::from_bytes(&[n; 32]).node_id()
    }

    fn of(source: SourceKind, network: u8, n: u8) -> Candidate {
        Candidate::new(format!("ws://10.{network}.0.{n}:1"), Some(node(n)), source)
    }

    fn names(all: &[Candidate]) -> Endorsements {
        let mut endorsements = Endorsements::new();
        for candidate in all {
            let endorsement = endorsements.entry(candidate.node.expect("pinned")).or_default();
            endorsement.now = endorsement.now.with(candidate.source);
            endorsement.ever = endorsement.ever.union(candidate.origins);
        }
        endorsements
    }

    #[test]
    fn a_second_node_is_of_another_source_and_another_network() {
        let first = of(SourceKind::Registry, 1, 1);
        let cached = |origin, network, n| Candidate { source: SourceKind::Cache, ..of(origin, network, n) };
        let all = [
            first.clone(),
            of(SourceKind::Registry, 2, 2),
            of(SourceKind::Dns, 1, 3),
            of(SourceKind::Dns, 3, 4),
            of(SourceKind::Invite, 4, 1),
            cached(SourceKind::Registry, 5, 5),
            cached(SourceKind::Invite, 6, 6),
        ];
        let mut rng = StdRng::seed_from_u64(1);
        let seconds = confirming_candidates(&first, node(1), all.clone(), &names(&all), &mut rng);
        let mut nodes: Vec<_> = seconds.iter().filter_map(|candidate| candidate.node).collect();
        nodes.sort_unstable();
        let mut expected = [node(4), node(6)];
        expected.sort_unstable();
        assert_eq!(nodes, expected, "what the cache has from the same source is that source's endorsement");
    }

    #[test]
    fn a_second_proof_confirms_and_says_whether_another_source_names_the_first() {
        let all = [of(SourceKind::Registry, 1, 1), of(SourceKind::Dns, 2, 2)];
        let first = Proven { node: node(1), via: SourceKind::Registry };
        let second = Proven { node: node(2), via: SourceKind::Dns };
        let confirmed = |vouched| Confirmation::Confirmed { second, vouched };
        assert_eq!(evaluate(first, Some(second), 1, &names(&all), Vec::new()), confirmed(false));
        let vouched = [all.as_slice(), &[of(SourceKind::Dns, 1, 1)]].concat();
        assert_eq!(evaluate(first, Some(second), 1, &names(&vouched), Vec::new()), confirmed(true));
        let unconfirmed = |dialled| evaluate(first, None, dialled, &names(&all), Vec::new());
        assert_eq!(unconfirmed(0), Confirmation::Unconfirmed(Unconfirmed::NoOther));
        assert_eq!(unconfirmed(3), Confirmation::Unconfirmed(Unconfirmed::NoAnswer));
    }

    #[test]
    fn directories_without_a_common_node_are_reported() {
        let first = Proven { node: node(1), via: SourceKind::Registry };
        let second = Proven { node: node(11), via: SourceKind::Dns };
        let mut all: Vec<_> = (1..4).map(|n| of(SourceKind::Registry, n, n)).collect();
        all.extend((11..14).map(|n| of(SourceKind::Dns, n, n)));
        let evaluated = |all: &[Candidate]| evaluate(first, Some(second), 1, &names(all), Vec::new());
        let what = Disagreement::DisjointLists(SourceKind::Registry, SourceKind::Dns);
        assert_eq!(evaluated(&all), Confirmation::Disagreement { second: Some(second), what });
        assert!(matches!(evaluated(&all[..5]), Confirmation::Confirmed { .. }), "two nodes are no list to compare");
        all.push(of(SourceKind::Dns, 3, 3));
        assert!(
            matches!(evaluated(&all), Confirmation::Confirmed { .. }),
            "samples of one federation overlap somewhere"
        );
    }
}
