//! The roster: every node that this one knows of, and how it knows it.
//!
//! A node is claimed by somebody, then dialled, then up; an up one may be lost, and is dialled again until it is found
//! or forgotten. Pure: time is given.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chappe_common::{keys::NodeId, time::UnixTime};
use rand::RngExt;

use super::{admission::MAX_PER_NETWORK, member_age::MemberAge};
use crate::placement::Network;

/// The most nodes that are known: four times the members of a large federation, so that those who come and go don't
/// crowd out those who stay.
pub(super) const MAX_KNOWN: usize = 4096;
/// Nodes that are dialled at once because somebody claims them: half a millisecond of CPU and 36 KiB each. A joiner of a
/// thousand members is known to nearly all of them two round trips after it has heard of them.
const MAX_DIALLING: usize = 1024;
/// How long a dial may take before it counts as failed, whatever the driver says.
const DIAL_WAIT: Duration = Duration::from_secs(6);
/// How often all members together dial one that is lost: twice a second is nothing to it, and where half a federation
/// is lost it finds the first way back within a second.
const RETRIES_PER_SECOND: u32 = 2;
/// The shortest pause between two dials of one lost member: longer than a dial takes.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// Who has been lost for so long is dialled four times as seldom: it is most likely gone.
const LONG_LOST: Duration = Duration::from_secs(600);
/// A claim that a lost member is back is looked into at most this often.
const CLAIM_PAUSE: Duration = Duration::from_secs(5);
/// Lost members that are dialled again in one second: a broken network must not make a storm.
const RETRIES_PER_TICK: usize = 2;
/// Lost members of one network that are remembered.
const LOST_PER_NETWORK: usize = 2 * MAX_PER_NETWORK;
/// How long a lost member is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// How a node is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Somebody says that it is there; it waits to be dialled.
    Claimed,
    /// It is being dialled, or has been and is silent.
    Dialling(Instant),
    /// It is a member.
    Up,
    /// It was a member and doesn't answer.
    Lost {
        /// Since when.
        since: Instant,
        /// When it was dialled last.
        dialled: Instant,
    },
}

/// How a node was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LearnedVia {
    /// As news, or from itself: others may not have heard it.
    News,
    /// By comparing views: others hear of it in the same way.
    Compared,
}

/// What is known of a node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) epoch: u64,
    pub(super) state: State,
    /// Who claims it, where a member does.
    pub(super) by: Option<NodeId>,
    /// How it was heard of.
    pub(super) heard: LearnedVia,
    /// The network that it counts in.
    pub(super) network: Option<Network>,
    /// Since when it has been a member.
    pub(super) since: MemberAge,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// The node will be dialled.
    Queued,
    /// It is a member already, or is looked into.
    Known,
    /// There is no room for more.
    Full,
}

/// All nodes that are known, by key.
#[derive(Debug, Default)]
pub(super) struct MemberTable {
    entries: BTreeMap<NodeId, Entry>,
    /// Members in each network, this node among them.
    members_in: HashMap<Network, usize>,
    /// Claimed strangers in each network.
    strangers_in: HashMap<Network, usize>,
    up: usize,
    /// Claimed nodes that are being dialled, strangers and lost members.
    dialling: HashSet<NodeId>,
    lost: usize,
    /// Until when each dial may take, in their order. Some have ended.
    dials: VecDeque<(Instant, NodeId)>,
    /// Nodes that were forgotten since they were last asked for.
    forgotten: Vec<NodeId>,
    /// Claimed nodes in the order of their claims.
    queue: VecDeque<NodeId>,
}

impl MemberTable {
    /// The roster of a node in this network, which knows nobody.
    pub(super) fn new(own: Option<Network>) -> Self {
        Self { members_in: own.into_iter().map(|network| (network, 1)).collect(), ..Self::default() }
    }

    /// What is known of a node.
    pub(super) fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    /// The same, to note what peers say of its age.
    pub(super) fn age_mut(&mut self, node: &NodeId) -> Option<&mut MemberAge> {
        self.entries.get_mut(node).map(|entry| &mut entry.since)
    }

