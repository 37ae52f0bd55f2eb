//! The member table: every node that this one knows, with its state.
//!
//! A node is first claimed, then dialled, then up. A member may be lost, and is then dialled until it is up again or
//! removed. Pure: the caller passes the time.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chappe_common::{keys::NodeId, time::UnixTime};
use rand::RngExt;

use super::{admission::MAX_PER_NETWORK, member_age::MemberAge};
use crate::placement::Network;

/// The maximum number of known nodes: four times the members of a large federation, so that nodes that come and go
/// don't displace the others.
pub(super) const MAX_KNOWN: usize = 4096;
/// The maximum number of concurrent dials of claimed nodes. Each takes 0.5 ms of CPU time and 36 KiB. So a node that
/// joins a thousand members is connected to nearly all of them within two round trips.
const MAX_DIALLING: usize = 1024;
/// The timeout of a dial, after which it counts as failed even without a report of the driver.
const DIAL_WAIT: Duration = Duration::from_secs(6);
/// How often all members together dial a lost member. Twice a second is no load for it. If half of a federation is
/// lost, the first connection comes back within a second.
const RETRIES_PER_SECOND: u32 = 2;
/// The shortest pause between two dials of one lost member: longer than a typical dial.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
/// The longest pause between two dials of one lost member.
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// After this time a lost member is dialled four times less often, since it is most likely gone.
const LONG_LOST: Duration = Duration::from_secs(600);
/// The minimum interval between dials of a lost member because of claims.
const CLAIM_PAUSE: Duration = Duration::from_secs(5);
/// The maximum number of lost members that are dialled in one tick, so that a failed network causes no burst of dials.
const RETRIES_PER_TICK: usize = 2;
/// The maximum number of lost members of one network that are kept.
const LOST_PER_NETWORK: usize = 2 * MAX_PER_NETWORK;
/// How long a lost member is kept.
const LOST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The state of a known node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A member or another source claims that it is up. It waits to be dialled.
    Claimed,
    /// It is being dialled, until this deadline.
    Dialling(Instant),
    /// It is a member.
    Up,
    /// It was a member, but does not answer.
    Lost {
        /// When it was declared down.
        since: Instant,
        /// When it was last dialled.
        dialled: Instant,
    },
}

/// How a node was learned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LearnedVia {
    /// By news, or from itself. Other members may not know it yet.
    News,
    /// By an exchange. Other members learn of it in the same way.
    Compared,
}

/// A known node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) epoch: u64,
    pub(super) state: State,
    /// The member that claims it, if any.
    pub(super) by: Option<NodeId>,
    pub(super) learned_via: LearnedVia,
    /// The network in which it counts.
    pub(super) network: Option<Network>,
    /// Since when it has been a member.
    pub(super) age: MemberAge,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// The node will be dialled.
    Queued,
    /// It is a member already, or is being checked.
    Known,
    /// There is no room for another node.
    Full,
}

/// All known nodes, by key.
#[derive(Debug, Default)]
pub(super) struct MemberTable {
    entries: BTreeMap<NodeId, Entry>,
    /// The number of members in each network, including this node.
    members_in: HashMap<Network, usize>,
    /// The number of claimed strangers in each network.
    strangers_in: HashMap<Network, usize>,
    up: usize,
    /// Claimed nodes that are being dialled: strangers and lost members.
    dialling: HashSet<NodeId>,
    lost: usize,
    /// The deadlines of dials in order. Some of the dials have ended.
    dials: VecDeque<(Instant, NodeId)>,
    /// Nodes that were removed since the last [`MemberTable::take_removed`].
    removed: Vec<NodeId>,
    /// Claimed nodes that wait to be dialled, in order.
    queue: VecDeque<NodeId>,
}

impl MemberTable {
    /// Creates the empty table of a node in this network.
    pub(super) fn new(own: Option<Network>) -> Self {
        Self { members_in: own.into_iter().map(|network| (network, 1)).collect(), ..Self::default() }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    pub(super) fn age_mut(&mut self, node: &NodeId) -> Option<&mut MemberAge> {
        self.entries.get_mut(node).map(|entry| &mut entry.age)
    }

    /// Returns the epoch of a member that is up.
    pub(super) fn epoch_if_up(&self, node: &NodeId) -> Option<u64> {
        self.entries.get(node).filter(|entry| entry.state == State::Up).map(|entry| entry.epoch)
    }

    /// Returns the members that are up, sorted by key.
    pub(super) fn all_up(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.state == State::Up).map(|(node, entry)| (*node, entry))
    }

