//! A registry that lists a thousand nodes of its own: how often does a client begin with one of them? On virtual time,
//! with the race that clients run.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chappe_common::keys::{NodeId, PublicKey};
use chappe_discovery::{
    race::{Action, DialId, Race, confirm},
    source::{Candidate, SourceKind},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Nodes that the registry has made up, and the networks in which they stand.
const HOSTILE: u16 = 1000;
const HOSTILE_NETWORKS: u16 = 3;
/// Honest nodes, which DNS names.
const HONEST: u16 = 14;

/// What a client ended up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its first node is the registry's own.
    pub first: bool,
    /// So is the one that confirms it.
    pub both: bool,
}

/// What happens next.
enum Event {
    Listed(usize),
    Dialled(DialId, bool),
}

fn node(number: u16) -> NodeId {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&number.to_le_bytes());
    NodeId::new(PublicKey::from_bytes(key))
}

/// How far the hostile nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// As far as all others: three to five round trips of 100 ms until the proof.
    Same,
    /// Next to the client, whom they answer in half the time.
    Near,
}

/// A client that knows nobody: the registry answers, and three providers of DNS do, three round trips of 100 ms after they
/// were asked, or a little later. All hostile nodes are alive; of the honest ones, one in ten is gone.
pub fn choose(seed: u64, hostile_are: Distance) -> Choice {
    let mut rng = StdRng::seed_from_u64(seed);
    let hostile: Vec<_> = (0..HOSTILE)
        .map(|n| {
            let [high, low] = (n / HOSTILE_NETWORKS).to_be_bytes();
            let url = format!("wss://20.{}.{high}.{low}:443", n % HOSTILE_NETWORKS);
            Candidate::new(url, Some(node(n)), SourceKind::Registry)
        })
        .collect();
    let honest: Vec<_> = (0..HONEST)
        .map(|n| Candidate::new(format!("wss://80.{n}.0.1:443"), Some(node(HOSTILE + n)), SourceKind::Dns))
        .collect();
    let is_hostile = |candidate: &Candidate| candidate.source == SourceKind::Registry;
    let gone: HashSet<_> = honest.iter().filter(|_| rng.random_bool(0.1)).map(|honest| honest.url.clone()).collect();
    let kinds = [SourceKind::Cache, SourceKind::Registry, SourceKind::Dns, SourceKind::Dns, SourceKind::Dns];
    let mut race = Race::new(kinds, &[], false, StdRng::from_rng(&mut rng));
    let mut events: BTreeMap<(Duration, u64), Event> = BTreeMap::new();
    let (mut now, mut count) = (Duration::ZERO, 0);
    let mut all = Vec::new();
    loop {
        while let Some(action) = race.poll(now) {
            let ms = |from: u64, to: u64, rng: &mut StdRng| Duration::from_millis(rng.random_range(from..to));
            count += 1;
            match action {
                Action::List(0) => {
                    events.insert((now, count), Event::Listed(0));
                }
                Action::List(source) => {
                    events.insert((now + ms(300, 350, &mut rng), count), Event::Listed(source));
                }
                Action::Dial(id, candidate) => {
                    let alive = !gone.contains(&candidate.url);
                    let near = hostile_are == Distance::Near && is_hostile(&candidate);
                    let took = ms(300, 500, &mut rng) / if near { 2 } else { 1 };
                    events.insert((now + took, count), Event::Dialled(id, alive));
                }
                Action::Abandon(_) => {}
                Action::Done => return judge(&race, &all, &mut rng, is_hostile),
            }
        }
        let next = events.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = next.into_iter().chain(race.next_timeout(now)).min() else {
            return Choice { first: false, both: false };
        };
        now = at;
        while let Some(entry) = events.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Event::Listed(0) => race.unlisted(0, now),
                Event::Listed(source) => {
                    let named = if source == 1 { &hostile } else { &honest };
                    all.extend(named.iter().cloned());
                    race.listed(source, named.iter().cloned(), now);
                }
                Event::Dialled(id, true) => race.proved(id),
                Event::Dialled(id, false) => race.failed(id),
            }
        }
    }
}

fn judge(race: &Race, all: &[Candidate], rng: &mut StdRng, is_hostile: impl Fn(&Candidate) -> bool) -> Choice {
    let Some(winner) = race.winner() else { return Choice { first: false, both: false } };
    let first = is_hostile(winner);
    let seconds = winner.node.map(|node| confirm::seconds(winner, node, all.iter().cloned(), race.named(), rng));
    let both = first && seconds.into_iter().flatten().next().is_some_and(|second| is_hostile(&second));
    Choice { first, both }
}