    /// The epoch of a member that is up.
    pub(super) fn up(&self, node: &NodeId) -> Option<u64> {
        self.entries.get(node).filter(|entry| entry.state == State::Up).map(|entry| entry.epoch)
    }

    /// The members that are up, by key.
    pub(super) fn all_up(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.state == State::Up).map(|(node, entry)| (*node, entry))
    }

    /// The members that are up or lost, by key.
    pub(super) fn members_and_lost(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        let was_member = |entry: &Entry| matches!(entry.state, State::Up | State::Lost { .. });
        self.entries.iter().filter(move |(_, entry)| was_member(entry)).map(|(node, entry)| (*node, entry))
    }

    /// The same as [`MemberTable::all_up`], of keys whose first byte is in this range.
    pub(super) fn up_in(&self, first: u8, last: u8) -> impl Iterator<Item = (NodeId, &Entry)> {
        let bound = |first, rest| {
            let mut key = [rest; 32];
            key[0] = first;
            NodeId::new(chappe_common::keys::PublicKey::from_bytes(key))
        };
        self.entries
            .range(bound(first, 0)..=bound(last, 0xff))
            .filter(|(_, entry)| entry.state == State::Up)
            .map(|(node, entry)| (*node, entry))
    }

    /// How many members are up.
    pub(super) const fn len_up(&self) -> usize {
        self.up
    }

    /// How many nodes are claimed and not yet dialled, and how many are being dialled.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.dialling.len())
    }

    /// Whether a network has room for one more member, `node` itself not counted.
    pub(super) fn has_room(&self, node: &NodeId, network: Option<Network>) -> bool {
        let Some(network) = network else { return true };
        let is_in_it = |entry: &Entry| entry.state == State::Up && entry.network == Some(network);
        let own = usize::from(self.entries.get(node).is_some_and(is_in_it));
        self.members_in.get(&network).copied().unwrap_or_default() - own < MAX_PER_NETWORK
    }

    /// Somebody says that the node is there in this epoch.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        node: NodeId,
        epoch: u64,
        network: Option<Network>,
        by: Option<NodeId>,
    ) -> Claimed {
        let full = self.entries.len() >= MAX_KNOWN;
        match self.entries.get_mut(&node) {
            Some(entry) => match entry.state {
                State::Up if entry.epoch >= epoch => Claimed::Known,
                State::Claimed | State::Dialling(_) => Claimed::Known,
                State::Lost { dialled, .. } if entry.epoch >= epoch && dialled + CLAIM_PAUSE > now => Claimed::Known,
                State::Up | State::Lost { .. } => {
                    if !self.queue.contains(&node) {
                        entry.by = by;
                        self.queue.push_back(node);
                    }
                    Claimed::Queued
                }
            },
            None if full => Claimed::Full,
            None => {
                // Two nodes of one network are looked into at a time, so that nobody has a network of somebody else
                // dialled by all members.
                if let Some(network) = network {
                    let strangers = self.strangers_in.entry(network).or_default();
                    if *strangers >= MAX_PER_NETWORK {
                        return Claimed::Full;
                    }
                    *strangers += 1;
                }
                let entry = Entry {
                    epoch,
                    state: State::Claimed,
                    by,
                    heard: LearnedVia::News,
                    network,
                    since: MemberAge::default(),
                };
                self.entries.insert(node, entry);
                self.queue.push_back(node);
                Claimed::Queued
            }
        }
    }

    /// How the node was heard of when it was claimed.
    pub(super) fn note_heard(&mut self, node: &NodeId, heard: LearnedVia) {
        if let Some(entry) = self.entries.get_mut(node) {
            entry.heard = heard;
        }
    }

    /// The next claimed node that is to be dialled now.
    pub(super) fn dial_next(&mut self, now: Instant) -> Option<NodeId> {
        while self.dialling.len() < MAX_DIALLING {
            let node = self.queue.pop_front()?;
            let Some(entry) = self.entries.get_mut(&node) else { continue };
            let until = now + DIAL_WAIT;
            match &mut entry.state {
                State::Claimed => entry.state = State::Dialling(until),
                State::Lost { dialled, .. } => *dialled = now,
                State::Up | State::Dialling(_) => {}
            }
            self.dials.push_back((until, node));
            self.dialling.insert(node);
            return Some(node);
        }
        None
    }

    /// The lost members that are to be dialled again now: a few, once a second.
    pub(super) fn retry(&mut self, now: Instant, rng: &mut impl RngExt) -> Vec<NodeId> {
        let members = u32::try_from(self.up + self.lost).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(u64::from(members / RETRIES_PER_SECOND));
        let due = self.entries.iter_mut().filter_map(|(node, entry)| match &mut entry.state {
            State::Lost { since, dialled } => {
                let pause = if *since + LONG_LOST <= now { pause * 4 } else { pause };
                // Those who lost each other together don't dial together.
                let pause = pause.clamp(SHORTEST_RETRY, LONGEST_RETRY).mul_f64(rng.random_range(0.5..1.5));
                (*dialled + pause <= now).then_some((*node, dialled))
            }
            _ => None,
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(_, dialled)| **dialled);
        due.truncate(RETRIES_PER_TICK);
        for (_, dialled) in &mut due {
            **dialled = now;
        }
        due.into_iter().map(|(node, _)| node).collect()
    }

    /// Whether any member is lost.
    pub(super) const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// The node is a member from now on, or still. Its state before; none: it wasn't known.
    pub(super) fn bring_up(
        &mut self,
        node: NodeId,
        epoch: u64,
        network: Option<Network>,
        clock: UnixTime,
    ) -> Option<State> {
        let before = self.entries.get(&node).map(|entry| entry.state);
        self.leave_state(&node);
        let entry = self.entries.entry(node).or_insert_with(|| Entry {
            epoch,
            state: State::Up,
            by: None,
            heard: LearnedVia::News,
            network: None,
            since: MemberAge::default(),
        });
        (entry.epoch, entry.state) = (epoch, State::Up);
        entry.since.seen(clock);
        if let Some(network) = network {
            *self.members_in.entry(network).or_default() += 1;
        }
        entry.network = network;
        self.up += 1;
        before
    }

    /// The counts as they are without this node.
    fn leave_state(&mut self, node: &NodeId) {
        self.dialling.remove(node);
        let Some(entry) = self.entries.get(node) else { return };
        let counts = match entry.state {
            State::Up => {
                self.up -= 1;
                &mut self.members_in
            }
            State::Claimed | State::Dialling(_) => &mut self.strangers_in,
            State::Lost { .. } => {
                self.lost -= 1;
                return;
            }
        };
        if let Some(network) = entry.network
            && let Some(count) = counts.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }

    /// A member doesn't answer. Its epoch; none: it wasn't up.
    pub(super) fn declare_down(&mut self, now: Instant, node: &NodeId) -> Option<u64> {
        let epoch = self.up(node)?;
        self.leave_state(node);
        let network = self.entries.get(node)?.network;
        self.forget_lost_in(network);
        let entry = self.entries.get_mut(node)?;
        entry.state = State::Lost { since: now, dialled: now };
        self.lost += 1;
        Some(epoch)
    }

    /// Of one network, a few lost members are remembered: who joins and falls silent with ever new keys must not crowd
    /// out the others.
    fn forget_lost_in(&mut self, network: Option<Network>) {
        let lost = self.entries.iter().filter_map(|(node, entry)| match entry.state {
            State::Lost { since, .. } if network.is_some() && entry.network == network => Some((since, *node)),
            _ => None,
        });
        let mut lost: Vec<_> = lost.collect();
        lost.sort_unstable();
        let many = (lost.len() + 1).saturating_sub(LOST_PER_NETWORK);
        for (_, node) in lost.into_iter().take(many) {
            self.remove(&node);
            self.forgotten.push(node);
        }
    }

    /// The nodes that were forgotten on the way: nothing of them is needed any more.
    pub(super) fn take_forgotten(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.forgotten)
    }

    /// Forgets a node: it has left. Its epoch; none: it wasn't up.
    pub(super) fn remove(&mut self, node: &NodeId) -> Option<u64> {
        let up = self.up(node);
        self.leave_state(node);
        self.entries.remove(node);
        self.queue.retain(|queued| queued != node);
        up
    }

    /// A dial has failed. Who had claimed the node falsely, if this was about a claim of a member, and whether the
    /// node is forgotten.
    pub(super) fn failed(&mut self, node: &NodeId) -> (Option<NodeId>, bool) {
        self.dialling.remove(node);
        let Some(entry) = self.entries.get_mut(node) else { return (None, false) };
        let by = entry.by.take();
        match entry.state {
            State::Dialling(_) => {
                self.remove(node);
                (by, true)
            }
            State::Lost { .. } => (by, false),
            State::Claimed | State::Up => (None, false),
        }
    }

    /// When a dial may be overdue next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.dials.front().map(|(until, _)| *until)
    }

    /// The nodes whose dials are overdue.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<NodeId> {
        let mut overdue = Vec::new();
        while let Some((until, node)) = self.dials.pop_front_if(|(until, _)| *until <= now) {
            let state = self.entries.get(&node).map(|entry| entry.state);
            // One that has been dialled again since has a later entry.
            let is_overdue = match state {
                Some(State::Dialling(since)) => since == until,
                Some(State::Lost { dialled, .. }) => dialled + DIAL_WAIT <= now,
                _ => true,
            };
            if is_overdue && self.dialling.remove(&node) {
                overdue.push(node);
            }
        }
        overdue
    }

    /// Whether there is no room for one more, and none can be made.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_KNOWN && self.lost == 0
    }

    /// Makes room for one more where there is none, if a member is lost: the one that has been for longest is forgotten.
    pub(super) fn make_room(&mut self) -> Option<NodeId> {
        if self.entries.len() < MAX_KNOWN {
            return None;
        }
        let lost = self.entries.iter().filter_map(|(node, entry)| match entry.state {
            State::Lost { since, .. } => Some((since, *node)),
            _ => None,
        });
        let (_, node) = lost.min()?;
        self.remove(&node);
        Some(node)
    }

    /// The members that have been lost for so long that they are forgotten now.
    pub(super) fn forget_lost(&mut self, now: Instant) -> Vec<NodeId> {
        let is_old = |entry: &Entry| matches!(entry.state, State::Lost { since, .. } if since + REMEMBERED <= now);
        let old: Vec<_> = self.entries.iter().filter(|(_, entry)| is_old(entry)).map(|(node, _)| *node).collect();
        for node in &old {
            self.remove(node);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const CLOCK: UnixTime = UnixTime::from_secs(1_000_000);

    fn node(n: usize) -> NodeId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::new(PublicKey::from_bytes(key))
    }

    fn network(n: u8) -> Option<Network> {
        Some(Network::of(&std::net::SocketAddr::from(([10, 0, n, 1], 1))))
    }

    fn up(table: &mut MemberTable, n: usize, network: Option<Network>) {
        table.bring_up(node(n), 1, network, CLOCK);
    }

    #[test]
    fn two_strangers_of_a_network_are_looked_into_at_a_time() {
        let now = Instant::now();
        let mut table = MemberTable::default();
        assert_eq!(table.claim(now, node(1), 1, network(1), None), Claimed::Queued);
        assert_eq!(table.claim(now, node(2), 1, network(1), None), Claimed::Queued);
        assert_eq!(table.claim(now, node(3), 1, network(1), None), Claimed::Full);
        assert_eq!(table.claim(now, node(4), 1, None, None), Claimed::Queued, "exempt");
        assert_eq!(table.dial_next(now), Some(node(1)));
        assert_eq!(table.failed(&node(1)), (None, true));
        assert_eq!(table.claim(now, node(3), 1, network(1), None), Claimed::Queued);
    }

    #[test]
    fn this_node_counts_in_its_own_network_and_who_leaves_makes_room() {
        let mut table = MemberTable::new(network(1));
        up(&mut table, 1, network(1));
        assert!(!table.has_room(&node(2), network(1)) && table.has_room(&node(1), network(1)));
        assert!(table.has_room(&node(2), network(2)) && table.has_room(&node(2), None));
        assert_eq!(table.remove(&node(1)), Some(1));
        assert!(table.has_room(&node(2), network(1)));
        // Moving to another network, and being lost, make room too.
        up(&mut table, 2, network(1));
        up(&mut table, 2, network(2));
        assert!(table.has_room(&node(3), network(1)));
        up(&mut table, 3, network(1));
        assert_eq!(table.declare_down(Instant::now(), &node(3)), Some(1));
        assert!(table.has_room(&node(4), network(1)));
        assert_eq!(table.len_up(), 1);
    }

    #[test]
    fn dials_are_bounded_and_end_by_an_answer_a_failure_or_their_time() {
        let now = Instant::now();
        let mut table = MemberTable::default();
        for n in 0..MAX_DIALLING + 3 {
            table.claim(now, node(n), 1, None, Some(node(9999)));
        }
        let dialled: Vec<_> = std::iter::from_fn(|| table.dial_next(now)).collect();
        assert_eq!((dialled.len(), table.waiting()), (MAX_DIALLING, (3, MAX_DIALLING)));
        up(&mut table, 0, None);
        assert_eq!(table.failed(&node(1)), (Some(node(9999)), true));
        assert_eq!(table.dial_next(now), Some(node(MAX_DIALLING)));
        assert_eq!(table.overdue(now + DIAL_WAIT).len(), MAX_DIALLING - 1);
        assert!(table.overdue(now + DIAL_WAIT).is_empty());
    }

    #[test]
    fn lost_members_are_dialled_by_all_together_at_one_rate_and_found_when_they_are_claimed() {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut dials = |members: usize| {
            let mut table = MemberTable::default();
            for n in 0..members {
                up(&mut table, n, None);
            }
            table.declare_down(now, &node(0));
            (1..=600).map(|second| table.retry(now + Duration::from_secs(second), &mut rng).len()).sum::<usize>()
        };
        // Ten minutes, a dial every five seconds at the most; and of a thousand members every five hundred.
        assert!((80..=200).contains(&dials(4)), "{}", dials(4));
        assert!((1..=3).contains(&dials(1000)), "{}", dials(1000));
        let mut table = MemberTable::default();
        up(&mut table, 1, None);
        table.declare_down(now, &node(1));
        let later = now + CLAIM_PAUSE;
        assert_eq!(table.claim(now, node(1), 1, None, None), Claimed::Known, "it was lost just now");
        assert_eq!(table.claim(later, node(1), 1, None, None), Claimed::Queued);
        assert_eq!(table.dial_next(later), Some(node(1)));
        assert_eq!(table.failed(&node(1)), (None, false), "it is remembered");
        assert_eq!(table.forget_lost(now + REMEMBERED), [node(1)]);
        assert!(!table.has_lost());
    }

    #[test]
    fn where_there_is_no_room_the_longest_lost_makes_some() {
        let now = Instant::now();
        let mut table = MemberTable::default();
        for n in 0..MAX_KNOWN {
            up(&mut table, n, None);
        }
        assert_eq!(table.make_room(), None);
        assert_eq!(table.claim(now, node(MAX_KNOWN), 1, None, None), Claimed::Full);
        table.declare_down(now + Duration::from_secs(1), &node(5));
        table.declare_down(now, &node(7));
        assert_eq!(table.make_room(), Some(node(7)));
        assert_eq!(table.claim(now, node(MAX_KNOWN), 1, None, None), Claimed::Queued);
    }
}
