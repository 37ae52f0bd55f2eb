//! Confirming a choice: a second node, named by another source and in another network, proves its key, and what the two
//! sources say is compared. Pure.
//!
//! Lists are samples: a registry names eight nodes of hundreds, DNS others. So that a source does not name a node says
//! little. But two lists of one federation that have *no* node in common are more than chance, and two that one key signed
//! under one number and that differ are proof. Both are told, and nothing is decided by them: who to believe is a
//! person's business.

use std::{collections::HashMap, time::Duration};

use chappe_common::keys::NodeId;
use rand::{Rng, seq::SliceRandom as _};

use crate::{
    cache::Equivocation,
    source::{Candidate, Origins, SourceKind},
};

/// How long after the search began the choice is confirmed, or it is told that it isn't.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How many nodes are dialled for it: one of six is alive.
pub const MAX_SECONDS: usize = 6;

/// Who has named a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// In this search.
    pub now: Origins,
    /// Ever, as far as is remembered.
    pub ever: Origins,
}

/// All who have named whom.
pub type Named = HashMap<NodeId, Word>;

/// The node that was chosen, or the second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The node.
    pub node: NodeId,
    /// The source that named it: where the cache did, the one that the cache has it from.
    pub via: SourceKind,
}

/// What came of confirming a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// A second node, of another source and another network, has proved its key, and nothing contradicts.
    Confirmed {
        /// The second node.
        second: Proven,
        /// Whether another source names the first one, too. Where not: lists are samples, and a node in reserve is in none.
        vouched: bool,
    },
    /// What two sources say doesn't fit together.
    Disagreement {
        /// The second node, where one was reached.
        second: Option<Proven>,
        /// What doesn't fit.
        what: Disagreement,
    },
    /// There is no second opinion.
    Unconfirmed(Unconfirmed),
}

/// What two sources contradict each other in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The lists of these two sources have no node in common: one of them may show a federation that isn't there.
    Strangers(SourceKind, SourceKind),
    /// A key has signed two lists under one number. The proofs are kept beside the cache.
    Equivocation(Vec<Equivocation>),
}

/// Why there is no second opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconfirmed {
    /// No other source names a node in another network.
    NoOther,
    /// Others are named, and none of those that were dialled answered.
    NoAnswer,
}

/// The source on whose word a candidate was dialled.
pub fn via(candidate: &Candidate) -> SourceKind {
    if candidate.source == SourceKind::Cache {
        candidate.origins.iter().next().unwrap_or(SourceKind::Cache)
    } else {
        candidate.source
    }
}

/// Those that may confirm `first`, in the order in which to dial them: another node, in another network, named by another
/// source than the one that `first` rests on.
pub fn seconds(
    first: &Candidate,
    first_node: NodeId,
    all: impl IntoIterator<Item = Candidate>,
    named: &Named,
    rng: &mut impl Rng,
) -> Vec<Candidate> {
    let (network, first_via) = (first.network(), via(first));
    let independent = |candidate: &Candidate| {
        let Some(node) = candidate.node else { return false };
        let origins = named.get(&node).copied().unwrap_or_default().ever.union(candidate.origins);
        node != first_node && candidate.network() != network && origins.iter().any(|origin| origin != first_via)
    };
    let mut seconds: Vec<_> = all.into_iter().filter(independent).collect();
    seconds.shuffle(rng);
    // Those last that a registry alone names: it answers each as it likes, and what a contact or the cache named first
    // may be its own, too. Then one node of each network before a second of any, so that a source with many in one place
    // isn't asked twice.
    let mut networks = Vec::new();
    seconds.sort_by_cached_key(|candidate| {
        let network = candidate.network().clone();
        let again = networks.contains(&network);
        networks.push(network);
        let word = candidate.node.and_then(|node| named.get(&node)).copied().unwrap_or_default();
        let by_registry_alone = word.ever.union(candidate.origins).iter().all(|origin| origin == SourceKind::Registry);
        (by_registry_alone, again)
    });
    seconds.truncate(MAX_SECONDS);
    seconds
}

