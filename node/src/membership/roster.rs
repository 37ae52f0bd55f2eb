//! The roster: every node that this one knows of, and how it knows it.
//!
//! A node is claimed by somebody, then dialled, then up; an up one may be lost, and is dialled again until it is found
//! or forgotten. Pure: time is given.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use chappe_common::{keys::NodeId, time::UnixTime};
use rand::RngExt;

use super::{admission::MAX_PER_NETWORK, since::Since};
use crate::placement::Network;

/// The most nodes that are known: four times the members of a large federation, so that those who come and go don't
/// crowd out those who stay.
pub(super) const MAX_KNOWN: usize = 4096;
/// Nodes that are dialled at once because somebody claims them: half a millisecond of CPU and 36 KiB each.
const MAX_DIALLING: usize = 256;
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

/// What is known of a node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) epoch: u64,
    pub(super) state: State,
    /// Who claims it, where a member does.
    pub(super) by: Option<NodeId>,
    /// The addresses at which it has proved its key.
    pub(super) reached: Vec<SocketAddr>,
    /// The networks that it counts in.
    networks: Vec<Network>,
    /// Since when it has been a member.
    pub(super) since: Since,
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
pub(super) struct Roster {
    entries: BTreeMap<NodeId, Entry>,
    /// Members in each network, this node among them.
    members_in: HashMap<Network, usize>,
    /// Claimed strangers in each network.
    strangers_in: HashMap<Network, usize>,
    up: usize,
    dialling: usize,
    lost: usize,
    /// Until when each dial may take, in their order. Some have ended.
    dials: VecDeque<(Instant, NodeId)>,
    /// Claimed nodes in the order of their claims.
    queue: VecDeque<NodeId>,
}

impl Roster {
    /// The roster of a node in these networks, which knows nobody.
    pub(super) fn new(own: impl Iterator<Item = Network>) -> Self {
        let mut roster = Self::default();
        for network in own {
            *roster.members_in.entry(network).or_default() += 1;
        }
        roster
    }

    /// What is known of a node.
    pub(super) fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    /// The same, to note what peers say of its age.
    pub(super) fn since_mut(&mut self, node: &NodeId) -> Option<&mut Since> {
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

    /// The same, of keys whose first byte is in this range.
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
        (self.queue.len(), self.dialling)
    }

    /// Whether these networks have room for one more member, `node` itself not counted.
    pub(super) fn has_room(&self, node: &NodeId, networks: &[Network]) -> bool {
        let own: &[Network] = match self.entries.get(node) {
            Some(entry) if entry.state == State::Up => &entry.networks,
            _ => &[],
        };
        networks.iter().all(|network| {
            let members = self.members_in.get(network).copied().unwrap_or_default();
            members - usize::from(own.contains(network)) < MAX_PER_NETWORK
        })
    }

    /// Somebody says that the node is there in this epoch.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        node: NodeId,
        epoch: u64,
        networks: Vec<Network>,
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
                let crowded = |network| self.strangers_in.get(network).is_some_and(|count| *count >= MAX_PER_NETWORK);
                if networks.iter().any(crowded) {
                    return Claimed::Full;
                }
                for network in &networks {
                    *self.strangers_in.entry(*network).or_default() += 1;
                }
                let entry =
                    Entry { epoch, state: State::Claimed, by, reached: Vec::new(), networks, since: Since::default() };
                self.entries.insert(node, entry);
                self.queue.push_back(node);
                Claimed::Queued
            }
        }
    }

    /// The next claimed node that is to be dialled now.
    pub(super) fn dial_next(&mut self, now: Instant) -> Option<NodeId> {
        while self.dialling < MAX_DIALLING {
            let node = self.queue.pop_front()?;
            let Some(entry) = self.entries.get_mut(&node) else { continue };
            match &mut entry.state {
                State::Claimed => {
                    let until = now + DIAL_WAIT;
                    entry.state = State::Dialling(until);
                    self.dials.push_back((until, node));
                    self.dialling += 1;
                }
                State::Lost { dialled, .. } => *dialled = now,
                State::Up | State::Dialling(_) => {}
            }
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
        reached: Vec<SocketAddr>,
        networks: Vec<Network>,
        clock: UnixTime,
    ) -> Option<State> {
        let before = self.entries.get(&node).map(|entry| entry.state);
        self.leave_state(&node);
        let entry = self.entries.entry(node).or_insert_with(|| Entry {
            epoch,
            state: State::Up,
            by: None,
            reached: Vec::new(),
            networks: Vec::new(),
            since: Since::default(),
        });
        (entry.epoch, entry.state, entry.reached) = (epoch, State::Up, reached);
        entry.since.seen(clock);
        for network in &networks {
            *self.members_in.entry(*network).or_default() += 1;
        }
        entry.networks = networks;
        self.up += 1;
        before
    }

    /// The counts as they are without this node.
    fn leave_state(&mut self, node: &NodeId) {
        let Some(entry) = self.entries.get(node) else { return };
        let counts = match entry.state {
            State::Up => {
                self.up -= 1;
                &mut self.members_in
            }
            State::Dialling(_) => {
                self.dialling -= 1;
                &mut self.strangers_in
            }
            State::Claimed => &mut self.strangers_in,
            State::Lost { .. } => {
                self.lost -= 1;
                return;
            }
        };
        for network in &entry.networks {
            if let Some(count) = counts.get_mut(network) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(network);
                }
            }
        }
    }

    /// A member doesn't answer. Its epoch; none: it wasn't up.
    pub(super) fn lose(&mut self, now: Instant, node: &NodeId) -> Option<u64> {
        let epoch = self.up(node)?;
        self.leave_state(node);
        let entry = self.entries.get_mut(node)?;
        entry.state = State::Lost { since: now, dialled: now };
        self.lost += 1;
        Some(epoch)
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
            if self.entries.get(&node).is_some_and(|entry| entry.state == State::Dialling(until)) {
                overdue.push(node);
            }
        }
        overdue
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
