//! Chooses the next candidate to dial: first a source, then a network, then a node, each at random by weight. Listing
//! many nodes, or praising them, gives a source no advantage. Pure.

use std::collections::{HashMap, HashSet};

use rand::{Rng, RngExt as _};

use crate::{
    network::Network,
    source::{Candidate, SourceKind},
};

/// The result of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Index of the chosen candidate.
    One(usize),
    /// There are candidates, but none may be dialled now.
    NoneEligible,
    /// There are no candidates.
    Empty,
}

/// The sources that have named candidates, and how often each was chosen.
#[derive(Clone, Debug, Default)]
pub struct CandidateSelector {
    chosen: HashMap<SourceKind, u32>,
    named: HashSet<SourceKind>,
    networks: HashSet<Network>,
    total: u32,
}

impl CandidateSelector {
    /// Records that a source has named a candidate.
    pub fn add_source(&mut self, source: SourceKind) {
        self.named.insert(source);
    }

    /// A source's maximal share of the choices, in sixtieths: an equal share, and at most a third. With two sources,
    /// the one of higher [`trust_rank`] gets two thirds. A single source gets everything.
    fn share(&self, source: SourceKind) -> u32 {
        let highest = self.named.iter().copied().max_by_key(|source| trust_rank(*source));
        match self.named.len() {
            0 | 1 => 60,
            2 if highest == Some(source) => 40,
            2 | 3 => 20,
            4 => 15,
            5 => 12,
            6 => 10,
            _ => 9,
        }
    }

    /// Chooses among the candidates whose index is `eligible`, and counts the choice.
    pub fn choose(&mut self, candidates: &[Candidate], eligible: impl Fn(usize) -> bool, rng: &mut impl Rng) -> Choice {
        if candidates.is_empty() {
            return Choice::Empty;
        }
        let mut sources: Vec<_> =
            (0..candidates.len()).filter(|at| eligible(*at)).map(|at| candidates[at].attributed_source()).collect();
        sources.sort_unstable();
        sources.dedup();
        // A source that has used up its share waits while another one has eligible candidates.
        let within = |source: &SourceKind| {
            let count = self.chosen.get(source).copied().unwrap_or(0);
            (count + 1) * 60 <= (self.share(*source) * (self.total + 1)).next_multiple_of(60)
        };
        let mut open: Vec<_> = sources.iter().copied().filter(within).collect();
        if open.is_empty() {
            open = sources;
        }
        let Some(source) = weighted(open.iter().map(|source| self.share(*source)), rng).map(|at| open[at]) else {
            return Choice::NoneEligible;
        };
        let of_source = |at: &usize| eligible(*at) && candidates[*at].attributed_source() == source;
        // Without TLS, everybody on the network path sees what the node sees. So candidates without TLS wait for those
        // with it, except for URLs that a person entered.
        let has_tls = |at: &usize| source == SourceKind::Manual || candidates[*at].has_tls();
        let any_has_tls = (0..candidates.len()).filter(of_source).any(|at| has_tls(&at));
        let mine: Vec<_> = (0..candidates.len())
            .filter(of_source)
            .filter(|at| !any_has_tls || has_tls(at))
            .map(|at| (at, candidates[at].network(), candidates[at].weight))
            .collect();
        // A network has the weight of its best node. Networks that were already dialled wait for the others.
        let mut networks: HashMap<&Network, u32> = HashMap::new();
        for (_, network, weight) in &mine {
            let known = networks.entry(network).or_default();
            *known = (*known).max(*weight);
        }
        let fresh = networks.keys().any(|network| !self.networks.contains(*network));
        let mut networks: Vec<_> =
            networks.into_iter().filter(|(network, _)| !fresh || !self.networks.contains(*network)).collect();
        // Sort, because the order of a hash map differs between runs.
        networks.sort_unstable();
        let Some(network) = weighted(networks.iter().map(|(_, weight)| *weight), rng).map(|at| networks[at].0.clone())
        else {
            return Choice::NoneEligible;
        };
        let there: Vec<_> = mine.iter().filter(|(_, other, _)| **other == network).collect();
        let Some(at) = weighted(there.iter().map(|(.., weight)| *weight), rng).map(|at| there[at].0) else {
            return Choice::NoneEligible;
        };
        self.networks.insert(network);
        *self.chosen.entry(source).or_default() += 1;
        self.total += 1;
        Choice::One(at)
    }
}

/// How far a source is to be trusted. Own experience and people rank above a list by a single operator. DNS ranks above
/// a registry: it gives everybody the same answer, while a registry can answer each client differently.
const fn trust_rank(source: SourceKind) -> u8 {
    match source {
        SourceKind::Registry => 0,
        SourceKind::Snapshot => 1,
        SourceKind::Dns => 2,
        SourceKind::Invite => 3,
        SourceKind::Referral => 4,
        SourceKind::Cache => 5,
        SourceKind::Manual => 6,
    }
}