/// What `second` says of `first`. `named`: who has named whom in this search.
pub fn judge(
    first: Proven,
    second: Option<Proven>,
    dialled: usize,
    named: &Named,
    equivocations: Vec<Equivocation>,
) -> Confirmation {
    if !equivocations.is_empty() {
        return Confirmation::Disagreement { second, what: Disagreement::Equivocation(equivocations) };
    }
    if let Some((a, b)) = strangers(named) {
        return Confirmation::Disagreement { second, what: Disagreement::Strangers(a, b) };
    }
    let Some(second) = second else {
        return Confirmation::Unconfirmed(if dialled == 0 { Unconfirmed::NoOther } else { Unconfirmed::NoAnswer });
    };
    let vouched = named.get(&first.node).is_some_and(|word| word.ever.iter().any(|origin| origin != first.via));
    Confirmation::Confirmed { second, vouched }
}

/// Two lists of which each has several nodes, and none that the other has.
fn strangers(named: &Named) -> Option<(SourceKind, SourceKind)> {
    /// Fewer than this may differ by chance: a young federation, a reserve.
    const SEVERAL: usize = 3;
    let (a, b) = (SourceKind::Registry, SourceKind::Dns);
    let count = |of: &dyn Fn(&Origins) -> bool| named.values().filter(|word| of(&word.now)).count();
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

    fn names(all: &[Candidate]) -> Named {
        let mut named = Named::new();
        for candidate in all {
            let word = named.entry(candidate.node.expect("pinned")).or_default();
            word.now = word.now.with(candidate.source);
            word.ever = word.ever.union(candidate.origins);
        }
        named
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
            of(SourceKind::Link, 4, 1),
            cached(SourceKind::Registry, 5, 5),
            cached(SourceKind::Link, 6, 6),
        ];
        let mut rng = StdRng::seed_from_u64(1);
        let seconds = seconds(&first, node(1), all.clone(), &names(&all), &mut rng);
        let mut nodes: Vec<_> = seconds.iter().filter_map(|candidate| candidate.node).collect();
        nodes.sort_unstable();
        let mut expected = [node(4), node(6)];
        expected.sort_unstable();
        assert_eq!(nodes, expected, "what the cache has from the same source is that source's word");
    }

    #[test]
    fn a_second_proof_confirms_and_says_whether_another_source_names_the_first() {
        let all = [of(SourceKind::Registry, 1, 1), of(SourceKind::Dns, 2, 2)];
        let first = Proven { node: node(1), via: SourceKind::Registry };
        let second = Proven { node: node(2), via: SourceKind::Dns };
        let confirmed = |vouched| Confirmation::Confirmed { second, vouched };
        assert_eq!(judge(first, Some(second), 1, &names(&all), Vec::new()), confirmed(false));
        let vouched = [all.as_slice(), &[of(SourceKind::Dns, 1, 1)]].concat();
        assert_eq!(judge(first, Some(second), 1, &names(&vouched), Vec::new()), confirmed(true));
        let unconfirmed = |dialled| judge(first, None, dialled, &names(&all), Vec::new());
        assert_eq!(unconfirmed(0), Confirmation::Unconfirmed(Unconfirmed::NoOther));
        assert_eq!(unconfirmed(3), Confirmation::Unconfirmed(Unconfirmed::NoAnswer));
    }

    #[test]
    fn lists_without_a_common_node_are_told() {
        let first = Proven { node: node(1), via: SourceKind::Registry };
        let second = Proven { node: node(11), via: SourceKind::Dns };
        let mut all: Vec<_> = (1..4).map(|n| of(SourceKind::Registry, n, n)).collect();
        all.extend((11..14).map(|n| of(SourceKind::Dns, n, n)));
        let judged = |all: &[Candidate]| judge(first, Some(second), 1, &names(all), Vec::new());
        let what = Disagreement::Strangers(SourceKind::Registry, SourceKind::Dns);
        assert_eq!(judged(&all), Confirmation::Disagreement { second: Some(second), what });
        assert!(matches!(judged(&all[..5]), Confirmation::Confirmed { .. }), "two nodes are no list to compare");
        all.push(of(SourceKind::Dns, 3, 3));
        assert!(matches!(judged(&all), Confirmation::Confirmed { .. }), "samples of one federation overlap somewhere");
    }
}
