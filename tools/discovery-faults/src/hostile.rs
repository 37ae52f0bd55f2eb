//! A registry that lists a thousand nodes of its own: how often does a client begin with one of them? On virtual time,
//! with the race that clients run.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, PublicKey},
    time::UnixTime,
};
use chappe_discovery::{
    cache::Cache,
    race::{Action, DialId, Race, confirm},
    source::{Candidate, ListForm, SignedList, Source as _, SourceKind, SourceResponse},
};
use futures_util::FutureExt as _;
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

/// A client that knows nobody: the registry answers, and three providers of DNS do, three round trips of 100 ms after
/// they were asked, or a little later. All hostile nodes are alive; of the honest ones, one in ten is gone.
pub fn choose(seed: u64, hostile_are: Distance) -> Choice {
    let world = World::new(seed, hostile_are);
    world.search(seed, Vec::new(), Vec::new()).0
}

/// The same client's second search, when it has remembered the lists and its first node, and a contact has passed on
/// its own: which the contact has found in the same way.
pub fn choose_again(seed: u64, hostile_are: Distance) -> Choice {
    let world = World::new(seed, hostile_are);
    let winner = |seed| world.search(seed, Vec::new(), Vec::new()).1;
    let (own, contacts) = (winner(seed), winner(seed ^ 0xffff_0000));
    let cache = Cache::in_memory([]);
    let now = UnixTime::from_secs(1_800_000_000);
    let list = |form, key, candidates: &Vec<Candidate>| SignedList {
        form,
        key: PublicKey::from_bytes([key; 32]),
        seq: 1,
        part: (0, 1),
        issued_at: now,
        bytes: Bytes::new(),
        candidates: candidates.clone(),
        records: Vec::new(),
    };
    let lists = vec![list(ListForm::Directory, 1, &world.hostile), list(ListForm::Shard, 2, &world.honest)];
    // Without a file there is nothing to wait for.
    let _ = cache.learn(SourceResponse { lists, ..SourceResponse::default() }, now).now_or_never();
    if let Some((node, own)) = own.as_ref().and_then(|own| Some((own.node?, own))) {
        cache.record_proof(node, own, now);
    }
    let cached = cache.list(now).now_or_never().and_then(Result::ok).unwrap_or_default().candidates;
    let referred = contacts.map(|contacts| Candidate::new(contacts.url, contacts.node, SourceKind::Referral));
    world.search(seed, cached, referred.into_iter().collect()).0
}

/// Who lists whom, and who is gone.
struct World {
    hostile: Vec<Candidate>,
    honest: Vec<Candidate>,
    gone: HashSet<String>,
    hostile_are: Distance,
}

impl World {
    fn new(seed: u64, hostile_are: Distance) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let hostile = (0..HOSTILE).map(|n| {
            let [high, low] = (n / HOSTILE_NETWORKS).to_be_bytes();
            let url = format!("wss://20.{}.{high}.{low}:443", n % HOSTILE_NETWORKS);
            Candidate::new(url, Some(node(n)), SourceKind::Registry)
        });
        let honest = (0..HONEST)
            .map(|n| Candidate::new(format!("wss://80.{n}.0.1:443"), Some(node(HOSTILE + n)), SourceKind::Dns));
        let honest: Vec<_> = honest.collect();
        let gone = honest.iter().filter(|_| rng.random_bool(0.1)).map(|honest| honest.url.clone()).collect();
        Self { hostile: hostile.collect(), honest, gone, hostile_are }
    }

    fn is_hostile(candidate: &Candidate) -> bool {
        candidate.url.starts_with("wss://20.")
    }

    /// One search: what became of it, and its first node.
    fn search(&self, seed: u64, cached: Vec<Candidate>, referred: Vec<Candidate>) -> (Choice, Option<Candidate>) {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(1));
        let ms = |from: u64, to: u64, rng: &mut StdRng| Duration::from_millis(rng.random_range(from..to));
        let warm = !cached.is_empty();
        let dns = (SourceKind::Dns, &self.honest);
        let sources =
            [(SourceKind::Cache, &cached), (SourceKind::Referral, &referred), (SourceKind::Registry, &self.hostile)];
        let sources: Vec<_> = sources.into_iter().chain([dns; 3]).collect();
        let kinds = sources.iter().map(|(kind, _)| *kind);
        let mut race = Race::new(kinds, &[], warm, StdRng::from_rng(&mut rng));
        let mut events: BTreeMap<(Duration, u64), Event> = BTreeMap::new();
        let (mut now, mut count) = (Duration::ZERO, 0);
        let mut all: Vec<Candidate> = Vec::new();
        loop {
            while let Some(action) = race.poll_action(now) {
                count += 1;
                match action {
                    Action::Query(source) => {
                        let near = matches!(sources[source].0, SourceKind::Cache | SourceKind::Referral);
                        let took = if near { Duration::ZERO } else { ms(300, 350, &mut rng) };
                        events.insert((now + took, count), Event::Listed(source));
                    }
                    Action::Dial(id, candidate) => {
                        let alive = !self.gone.contains(&candidate.url);
                        let near = self.hostile_are == Distance::Near && Self::is_hostile(&candidate);
                        let took = ms(300, 500, &mut rng) / if near { 2 } else { 1 };
                        events.insert((now + took, count), Event::Dialled(id, alive));
                    }
                    Action::Abandon(_) => {}
                    Action::Done => return Self::judge(&race, &all, &mut rng),
                }
            }
            let next = events.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = next.into_iter().chain(race.poll_timeout(now)).min() else {
                return Self::judge(&race, &all, &mut rng);
            };
            now = at;
            while let Some(entry) = events.first_entry().filter(|entry| entry.key().0 <= now) {
                match entry.remove() {
                    Event::Listed(source) if sources[source].1.is_empty() => race.handle_source_failed(source, now),
                    Event::Listed(source) => {
                        all.extend(sources[source].1.iter().cloned());
                        race.handle_candidates(source, sources[source].1.iter().cloned(), now);
                    }
                    Event::Dialled(id, true) => race.handle_proof(id),
                    Event::Dialled(id, false) => race.handle_dial_failed(id),
                }
            }
        }
    }

    fn judge(race: &Race, all: &[Candidate], rng: &mut StdRng) -> (Choice, Option<Candidate>) {
        let Some(winner) = race.winner() else { return (Choice { first: false, both: false }, None) };
        let first = Self::is_hostile(winner);
        let seconds = winner
            .node
            .map(|node| confirm::confirming_candidates(winner, node, all.iter().cloned(), race.endorsements(), rng));
        let both = first && seconds.into_iter().flatten().next().is_some_and(|second| Self::is_hostile(&second));
        (Choice { first, both }, Some(winner.clone()))
    }
}