    /// Returns the members that are up or lost, sorted by key.
    pub(super) fn members_and_lost(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        let was_member = |entry: &Entry| matches!(entry.state, State::Up | State::Lost { .. });
        self.entries.iter().filter(move |(_, entry)| was_member(entry)).map(|(node, entry)| (*node, entry))
    }

    /// Returns the members that are up and whose key's first byte is in this range, sorted by key.
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

    /// Returns the number of members that are up.
    pub(super) const fn len_up(&self) -> usize {
        self.up
    }

    /// Returns the number of claimed nodes that wait to be dialled, and of those that are being dialled.
    pub(super) fn claimed_and_dialling(&self) -> (usize, usize) {
        (self.queue.len(), self.dialling.len())
    }

    /// Returns whether a network has room for one more member, not counting `node` itself.
    pub(super) fn has_room(&self, node: &NodeId, network: Option<Network>) -> bool {
        let Some(network) = network else { return true };
        let is_in_it = |entry: &Entry| entry.state == State::Up && entry.network == Some(network);
        let own = usize::from(self.entries.get(node).is_some_and(is_in_it));
        self.members_in.get(&network).copied().unwrap_or_default() - own < MAX_PER_NETWORK
    }

    /// Handles a claim that a node is up in this epoch.
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
                // At most two strangers of one network are dialled at a time, so that an attacker can't make all
                // members dial another network.
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
                    learned_via: LearnedVia::News,
                    network,
                    age: MemberAge::default(),
                };
                self.entries.insert(node, entry);
                self.queue.push_back(node);
                Claimed::Queued
            }
        }
    }

    /// Sets how the node was learned of.
    pub(super) fn set_learned_via(&mut self, node: &NodeId, via: LearnedVia) {
        if let Some(entry) = self.entries.get_mut(node) {
            entry.learned_via = via;
        }
    }

    /// Removes and returns the next claimed node to dial, or `None` if [`MAX_DIALLING`] dials are open.
    pub(super) fn next_dial(&mut self, now: Instant) -> Option<NodeId> {
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

    /// Returns up to [`RETRIES_PER_TICK`] lost members to dial again now.
    pub(super) fn take_retries(&mut self, now: Instant, rng: &mut impl RngExt) -> Vec<NodeId> {
        let members = u32::try_from(self.up + self.lost).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(u64::from(members / RETRIES_PER_SECOND));
        let due = self.entries.iter_mut().filter_map(|(node, entry)| match &mut entry.state {
            State::Lost { since, dialled } => {
                let pause = if *since + LONG_LOST <= now { pause * 4 } else { pause };
                // Jitter, so that nodes that lost each other at the same time don't dial at the same time.
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

    /// Returns whether any member is lost.
    pub(super) const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Makes the node a member, or updates it. Returns its previous state, or `None` if it wasn't known.
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
            learned_via: LearnedVia::News,
            network: None,
            age: MemberAge::default(),
        });
        (entry.epoch, entry.state) = (epoch, State::Up);
        entry.age.set_seen(clock);
        if let Some(network) = network {
            *self.members_in.entry(network).or_default() += 1;
        }
        entry.network = network;
        self.up += 1;
        before
    }

    /// Removes this node from the counts.
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

    /// Makes a member lost. Returns its epoch, or `None` if it wasn't up.
    pub(super) fn declare_down(&mut self, now: Instant, node: &NodeId) -> Option<u64> {
        let epoch = self.epoch_if_up(node)?;
        self.leave_state(node);
        let network = self.entries.get(node)?.network;
        self.remove_lost_in(network);
        let entry = self.entries.get_mut(node)?;
        entry.state = State::Lost { since: now, dialled: now };
        self.lost += 1;
        Some(epoch)
    }

    /// Removes lost members of one network beyond [`LOST_PER_NETWORK`]. Otherwise an attacker could displace others
    /// with ever new keys that join and fall silent.
    fn remove_lost_in(&mut self, network: Option<Network>) {
        let lost = self.entries.iter().filter_map(|(node, entry)| match entry.state {
            State::Lost { since, .. } if network.is_some() && entry.network == network => Some((since, *node)),
            _ => None,
        });
        let mut lost: Vec<_> = lost.collect();
        lost.sort_unstable();
        let excess = (lost.len() + 1).saturating_sub(LOST_PER_NETWORK);
        for (_, node) in lost.into_iter().take(excess) {
            self.remove(&node);
            self.removed.push(node);
        }
    }

    /// Returns the nodes that [`MemberTable::declare_down`] has removed, so that the caller drops their records.
    pub(super) fn take_removed(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.removed)
    }

    /// Removes a node. Returns its epoch, or `None` if it wasn't up.
    pub(super) fn remove(&mut self, node: &NodeId) -> Option<u64> {
        let epoch = self.epoch_if_up(node);
        self.leave_state(node);
        self.entries.remove(node);
        self.queue.retain(|queued| queued != node);
        epoch
    }

    /// Ends a failed dial. Returns the member that claimed the node, if any, and whether the node was removed.
    pub(super) fn handle_dial_failed(&mut self, node: &NodeId) -> (Option<NodeId>, bool) {
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

    /// Returns when a dial may be overdue next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.dials.front().map(|(until, _)| *until)
    }

    /// Removes and returns the nodes whose dials are overdue.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<NodeId> {
        let mut overdue = Vec::new();
        while let Some((until, node)) = self.dials.pop_front_if(|(until, _)| *until <= now) {
            let state = self.entries.get(&node).map(|entry| entry.state);
            // A node that was dialled again has a later entry.
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

    /// Returns whether there is no room for another node, and no lost member that could be removed.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_KNOWN && self.lost == 0
    }

    /// Removes and returns the member that has been lost for longest, if the table is full.
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

    /// Removes and returns the members that have been lost for [`LOST_LIFETIME`].
    pub(super) fn remove_expired(&mut self, now: Instant) -> Vec<NodeId> {
        let is_old = |entry: &Entry| matches!(entry.state, State::Lost { since, .. } if since + LOST_LIFETIME <= now);
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
        assert_eq!(table.next_dial(now), Some(node(1)));
        assert_eq!(table.handle_dial_failed(&node(1)), (None, true));
        assert_eq!(table.claim(now, node(3), 1, network(1), None), Claimed::Queued);
    }

    #[test]
    fn this_node_counts_in_its_own_network_and_a_leaving_member_frees_a_slot() {
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
        let dialled: Vec<_> = std::iter::from_fn(|| table.next_dial(now)).collect();
        assert_eq!((dialled.len(), table.claimed_and_dialling()), (MAX_DIALLING, (3, MAX_DIALLING)));
        up(&mut table, 0, None);
        assert_eq!(table.handle_dial_failed(&node(1)), (Some(node(9999)), true));
        assert_eq!(table.next_dial(now), Some(node(MAX_DIALLING)));
        assert_eq!(table.take_overdue(now + DIAL_WAIT).len(), MAX_DIALLING - 1);
        assert!(table.take_overdue(now + DIAL_WAIT).is_empty());
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
            (1..=600).map(|second| table.take_retries(now + Duration::from_secs(second), &mut rng).len()).sum::<usize>()
        };
        // In ten minutes: at most a dial every five seconds, and with a thousand members one every 500 s.
        assert!((80..=200).contains(&dials(4)), "{}", dials(4));
        assert!((1..=3).contains(&dials(1000)), "{}", dials(1000));
        let mut table = MemberTable::default();
        up(&mut table, 1, None);
        table.declare_down(now, &node(1));
        let later = now + CLAIM_PAUSE;
        assert_eq!(table.claim(now, node(1), 1, None, None), Claimed::Known, "it was lost a moment ago");
        assert_eq!(table.claim(later, node(1), 1, None, None), Claimed::Queued);
        assert_eq!(table.next_dial(later), Some(node(1)));
        assert_eq!(table.handle_dial_failed(&node(1)), (None, false), "it is kept");
        assert_eq!(table.remove_expired(now + LOST_LIFETIME), [node(1)]);
        assert!(!table.has_lost());
    }

    #[test]
    fn a_member_that_left_without_a_word_is_dialled_for_a_day_and_then_not_at_all() {
        for members in [2, 100] {
            let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
            let mut table = MemberTable::default();
            for n in 0..members {
                up(&mut table, n, None);
            }
            table.declare_down(start, &node(0));
            let mut days = [0; 10];
            for second in (0..10 * 24 * 3600).step_by(10) {
                let now = start + Duration::from_secs(second);
                table.remove_expired(now);
                days[usize::try_from(second / (24 * 3600)).expect("a day")] += table.take_retries(now, &mut rng).len();
            }
            println!("{members} members: {days:?} dials by one of them on each day");
            assert!(days[0] > 50 && days[1..].iter().all(|dials| *dials == 0), "{days:?}");
        }
    }

    #[test]
    fn a_full_table_evicts_the_member_that_was_lost_first() {
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