/// A random index by weight, or `None` if all weights are 0.
fn weighted(weights: impl Iterator<Item = u32> + Clone, rng: &mut impl Rng) -> Option<usize> {
    let total: u32 = weights.clone().sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.random_range(0..total);
    for (index, weight) in weights.enumerate() {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return Some(index),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::source::{MAX_WEIGHT, UNKNOWN_WEIGHT};

    fn of(source: SourceKind, network: u8, host: u8) -> Candidate {
        Candidate::new(format!("ws://10.{network}.0.{host}:1"), None, source)
    }

    const SEEDS: usize = 100;

    /// How often each source is among the first `n` choices, over many seeds.
    fn choices(candidates: &[Candidate], n: usize) -> HashMap<SourceKind, usize> {
        let mut counts = HashMap::new();
        for seed in 0..SEEDS {
            let mut rng = StdRng::seed_from_u64(seed as u64);
            let (mut selector, mut left) = (CandidateSelector::default(), candidates.to_vec());
            left.iter().for_each(|candidate| selector.add_source(candidate.attributed_source()));
            for _ in 0..n {
                let Choice::One(at) = selector.choose(&left, |_| true, &mut rng) else { panic!("somebody") };
                *counts.entry(left.swap_remove(at).attributed_source()).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn nodes_without_tls_wait_for_those_with_it_unless_a_person_has_typed_them() {
        let candidate = |source, url: &str| Candidate::new(url, None, source);
        let listed = [
            candidate(SourceKind::Registry, "ws://20.1.0.1:1"),
            candidate(SourceKind::Registry, "wss://20.2.0.1:1"),
            candidate(SourceKind::Registry, "ws://20.3.0.1:1"),
        ];
        let typed = listed.clone().map(|one| candidate(SourceKind::Manual, &one.url));
        let first = |candidates: &[Candidate], seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut selector = CandidateSelector::default();
            selector.add_source(candidates[0].attributed_source());
            selector.choose(candidates, |_| true, &mut rng)
        };
        assert!((0..100).all(|seed| first(&listed, seed) == Choice::One(1)));
        assert!((0..100).any(|seed| first(&typed, seed) != Choice::One(1)));
        let plain = [listed[0].clone(), listed[2].clone()];
        assert!((0..100).all(|seed| matches!(first(&plain, seed), Choice::One(_))), "alone, they are dialled");
    }

    #[test]
    fn no_source_has_more_than_a_third_where_others_have_any() {
        let mut candidates: Vec<_> = (0..200).map(|n| of(SourceKind::Registry, n, n)).collect();
        candidates.extend((0..14).map(|n| of(SourceKind::Dns, 200 + n, n)));
        for n in [1, 3, 6, 12] {
            let counts = choices(&candidates, n);
            let registry = counts.get(&SourceKind::Registry).copied().unwrap_or(0);
            assert!(registry * 100 <= SEEDS * n * 38, "{registry} of {}", SEEDS * n);
        }
        candidates.extend((0..14).map(|n| of(SourceKind::Manual, 220 + n, n)));
        for n in [3, 6, 12] {
            assert!(choices(&candidates, n).into_values().all(|count| count * 100 <= SEEDS * n * 38), "{n}");
        }
    }

    #[test]
    fn a_source_that_is_alone_or_left_over_is_still_dialled() {
        let mut candidates: Vec<_> = (0..9).map(|n| of(SourceKind::Registry, n, n)).collect();
        assert_eq!(choices(&candidates, 9)[&SourceKind::Registry], SEEDS * 9);
        candidates.push(of(SourceKind::Dns, 100, 1));
        assert_eq!(choices(&candidates, 10)[&SourceKind::Registry], SEEDS * 9);
    }

    #[test]
    fn networks_come_before_nodes_and_each_network_once_before_any_twice() {
        let mut candidates: Vec<_> = (0..100).map(|n| of(SourceKind::Registry, 1, n)).collect();
        candidates.push(of(SourceKind::Registry, 2, 0));
        candidates.push(of(SourceKind::Registry, 3, 0));
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut selector, mut left) = (CandidateSelector::default(), candidates.clone());
            let mut networks = HashSet::new();
            for _ in 0..3 {
                let Choice::One(at) = selector.choose(&left, |_| true, &mut rng) else { panic!("somebody") };
                networks.insert(left.swap_remove(at).network().clone());
            }
            assert_eq!(networks.len(), 3);
        }
    }

    #[test]
    fn own_successes_weigh_and_do_not_decide() {
        let known = Candidate { weight: MAX_WEIGHT, ..of(SourceKind::Cache, 1, 1) };
        let unknown = Candidate { weight: UNKNOWN_WEIGHT, ..of(SourceKind::Cache, 2, 1) };
        let mut firsts = [0; 2];
        for seed in 0..1000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let chosen = CandidateSelector::default().choose(&[known.clone(), unknown.clone()], |_| true, &mut rng);
            let Choice::One(at) = chosen else { panic!("somebody") };
            firsts[at] += 1;
        }
        assert!((850..950).contains(&firsts[0]), "{firsts:?}");
    }

    #[test]
    fn no_candidate_and_no_permitted_dial_are_distinguished() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(CandidateSelector::default().choose(&[], |_| true, &mut rng), Choice::Empty);
        let one = [of(SourceKind::Dns, 1, 1)];
        assert_eq!(CandidateSelector::default().choose(&one, |_| false, &mut rng), Choice::NoneEligible);
    }
}
