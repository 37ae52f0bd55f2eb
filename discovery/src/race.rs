//! The schedule of a search: when each source is queried, and when each candidate is dialled. Pure: it has no sockets
//! and no clock. Points in time are durations since the search began.
//!
//! - Local sources (cache, referrals, links, manual entries, the built-in directory) are queried at once. So is the
//!   registry, but with nodes in the cache only after [`WARM_DELAY`]. The DNS providers follow at intervals of
//!   [`STAGGER`]. When a source fails, or all its nodes have failed, the next source is queried at once.
//! - At most [`MAX_DIALS`] dials run concurrently; in the first [`STAGGER`] at most two of them are to cached nodes. A
//!   dial without progress for [`STALL_TIMEOUT`] is dropped if others are waiting, and is retried after they have been
//!   tried. A source without a running dial may replace a dial without progress already after [`STAGGER`].
//! - [`choice`] selects the next candidate.
//! - The first node that proves its key wins.

pub mod choice;
pub mod confirm;

use std::{collections::HashSet, time::Duration};

use chappe_common::keys::NodeId;
use rand::rngs::StdRng;

use self::{
    choice::{CandidateSelector, Choice},
    confirm::Endorsements,
};
use crate::source::{Candidate, SourceKind};

/// Maximal number of concurrent dials: enough that a few dead nodes do not delay the search, and few enough for a
/// phone.
pub const MAX_DIALS: usize = 4;
/// Maximal number of dials to cached nodes in the first [`STAGGER`].
const FIRST_CACHED: usize = 2;
/// Delay of the registry if the cache has nodes. A nearby cached node has proved its key by then.
pub const WARM_DELAY: Duration = Duration::from_millis(250);
/// Delay of each DNS provider after the previous source.
pub const STAGGER: Duration = Duration::from_millis(250);
/// How long a dial may make no progress while others wait. It is five round trips around the world. With it, twenty
/// cached nodes, of which one is alive, take at most six seconds.
pub const STALL_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long the registry's nodes wait for DNS if no other source has nodes. It makes up for the later query of DNS:
/// otherwise a registry could choose the first node of every new client.
pub const DNS_HOLD: Duration = Duration::from_millis(350);
/// Head start of other sources' nodes over the registry's, from their first dial and while one of them is being
/// dialled. Otherwise an operator with nodes close to everybody would win every race.
pub const HEAD_START: Duration = Duration::from_millis(400);
/// From then on, avoided nodes are dialled although a source has not answered or a dial has not failed: with a source that
/// stays silent, and no other node, the search would find none.
pub const AVOIDED_AFTER: Duration = Duration::from_millis(5000);
/// Time limit of a search. People think a program is broken after ten seconds, and the report takes a moment.
pub const SEARCH_TIMEOUT: Duration = Duration::from_millis(9500);

/// The next step of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Query the source with this index.
    Query(usize),
    /// Dial this candidate.
    Dial(DialId, Candidate),
    /// Drop this dial. It counts neither as failed nor as successful.
    Abandon(DialId),
    /// The search is over: a node has won, nothing is left to try, or the time is up.
    Done,
}

/// Identifies a dial within its race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueryState {
    /// To be queried at this time.
    Due(Duration),
    Running,
    Answered,
}

#[derive(Debug)]
struct SourceSlot {
    kind: SourceKind,
    query: QueryState,
}

#[derive(Debug)]
struct Dial {
    id: DialId,
    candidate: Candidate,
    source: SourceKind,
    progress_at: Duration,
    second_turn: bool,
}

/// The state of one search.
#[derive(Debug)]
pub struct Race {
    slots: Vec<SourceSlot>,
    avoid: HashSet<NodeId>,
    seen: HashSet<(String, Option<NodeId>)>,
    /// The sources that have named each node.
    endorsements: Endorsements,
    untried: Vec<Candidate>,
    to_retry: Vec<Candidate>,
    avoided: Vec<Candidate>,
    dials: Vec<Dial>,
    abandoned: Vec<DialId>,
    selector: CandidateSelector,
    next_dial: u64,
    cached_dials: usize,
    /// When a node of a source other than the registry was first dialled.
    others_dialled_at: Option<Duration>,
    hold_until: Option<Duration>,
    winner: Option<Candidate>,
    rng: StdRng,
}

