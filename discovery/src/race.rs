//! The schedule of a search: when each source is queried, and when each candidate is dialled. Pure: it has no sockets
//! and no clock. Points in time are durations since the search began.
//!
//! - Local sources (cache, referrals, links, manual entries, the built-in directory) are queried at once. So is the
//!   registry, but with nodes in the cache only after [`WARM_DELAY`]. The DNS providers follow at intervals of
//!   [`STAGGER`]. When a source fails, or all its nodes have failed, the next source is queried at once.
//! - At most [`MAX_DIALS`] dials run concurrently; in the first [`STAGGER`] at most two of them are to cached nodes. A
//!   dial without progress for [`PATIENCE`] is dropped if others are waiting, and is retried after they have been
//!   tried. A source without a running dial may replace a dial without progress already after [`STAGGER`].
//! - [`choice`] selects the next candidate.
//! - The first node that proves its key wins.

pub mod choice;
pub mod confirm;

use std::{collections::HashSet, time::Duration};

use chappe_common::keys::NodeId;
use rand::rngs::StdRng;

use self::{
    choice::{Chosen, Tally},
    confirm::Named,
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
pub const PATIENCE: Duration = Duration::from_millis(1000);
/// How long the registry's nodes wait for DNS if no other source has nodes. It makes up for the later query of DNS:
/// otherwise a registry could choose the first node of every new client.
pub const HOLD: Duration = Duration::from_millis(350);
/// Head start of other sources' nodes over the registry's, from their first dial and while one of them is being
/// dialled. Otherwise an operator with nodes close to everybody would win every race.
pub const HEAD_START: Duration = Duration::from_millis(400);
/// Time limit of a search. People think a program is broken after ten seconds, and the report takes a moment.
pub const SEARCH_TIMEOUT: Duration = Duration::from_millis(9500);

/// The next step of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Query the source with this index.
    List(usize),
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
enum Asked {
    /// To be queried at this time.
    Due(Duration),
    Running,
    Answered,
}

#[derive(Debug)]
struct Slot {
    kind: SourceKind,
    asked: Asked,
}

#[derive(Debug)]
struct Dial {
    id: DialId,
    candidate: Candidate,
    party: SourceKind,
    progress_at: Duration,
    second_turn: bool,
}

/// The state of one search.
#[derive(Debug)]
pub struct Race {
    slots: Vec<Slot>,
    avoid: HashSet<NodeId>,
    seen: HashSet<(String, Option<NodeId>)>,
    /// The sources that have named each node.
    named: Named,
    first: Vec<Candidate>,
    again: Vec<Candidate>,
    avoided: Vec<Candidate>,
    dials: Vec<Dial>,
    abandoned: Vec<DialId>,
    tally: Tally,
    next_dial: u64,
    cached_dials: usize,
    /// When a node of a source other than the registry was first dialled.
    others_at: Option<Duration>,
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
            Slot { kind, asked: Asked::Due(at) }
        });
        Self {
            slots: slots.collect(),
            avoid: avoid.iter().copied().collect(),
            seen: HashSet::new(),
            named: Named::new(),
            first: Vec::new(),
            again: Vec::new(),
            avoided: Vec::new(),
            dials: Vec::new(),
            abandoned: Vec::new(),
            tally: Tally::default(),
            next_dial: 0,
            cached_dials: 0,
            others_at: None,
            hold_until: None,
            winner: None,
            rng,
        }
    }

    /// Handles the response of a source.
    pub fn listed(&mut self, source: usize, candidates: impl IntoIterator<Item = Candidate>, now: Duration) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.asked = Asked::Answered;
        let kind = slot.kind;
        for candidate in candidates {
            if let Some(node) = candidate.node {
                let word = self.named.entry(node).or_default();
                word.now = word.now.with(candidate.source);
                word.ever = word.ever.union(candidate.origins);
            }
            // The key is compared too: an old record must not hide a new node at the same address.
            if !self.seen.insert((candidate.url.clone(), candidate.node)) {
                continue;
            }
            self.tally.name(candidate.party());
            let avoided = candidate.node.is_some_and(|node| self.avoid.contains(&node));
            if avoided { &mut self.avoided } else { &mut self.first }.push(candidate);
        }
        if kind == SourceKind::Registry {
            let parties = self.first.iter().map(Candidate::party).chain(self.dials.iter().map(|dial| dial.party));
            let alone = parties.into_iter().all(|party| party == SourceKind::Registry);
            self.hold_until = alone.then_some(now + HOLD);
        } else if !self.first.is_empty() {
            self.hold_until = None;
        }
    }

    /// Handles a source that has failed, or has named no usable candidate.
    pub fn unlisted(&mut self, source: usize, now: Duration) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.asked = Asked::Answered;
        if slot.kind.is_remote() {
            self.ask_next(now);
        }
    }

    /// Handles progress of a dial, such as an established connection.
    pub fn progressed(&mut self, dial: DialId, now: Duration) {
        if let Some(dial) = self.dials.iter_mut().find(|running| running.id == dial) {
            dial.progress_at = now;
        }
    }

    /// Handles a failed dial.
    pub fn failed(&mut self, dial: DialId) {
        self.dials.retain(|running| running.id != dial);
    }

    /// Handles a dial whose node has proved its key.
    pub fn proved(&mut self, dial: DialId) {
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
    pub const fn named(&self) -> &Named {
        &self.named
    }

    /// Returns the next action, which the state already takes as done. Call it until it returns `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if let Some(dial) = self.abandoned.pop() {
            return Some(Action::Abandon(dial));
        }
        if self.winner.is_some() || now >= SEARCH_TIMEOUT {
            return Some(Action::Done);
        }
        if self.is_starving() {
            self.ask_next(now);
        }
        if let Some(due) = self.slots.iter().position(|slot| matches!(slot.asked, Asked::Due(at) if at <= now)) {
            self.slots[due].asked = Asked::Running;
            return Some(Action::List(due));
        }
        self.make_room(now);
        if let Some(dial) = self.abandoned.pop() {
            return Some(Action::Abandon(dial));
        }
        if let Some((candidate, second_turn)) = self.next_candidate(now) {
            let (id, party) = (DialId(self.next_dial), candidate.party());
            self.next_dial += 1;
            if party != SourceKind::Registry {
                self.others_at.get_or_insert(now);
            }
            self.cached_dials += usize::from(candidate.source == SourceKind::Cache);
            self.dials.push(Dial { id, candidate: candidate.clone(), party, progress_at: now, second_turn });
            return Some(Action::Dial(id, candidate));
        }
        let over = self.dials.is_empty()
            && self.waiting() == 0
            && self.avoided.is_empty()
            && self.slots.iter().all(|slot| slot.asked == Asked::Answered);
        over.then_some(Action::Done)
    }

    /// When to poll again if no event happens before.
    pub fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let due = self.slots.iter().filter_map(|slot| match slot.asked {
            Asked::Due(at) => Some(at),
            Asked::Running | Asked::Answered => None,
        });
        let silent = self.dials.iter().flat_map(|dial| [dial.progress_at + STAGGER, dial.progress_at + PATIENCE]);
        let ahead = self.others_at.map(|at| at + HEAD_START);
        let own = self.hold_until.into_iter().chain(ahead).chain([STAGGER, SEARCH_TIMEOUT]);
        due.chain(silent).chain(own).filter(|at| *at > now).min()
    }

    /// Number of candidates that wait for their first or second attempt.
    fn waiting(&self) -> usize {
        self.first.len() + self.again.len()
    }

    /// Whether nothing is under way that could lead to a node.
    fn is_starving(&self) -> bool {
        self.dials.is_empty()
            && self.waiting() == 0
            && !self.slots.iter().any(|slot| slot.asked == Asked::Running || slot.asked == Asked::Due(Duration::ZERO))
    }

    fn ask_next(&mut self, now: Duration) {
        let waiting = self.slots.iter_mut().filter_map(|slot| match slot.asked {
            Asked::Due(at) => Some((at, &mut slot.asked)),
            Asked::Running | Asked::Answered => None,
        });
        if let Some((at, asked)) = waiting.min_by_key(|(at, _)| *at) {
            *asked = Asked::Due(at.min(now));
        }
    }

    /// Drops a dial without progress if other candidates wait for its slot.
    fn make_room(&mut self, now: Duration) {
        if self.dials.len() < MAX_DIALS || self.is_held(now) {
            return;
        }
        let silent = |dial: &&Dial, time| now >= dial.progress_at + time;
        let longest = self.dials.iter().filter(|dial| !dial.second_turn).min_by_key(|dial| dial.progress_at);
        let Some(longest) = longest else { return };
        let absent = |candidate: &Candidate| self.dials.iter().all(|dial| dial.party != candidate.party());
        let newcomer =
            self.first.iter().any(|one| absent(one) && !self.lets_others_ahead(one, now)) && silent(&longest, STAGGER);
        if newcomer || (silent(&longest, PATIENCE) && !self.first.is_empty()) {
            let id = longest.id;
            let dropped = self.dials.iter().position(|dial| dial.id == id);
            if let Some(at) = dropped {
                self.again.push(self.dials.remove(at).candidate);
                self.abandoned.push(id);
            }
        }
    }

    /// Whether dials wait for DNS; see [`HOLD`].
    fn is_held(&self, now: Duration) -> bool {
        let another = |slot: &Slot| slot.kind == SourceKind::Dns && slot.asked != Asked::Answered;
        self.hold_until.is_some_and(|until| now < until) && self.slots.iter().any(another)
    }

    /// Whether a candidate of the registry waits for other sources' dials; see [`HEAD_START`].
    fn lets_others_ahead(&self, candidate: &Candidate, now: Duration) -> bool {
        candidate.party() == SourceKind::Registry
            && self.others_at.is_some_and(|at| now < at + HEAD_START)
            && self.dials.iter().any(|dial| dial.party != SourceKind::Registry)
    }

    fn next_candidate(&mut self, now: Duration) -> Option<(Candidate, bool)> {
        if self.dials.len() >= MAX_DIALS || self.is_held(now) {
            return None;
        }
        let few_cached = now < STAGGER && self.cached_dials >= FIRST_CACHED;
        let waits: Vec<bool> = self.first.iter().map(|one| self.lets_others_ahead(one, now)).collect();
        let eligible = |at: usize| !waits[at] && (!few_cached || self.first[at].source != SourceKind::Cache);
        match self.tally.choose(&self.first, eligible, &mut self.rng) {
            Chosen::One(at) => return Some((self.first.swap_remove(at), false)),
            Chosen::NoneEligible => return None,
            Chosen::Empty => {}
        }
        if let Chosen::One(at) = self.tally.choose(&self.again, |_| true, &mut self.rng) {
            return Some((self.again.swap_remove(at), true));
        }
        // Avoided nodes wait until all sources have answered and all other dials have failed.
        let others = !self.dials.is_empty() || self.slots.iter().any(|slot| slot.asked != Asked::Answered);
        match self.tally.choose(&self.avoided, |_| !others, &mut self.rng) {
            Chosen::One(at) => Some((self.avoided.swap_remove(at), true)),
            Chosen::NoneEligible | Chosen::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests;
