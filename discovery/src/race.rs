//! The race's schedule: when which source is asked, and which candidate is dialled when. Pure: no sockets and no clock;
//! points in time are durations since the search began.
//!
//! - What needs no network (cache, referrals, links, manual entries, a built-in directory) is asked at once, the registry
//!   at once or, where the cache knows somebody, after [`WARM_DELAY`], each provider of DNS [`STAGGER`] after the one
//!   before. A source that fails, or whose nodes have all failed, has the next asked at once.
//! - At most [`MAX_DIALS`] dials run at a time, two of them to cached nodes in the first [`STAGGER`]. A dial that makes no
//!   progress for [`PATIENCE`] makes room for others, and gets a second turn when all have had their first. A party that
//!   has no dial running takes the place of one that has been silent for [`STAGGER`].
//! - Who is dialled next is [`choice`]'s business.
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

/// How many dials run at once: enough that a few dead nodes don't hold up the search, few enough for a phone.
pub const MAX_DIALS: usize = 4;
/// How many of them are to cached nodes in the beginning.
const FIRST_CACHED: usize = 2;
/// How long the registry waits where the cache knows somebody: a cached node that is near has proved its key by then.
pub const WARM_DELAY: Duration = Duration::from_millis(250);
/// How long each provider of DNS waits for what comes before it.
pub const STAGGER: Duration = Duration::from_millis(250);
/// How long a dial may be without progress while others wait: five times a round trip around the world, and short enough
/// that twenty cached nodes, all dead but one, are through in six seconds.
pub const PATIENCE: Duration = Duration::from_millis(1000);
/// How long the registry's nodes wait for those of DNS, which is asked later by as much, in a search that knows nobody
/// else: otherwise who runs the registry would choose everybody's first node.
pub const HOLD: Duration = Duration::from_millis(350);
/// How long the registry's nodes let those of others go ahead, once one of these is dialled and as long as one of them is:
/// whoever has nodes next to everybody would otherwise win every race that it is in.
pub const HEAD_START: Duration = Duration::from_millis(400);
/// How long a search may take; after ten seconds people take it for broken, and the report takes a moment.
pub const SEARCH_TIMEOUT: Duration = Duration::from_millis(9500);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask this source; its number is its place among those that the race was made with.
    List(usize),
    /// Dial this candidate.
    Dial(DialId, Candidate),
    /// Drop this dial. It counts as neither failed nor proved.
    Abandon(DialId),
    /// Nothing more is to be done: a node has won, there is nobody left, or the time is over.
    Done,
}

/// A dial's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Not before then.
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

/// A race under way.
#[derive(Debug)]
pub struct Race {
    slots: Vec<Slot>,
    avoid: HashSet<NodeId>,
    seen: HashSet<(String, Option<NodeId>)>,
    /// All who were named, and by whom.
    named: Named,
    first: Vec<Candidate>,
    again: Vec<Candidate>,
    avoided: Vec<Candidate>,
    dials: Vec<Dial>,
    abandoned: Vec<DialId>,
    tally: Tally,
    next_dial: u64,
    cached_dials: usize,
    /// When a node that the registry doesn't answer for was first dialled.
    others_at: Option<Duration>,
    hold_until: Option<Duration>,
    winner: Option<Candidate>,
    rng: StdRng,
}

impl Race {
    /// A race between these sources. `avoid`: nodes that are dialled only when no other is left. `warm`: the cache knows
    /// somebody. The same `rng` and the same course of things make the same race.
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

    /// A source has named these.
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
            // The key counts too: an old record must not hide the new node at its address.
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

    /// A source has named nobody.
    pub fn unlisted(&mut self, source: usize, now: Duration) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.asked = Asked::Answered;
        if slot.kind.is_remote() {
            self.ask_next(now);
        }
    }

    /// A dial has come a step further.
    pub fn progressed(&mut self, dial: DialId, now: Duration) {
        if let Some(dial) = self.dials.iter_mut().find(|running| running.id == dial) {
            dial.progress_at = now;
        }
    }

    /// A dial has come to nothing.
    pub fn failed(&mut self, dial: DialId) {
        self.dials.retain(|running| running.id != dial);
    }

    /// The node at the other end has proved its key.
    pub fn proved(&mut self, dial: DialId) {
        if self.winner.is_none() {
            let won = self.dials.iter().find(|running| running.id == dial);
            self.winner = won.map(|dial| dial.candidate.clone());
        }
    }

    /// Who has won.
    pub const fn winner(&self) -> Option<&Candidate> {
        self.winner.as_ref()
    }

    /// All who have named whom so far.
    pub const fn named(&self) -> &Named {
        &self.named
    }

    /// What to do now. To be called until there is nothing; the state has changed as if it were done.
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

    /// When to poll again, if nothing happens before.
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

    /// How many wait for a turn, their first or second.
    fn waiting(&self) -> usize {
        self.first.len() + self.again.len()
    }

    /// Whether nothing is under way that could bring a node.
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

    /// Drops dials that make no progress, where others wait for their place.
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

    /// Whether the registry's nodes wait for another source's.
    fn is_held(&self, now: Duration) -> bool {
        let another = |slot: &Slot| slot.kind == SourceKind::Dns && slot.asked != Asked::Answered;
        self.hold_until.is_some_and(|until| now < until) && self.slots.iter().any(another)
    }

    /// Whether a candidate of the registry's waits for those of others that are being dialled.
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
        // Those to avoid wait until all sources have answered and all other dials have failed.
        let others = !self.dials.is_empty() || self.slots.iter().any(|slot| slot.asked != Asked::Answered);
        match self.tally.choose(&self.avoided, |_| !others, &mut self.rng) {
            Chosen::One(at) => Some((self.avoided.swap_remove(at), true)),
            Chosen::NoneEligible | Chosen::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests;