impl Race {
    /// Creates a race between these sources. Nodes in `avoid` are dialled only if no other is left. `warm` says that
    /// the cache has nodes. The same `rng` and the same events lead to the same actions.
    pub fn new(kinds: impl IntoIterator<Item = SourceKind>, avoid: &[NodeId], warm: bool, rng: StdRng) -> Self {
        let mut dns = 0;
        let slots = kinds.into_iter().map(|kind| {
            let at = match kind {
                SourceKind::Registry if warm => WARM_DELAY,
                SourceKind::Dns => {
                    dns += 1;
                    STAGGER * dns
                }
                _ => Duration::ZERO,
            };
            SourceSlot { kind, query: QueryState::Due(at) }
        });
        Self {
            slots: slots.collect(),
            avoid: avoid.iter().copied().collect(),
            seen: HashSet::new(),
            endorsements: Endorsements::new(),
            untried: Vec::new(),
            to_retry: Vec::new(),
            avoided: Vec::new(),
            dials: Vec::new(),
            abandoned: Vec::new(),
            selector: CandidateSelector::default(),
            next_dial: 0,
            cached_dials: 0,
            others_dialled_at: None,
            hold_until: None,
            winner: None,
            rng,
        }
    }

    /// Handles the response of a source.
    pub fn handle_candidates(&mut self, source: usize, candidates: impl IntoIterator<Item = Candidate>, now: Duration) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.query = QueryState::Answered;
        let kind = slot.kind;
        for candidate in candidates {
            if let Some(node) = candidate.node {
                let endorsement = self.endorsements.entry(node).or_default();
                endorsement.now = endorsement.now.with(candidate.source);
                endorsement.ever = endorsement.ever.union(candidate.origins);
            }
            // The key is compared too: an old record must not hide a new node at the same address.
            if !self.seen.insert((candidate.url.clone(), candidate.node)) {
                continue;
            }
            self.selector.add_source(candidate.attributed_source());
            let avoided = candidate.node.is_some_and(|node| self.avoid.contains(&node));
            if avoided { &mut self.avoided } else { &mut self.untried }.push(candidate);
        }
        if kind == SourceKind::Registry {
            let sources =
                self.untried.iter().map(Candidate::attributed_source).chain(self.dials.iter().map(|dial| dial.source));
            let alone = sources.into_iter().all(|source| source == SourceKind::Registry);
            self.hold_until = alone.then_some(now + DNS_HOLD);
        } else if !self.untried.is_empty() {
            self.hold_until = None;
        }
    }

    /// Handles a source that has failed, or has named no usable candidate.
    pub fn handle_source_failed(&mut self, source: usize, now: Duration) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.query = QueryState::Answered;
        if slot.kind.is_remote() {
            self.query_next_source(now);
        }
    }

    /// Handles progress of a dial, such as an established connection.
    pub fn handle_progress(&mut self, dial: DialId, now: Duration) {
        if let Some(dial) = self.dials.iter_mut().find(|running| running.id == dial) {
            dial.progress_at = now;
        }
    }

    /// Handles a failed dial.
    pub fn handle_dial_failed(&mut self, dial: DialId) {
        self.dials.retain(|running| running.id != dial);
    }

    /// Handles a dial whose node has proved its key.
    pub fn handle_proof(&mut self, dial: DialId) {
        if self.winner.is_none() {
            let won = self.dials.iter().find(|running| running.id == dial);
            self.winner = won.map(|dial| dial.candidate.clone());
        }
    }

    /// The candidate whose node has proved its key first.
    pub const fn winner(&self) -> Option<&Candidate> {
        self.winner.as_ref()
    }

    /// The sources that have named each node so far.
    pub const fn endorsements(&self) -> &Endorsements {
        &self.endorsements
    }

    /// Returns the next action, which the state already takes as done. Call it until it returns `None`.
    pub fn poll_action(&mut self, now: Duration) -> Option<Action> {
        if let Some(dial) = self.abandoned.pop() {
            return Some(Action::Abandon(dial));
        }
        if self.winner.is_some() || now >= SEARCH_TIMEOUT {
            return Some(Action::Done);
        }
        if self.is_starving() {
            self.query_next_source(now);
        }
        if let Some(due) = self.slots.iter().position(|slot| matches!(slot.query, QueryState::Due(at) if at <= now)) {
            self.slots[due].query = QueryState::Running;
            return Some(Action::Query(due));
        }
        self.drop_stalled_dial(now);
        if let Some(dial) = self.abandoned.pop() {
            return Some(Action::Abandon(dial));
        }
        if let Some((candidate, second_turn)) = self.next_candidate(now) {
            let (id, source) = (DialId(self.next_dial), candidate.attributed_source());
            self.next_dial += 1;
            if source != SourceKind::Registry {
                self.others_dialled_at.get_or_insert(now);
            }
            self.cached_dials += usize::from(candidate.source == SourceKind::Cache);
            self.dials.push(Dial { id, candidate: candidate.clone(), source, progress_at: now, second_turn });
            return Some(Action::Dial(id, candidate));
        }
        let over = self.dials.is_empty()
            && self.waiting_candidates() == 0
            && self.avoided.is_empty()
            && self.slots.iter().all(|slot| slot.query == QueryState::Answered);
        over.then_some(Action::Done)
    }

    /// When to poll again if no event happens before.
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let due = self.slots.iter().filter_map(|slot| match slot.query {
            QueryState::Due(at) => Some(at),
            QueryState::Running | QueryState::Answered => None,
        });
        let silent = self.dials.iter().flat_map(|dial| [dial.progress_at + STAGGER, dial.progress_at + STALL_TIMEOUT]);
        let ahead = self.others_dialled_at.map(|at| at + HEAD_START);
        let own = self.hold_until.into_iter().chain(ahead).chain([STAGGER, AVOIDED_AFTER, SEARCH_TIMEOUT]);
        due.chain(silent).chain(own).filter(|at| *at > now).min()
    }

    /// Number of candidates that wait for their first or second attempt.
    fn waiting_candidates(&self) -> usize {
        self.untried.len() + self.to_retry.len()
    }

    /// Whether nothing is under way that could lead to a node.
    fn is_starving(&self) -> bool {
        self.dials.is_empty()
            && self.waiting_candidates() == 0
            && !self
                .slots
                .iter()
                .any(|slot| slot.query == QueryState::Running || slot.query == QueryState::Due(Duration::ZERO))
    }

    fn query_next_source(&mut self, now: Duration) {
        let waiting = self.slots.iter_mut().filter_map(|slot| match slot.query {
            QueryState::Due(at) => Some((at, &mut slot.query)),
            QueryState::Running | QueryState::Answered => None,
        });
        if let Some((at, query)) = waiting.min_by_key(|(at, _)| *at) {
            *query = QueryState::Due(at.min(now));
        }
    }

    /// Drops a dial without progress if other candidates wait for its slot.
    fn drop_stalled_dial(&mut self, now: Duration) {
        if self.dials.len() < MAX_DIALS || self.is_held_for_dns(now) {
            return;
        }
        let silent = |dial: &&Dial, time| now >= dial.progress_at + time;
        let longest = self.dials.iter().filter(|dial| !dial.second_turn).min_by_key(|dial| dial.progress_at);
        let Some(longest) = longest else { return };
        let absent = |candidate: &Candidate| self.dials.iter().all(|dial| dial.source != candidate.attributed_source());
        let newcomer =
            self.untried.iter().any(|one| absent(one) && !self.yields_to_others(one, now)) && silent(&longest, STAGGER);
        if newcomer || (silent(&longest, STALL_TIMEOUT) && !self.untried.is_empty()) {
            let id = longest.id;
            let dropped = self.dials.iter().position(|dial| dial.id == id);
            if let Some(at) = dropped {
                self.to_retry.push(self.dials.remove(at).candidate);
                self.abandoned.push(id);
            }
        }
    }

    /// Whether dials wait for DNS; see [`DNS_HOLD`].
    fn is_held_for_dns(&self, now: Duration) -> bool {
        let another = |slot: &SourceSlot| slot.kind == SourceKind::Dns && slot.query != QueryState::Answered;
        self.hold_until.is_some_and(|until| now < until) && self.slots.iter().any(another)
    }

    /// Whether a candidate of the registry waits for other sources' dials; see [`HEAD_START`].
    fn yields_to_others(&self, candidate: &Candidate, now: Duration) -> bool {
        candidate.attributed_source() == SourceKind::Registry
            && self.others_dialled_at.is_some_and(|at| now < at + HEAD_START)
            && self.dials.iter().any(|dial| dial.source != SourceKind::Registry)
    }

    fn next_candidate(&mut self, now: Duration) -> Option<(Candidate, bool)> {
        if self.dials.len() >= MAX_DIALS || self.is_held_for_dns(now) {
            return None;
        }
        let few_cached = now < STAGGER && self.cached_dials >= FIRST_CACHED;
        let waits: Vec<bool> = self.untried.iter().map(|one| self.yields_to_others(one, now)).collect();
        let eligible = |at: usize| !waits[at] && (!few_cached || self.untried[at].source != SourceKind::Cache);
        match self.selector.choose(&self.untried, eligible, &mut self.rng) {
            Choice::One(at) => return Some((self.untried.swap_remove(at), false)),
            Choice::NoneEligible => return None,
            Choice::Empty => {}
        }
        if let Choice::One(at) = self.selector.choose(&self.to_retry, |_| true, &mut self.rng) {
            return Some((self.to_retry.swap_remove(at), true));
        }
        // Avoided nodes wait until all sources have answered and all other dials have failed, or until `AVOIDED_AFTER`.
        let others = !self.dials.is_empty() || self.slots.iter().any(|slot| slot.query != QueryState::Answered);
        let others = others && now < AVOIDED_AFTER;
        match self.selector.choose(&self.avoided, |_| !others, &mut self.rng) {
            Choice::One(at) => Some((self.avoided.swap_remove(at), true)),
            Choice::NoneEligible | Choice::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests;
