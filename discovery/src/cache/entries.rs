//! The remembered nodes, and which are evicted when there are too many. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chappe_common::{
    directory::MAX_NODES,
    keys::NodeId,
    record::{MAX_ADDRESSES, SignedRecord},
    time::UnixTime,
};

use crate::{
    network::Network,
    source::{Candidate, MAX_WEIGHT, Origins, SourceKind, UNKNOWN_WEIGHT},
};

/// Maximal number of nodes: enough to find a live one after a month; about 200 KB on disk.
pub const MAX_ENTRIES: usize = 256;
const _: () = assert!(MAX_ENTRIES <= MAX_NODES);
/// How long a node is kept after it was last listed or last proved its key. Servers rarely keep an address for longer
/// than that. Without its URLs, a node is kept as long after its last dial: its silence then limits the dials of others' URLs.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Number of nodes that are never evicted: those that proved their keys last, however long ago.
const PINNED: usize = 8;
/// Half-life of the failure count: a node that was down yesterday is worth a dial today.
const HALF_LIFE: Duration = Duration::from_secs(6 * 3600);
/// A node that no list has named, and that has not proved its key, for this long is most likely gone.
const LONG_SILENT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Pause between two dials of such a node: at most four a day. Its network may have failed, so it is not given up.
const SILENT_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// Maximal count of successes and of failures.
const MAX_COUNT: u32 = 8;
/// How long the client remembers what it used a node for. A node knows the inboxes of at most a day.
const SEPARATION: Duration = Duration::from_secs(24 * 3600);

/// What a client uses a node for.
///
/// A node that sees both could join a code, which a person reads to another, with the inboxes of the client's contacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The inboxes of the client's contacts.
    Inboxes,
    /// Pairing, by a code or a link.
    Pairing,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeEntry {
    pub(super) urls: Vec<String>,
    pub(super) record: Option<SignedRecord>,
    pub(super) origins: Origins,
    /// When a source last listed the node.
    pub(super) seen_at: UnixTime,
    /// When the node last proved its key to this client.
    pub(super) proven_at: Option<UnixTime>,
    pub(super) successes: u32,
    pub(super) failures: u32,
    pub(super) failed_at: UnixTime,
    /// When this client last dialled the node. Unlike a failure, an abandoned dial counts too.
    pub(super) dialled_at: UnixTime,
    /// When this client last registered a pairing code at the node.
    pub(super) pairing_at: Option<UnixTime>,
    /// When this client last had its inboxes at the node.
    pub(super) inboxes_at: Option<UnixTime>,
}

impl NodeEntry {
    fn new(now: UnixTime) -> Self {
        Self {
            urls: Vec::new(),
            record: None,
            origins: Origins::default(),
            seen_at: now,
            proven_at: None,
            successes: 0,
            failures: 0,
            failed_at: UnixTime::default(),
            dialled_at: UnixTime::default(),
            pairing_at: None,
            inboxes_at: None,
        }
    }

    const fn used_at(&self, purpose: Purpose) -> Option<UnixTime> {
        match purpose {
            Purpose::Pairing => self.pairing_at,
            Purpose::Inboxes => self.inboxes_at,
        }
    }

    /// Whether the node may be dialled now: it is not silent for long, or was not dialled recently.
    fn is_due(&self, now: UnixTime) -> bool {
        let is_silent = self.seen_at.max(self.proven_at.unwrap_or_default()) + LONG_SILENT <= now;
        // A time in the future is that of a clock that was ahead.
        !is_silent || self.dialled_at > now || self.dialled_at + SILENT_PAUSE <= now
    }

    fn is_current(&self, now: UnixTime) -> bool {
        self.seen_at.max(self.proven_at.unwrap_or_default()) + MAX_AGE > now
    }

    /// Clamps times that a fast clock has stored: future times would keep the node, and its failures, for too long.
    fn clamp_future_times(&mut self, now: UnixTime) {
        self.seen_at = self.seen_at.min(now);
        self.proven_at = self.proven_at.map(|at| at.min(now));
        self.failed_at = self.failed_at.min(now);
        self.dialled_at = self.dialled_at.min(now);
        self.pairing_at = self.pairing_at.map(|at| at.min(now));
        self.inboxes_at = self.inboxes_at.map(|at| at.min(now));
    }

    fn last_update(&self) -> UnixTime {
        self.seen_at.max(self.proven_at.unwrap_or_default()).max(self.failed_at).max(self.dialled_at)
    }

    fn decayed_failures(&self, now: UnixTime) -> u32 {
        let halvings = now.saturating_since(self.failed_at).as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings).ok().and_then(|halvings| self.failures.checked_shr(halvings)).unwrap_or(0)
    }

    /// Grows with each success and shrinks with each recent failure.
    fn weight(&self, now: UnixTime) -> u32 {
        let weight = UNKNOWN_WEIGHT * (1 + self.successes) / (1 + self.decayed_failures(now));
        weight.clamp(1, MAX_WEIGHT)
    }

    fn add_url(&mut self, url: &str) {
        if !self.urls.iter().any(|known| known == url) {
            self.urls.insert(0, url.to_owned());
            self.urls.truncate(MAX_ADDRESSES);
        }
    }

    fn network(&self) -> Network {
        self.urls.first().map_or_else(|| Network::Name(String::new()), |url| Network::of_url(url))
    }
}

/// The remembered nodes by id.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeEntries(BTreeMap<NodeId, NodeEntry>);

impl NodeEntries {
    /// Stores nodes that a source has listed. A valid list shows that the clock is about right, so expired nodes are
    /// removed.
    pub(super) fn learn(&mut self, candidates: &[Candidate], records: &[SignedRecord], now: UnixTime) {
        for entry in self.0.values_mut() {
            entry.clamp_future_times(now);
        }
        for candidate in candidates {
            let Some(node) = candidate.node else { continue };
            let entry = self.0.entry(node).or_insert_with(|| NodeEntry::new(now));
            entry.seen_at = entry.seen_at.max(now);
            entry.origins = entry.origins.union(candidate.origins);
            if entry.record.is_none() {
                entry.add_url(&candidate.url);
            }
        }
        for record in records {
            let Some(entry) = self.0.get_mut(&record.node) else { continue };
            if entry.record.as_ref().is_none_or(|known| record.supersedes(known)) {
                entry.urls.clone_from(&record.client_urls);
                entry.record = Some(record.clone());
            }
        }
        let pinned = self.pinned_nodes();
        self.0.retain(|node, entry| {
            if pinned.contains(node) || entry.is_current(now) {
                return true;
            }
            // A contact or a link may still name it, and its silence must not begin again.
            entry.urls.clear();
            entry.record = None;
            entry.dialled_at + MAX_AGE > now
        });
        self.evict_excess();
    }

    /// Records that a node has proved its key at the candidate's URL.
    pub(super) fn record_proof(&mut self, node: NodeId, candidate: &Candidate, now: UnixTime) {
        let entry = self.0.entry(node).or_insert_with(|| NodeEntry::new(now));
        entry.add_url(&candidate.url);
        entry.origins = entry.origins.union(candidate.origins);
        entry.proven_at = Some(now);
        entry.successes = (entry.successes + 1).min(MAX_COUNT);
        entry.failures = 0;
        self.evict_excess();
    }

    /// Records the start of a dial. A node that only a contact or a link has named gets an entry without a URL: it is no
    /// candidate of the cache, and its silence begins now.
    pub(super) fn record_dial(&mut self, candidate: &Candidate, now: UnixTime) {
        let Some(node) = candidate.node else { return };
        self.0.entry(node).or_insert_with(|| NodeEntry::new(now)).dialled_at = now;
        self.evict_excess();
    }

    /// Records a failed dial.
    pub(super) fn record_failure(&mut self, candidate: &Candidate, now: UnixTime) {
        let Some(entry) = candidate.node.and_then(|node| self.0.get_mut(&node)) else { return };
        entry.failures = (entry.decayed_failures(now) + 1).min(MAX_COUNT);
        entry.failed_at = now;
    }

    /// Records that the client uses a node.
    pub(super) fn record_use(&mut self, node: NodeId, purpose: Purpose, now: UnixTime) {
        let entry = self.0.entry(node).or_insert_with(|| NodeEntry::new(now));
        match purpose {
            Purpose::Pairing => entry.pairing_at = Some(now),
            Purpose::Inboxes => entry.inboxes_at = Some(now),
        }
        self.evict_excess();
    }

    /// The nodes that the client has used within a day.
    pub(super) fn recently_used(&self, purpose: Purpose, now: UnixTime) -> Vec<NodeId> {
        let is_recent = |entry: &NodeEntry| entry.used_at(purpose).is_some_and(|at| at + SEPARATION > now);
        self.0.iter().filter(|(_, entry)| is_recent(entry)).map(|(node, _)| *node).collect()
    }

    /// Whether a source's candidate may be dialled now. Unknown nodes may.
    pub(super) fn is_due(&self, candidate: &Candidate, now: UnixTime) -> bool {
        let known = candidate.node.and_then(|node| self.0.get(&node));
        known.is_none_or(|entry| entry.is_due(now))
    }

    /// One candidate for each URL of each usable node.
    pub(super) fn candidates(&self, now: UnixTime) -> Vec<Candidate> {
        let entries = self
            .0
            .iter()
            .filter(|(_, entry)| (entry.proven_at.is_some() || entry.is_current(now)) && entry.is_due(now));
        let candidates = entries.flat_map(|(node, entry)| {
            entry.urls.iter().map(|url| Candidate {
                origins: entry.origins,
                weight: entry.weight(now),
                ..Candidate::new(url.clone(), Some(*node), SourceKind::Cache)
            })
        });
        candidates.collect()
    }

    /// The nodes that have recently proved their keys, each with one URL. Listed nodes are left out: passing them on
    /// would only spread a source's claims.
    pub(super) fn recently_proven(&self, now: UnixTime) -> impl Iterator<Item = (NodeId, &str)> + '_ {
        let entries = self.0.iter().filter(move |(_, entry)| {
            let proven = entry.proven_at.is_some_and(|at| at + chappe_common::directory::FRESH > now);
            // A contact may have passed on a node in confidence, so it is not passed on to others.
            proven && entry.origins.iter().any(|origin| origin != SourceKind::Referral)
        });
        entries.filter_map(|(node, entry)| Some((*node, entry.urls.first()?.as_str())))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &NodeEntry)> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, node: NodeId, entry: NodeEntry) {
        self.0.insert(node, entry);
    }

    /// Number of nodes with a URL.
    pub(super) fn len(&self) -> usize {
        self.0.values().filter(|entry| !entry.urls.is_empty()).count()
    }

    /// The [`PINNED`] nodes that proved their keys last.
    fn pinned_nodes(&self) -> Vec<NodeId> {
        let mut proven: Vec<_> = self.0.iter().filter_map(|(node, entry)| Some((entry.proven_at?, *node))).collect();
        proven.sort_unstable_by(|a, b| b.cmp(a));
        proven.into_iter().take(PINNED).map(|(_, node)| node).collect()
    }

    /// Merges the nodes that another process has stored. The more recent entry of a node wins, and its last uses by either.
    pub(super) fn merge(&mut self, others: Self) {
        for (node, other) in others.0 {
            let entry = self.0.entry(node).or_insert_with(|| other.clone());
            let (pairing_at, inboxes_at) =
                (entry.pairing_at.max(other.pairing_at), entry.inboxes_at.max(other.inboxes_at));
            if other.last_update() > entry.last_update() {
                *entry = other;
            }
            (entry.pairing_at, entry.inboxes_at) = (pairing_at, inboxes_at);
        }
        self.evict_excess();
    }

    /// Evicts nodes of the largest network until at most [`MAX_ENTRIES`] are left. So nobody can drive out others by
    /// listing thousands of nodes.
    fn evict_excess(&mut self) {
        if self.0.len() <= MAX_ENTRIES {
            return;
        }
        let pinned = self.pinned_nodes();
        let mut sizes: HashMap<Network, usize> = HashMap::new();
        let mut others: Vec<_> = self
            .0
            .iter()
            .filter(|(node, _)| !pinned.contains(node))
            .map(|(node, entry)| (*node, entry.network(), entry.proven_at.is_some(), entry.seen_at))
            .collect();
        for (_, network, ..) in &others {
            *sizes.entry(network.clone()).or_default() += 1;
        }
        // Within a network, nodes that never proved a key are evicted first, then those listed longest ago.
        others.sort_unstable_by_key(|(node, _, proven, seen_at)| std::cmp::Reverse((*proven, *seen_at, *node)));
        while self.0.len() > MAX_ENTRIES {
            let Some(most) =
                sizes.iter().max_by_key(|(network, size)| (**size, *network)).map(|(network, _)| network.clone())
            else {
                return;
            };
            let Some(at) = others.iter().rposition(|(_, network, ..)| *network == most) else { return };
            let (node, ..) = others.remove(at);
            self.0.remove(&node);
            if let Some(size) = sizes.get_mut(&most) {
                *size -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn node(n: u16) -> NodeId {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&seed).node_id()
    }

    fn listed(n: u16, network: u8) -> Candidate {
        Candidate::new(format!("ws://10.{network}.0.{}:{n}", n % 250), Some(node(n)), SourceKind::Registry)
    }

    fn day(n: u64) -> UnixTime {
        NOW + Duration::from_secs(n * 24 * 3600)
    }

    #[test]
    fn a_list_of_thousands_in_three_networks_evicts_no_other_nodes() {
        let mut entries = NodeEntries::default();
        let honest: Vec<_> = (0..40).map(|n| listed(n, u8::try_from(n).expect("small"))).collect();
        entries.learn(&honest, &[], NOW);
        let flood: Vec<_> = (1000..2000).map(|n| listed(n, 200 + u8::try_from(n % 3).expect("small"))).collect();
        entries.learn(&flood, &[], NOW + Duration::from_secs(60));
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert!((0..40).all(|n| entries.0.contains_key(&node(n))));
    }

    #[test]
    fn the_last_eight_proven_nodes_are_never_evicted() {
        let mut entries = NodeEntries::default();
        for n in 0..10 {
            entries.record_proof(node(n), &listed(n, 1), NOW + Duration::from_secs(n.into()));
        }
        let flood: Vec<_> = (1000..1300).map(|n| listed(n, u8::try_from(n % 250).expect("small"))).collect();
        entries.learn(&flood, &[], day(100));
        let pinned: Vec<_> = (0..10).filter(|n| entries.0.contains_key(&node(*n))).collect();
        assert_eq!(pinned, (2..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_that_is_ahead_erases_nothing_and_pins_nothing() {
        let mut entries = NodeEntries::default();
        entries.learn(&[listed(1, 1), listed(2, 2)], &[], NOW);
        entries.record_proof(node(1), &listed(1, 1), day(365));
        entries.record_failure(&listed(2, 2), day(365));
        assert_eq!(entries.len(), 2);
        entries.learn(&[listed(3, 3)], &[], day(1));
        let entry = |n| &entries.0[&node(n)];
        assert_eq!((entry(1).proven_at, entry(2).failed_at), (Some(day(1)), day(1)));
    }

    #[test]
    fn only_proven_nodes_are_referred_and_none_that_only_a_contact_has_named() {
        let mut entries = NodeEntries::default();
        entries.learn(&[listed(1, 1), listed(2, 2)], &[], NOW);
        entries.record_proof(node(2), &listed(2, 2), NOW);
        entries.record_proof(node(3), &Candidate { origins: SourceKind::Referral.into(), ..listed(3, 3) }, NOW);
        assert_eq!(entries.recently_proven(NOW).map(|(node, _)| node).collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn two_processes_lose_nothing_of_each_other_s() {
        let (mut one, mut other) = (NodeEntries::default(), NodeEntries::default());
        one.learn(&[listed(1, 1), listed(2, 2)], &[], NOW);
        other.learn(&[listed(2, 2), listed(3, 3)], &[], day(1));
        other.record_proof(node(2), &listed(2, 2), day(1));
        one.merge(other);
        assert_eq!(one.len(), 3);
        assert_eq!(one.0[&node(2)].proven_at, Some(day(1)));
    }

    /// The dials of a node on each of 75 days after it was last listed, by a client that searches every five minutes in vain.
    /// Another node is listed daily, and eight others prove their keys, so that this one is not pinned.
    fn dials_after(is_listed: bool, proven: bool, sources: &[SourceKind]) -> [usize; 75] {
        let mut entries = NodeEntries::default();
        let gone = listed(1, 1);
        if is_listed {
            entries.learn(&[listed(1, 1)], &[], NOW);
        }
        if proven {
            entries.record_proof(node(1), &listed(1, 1), NOW);
        }
        let mut days = [0; 75];
        for minute in (0..75 * 24 * 60).step_by(5) {
            let now = NOW + Duration::from_secs(minute * 60);
            if minute % (24 * 60) == 0 {
                for n in 10..10 + u16::try_from(PINNED).expect("small") {
                    entries.record_proof(node(n), &listed(n, 3), now);
                }
                entries.learn(&[listed(2, 2)], &[], now);
            }
            let cached = entries.candidates(now).into_iter().filter(|candidate| candidate.node == gone.node);
            let others = sources.iter().map(|source| Candidate { source: *source, ..gone.clone() });
            // One dial for each node and URL, as the race does it.
            let due = cached.chain(others).find(|candidate| entries.is_due(candidate, now));
            let Some(candidate) = due else { continue };
            entries.record_dial(&candidate, now);
            // Most dials of a machine that is gone are abandoned. Some fail.
            if minute % 2 == 0 {
                entries.record_failure(&candidate, now);
            }
            days[usize::try_from(minute / (24 * 60)).expect("a day")] += 1;
        }
        days
    }

    #[test]
    fn a_node_that_left_is_dialled_at_most_four_times_a_day_after_a_week() {
        let people = [SourceKind::Referral, SourceKind::Invite];
        for (is_listed, proven, sources) in
            [(true, false, &[][..]), (true, true, &[]), (true, true, &people), (false, false, &people)]
        {
            let days = dials_after(is_listed, proven, sources);
            println!("listed: {is_listed}, proven: {proven}, also named by {sources:?}: {days:?}");
            assert!(days[..7].iter().all(|dials| *dials == 288), "it may be back soon: {days:?}");
            assert!(days[7..].iter().all(|dials| *dials <= 4), "{days:?}");
            assert!(days[7..29].iter().all(|dials| *dials > 0), "it may be back: {days:?}");
        }
    }

    #[test]
    fn a_node_that_is_neither_listed_nor_dialled_for_a_month_is_forgotten() {
        let mut entries = NodeEntries::default();
        for n in 0..10 {
            entries.learn(&[listed(n, 1)], &[], NOW);
        }
        entries.record_dial(&listed(1, 1), day(25));
        entries.learn(&[listed(100, 100)], &[], day(31));
        assert_eq!((entries.0.len(), entries.len()), (2, 1), "the dialled one has no URL any more");
        entries.learn(&[listed(100, 100)], &[], day(56));
        assert_eq!(entries.0.len(), 1);
    }

    #[test]
    fn a_silent_node_that_a_list_names_again_is_dialled_at_once() {
        let mut entries = NodeEntries::default();
        entries.learn(&[listed(1, 1)], &[], NOW);
        entries.record_dial(&listed(1, 1), day(8));
        assert_eq!(entries.candidates(day(8)).len(), 0);
        entries.learn(&[listed(1, 1)], &[], day(8));
        assert_eq!(entries.candidates(day(8)).len(), 1);
    }

    #[test]
    fn own_successes_weigh_and_failures_are_forgiven_with_time() {
        let mut entries = NodeEntries::default();
        entries.learn(&[listed(1, 1), listed(2, 2)], &[], NOW);
        let weight = |entries: &NodeEntries, n, now| {
            let candidates = entries.candidates(now);
            candidates.iter().find(|candidate| candidate.node == Some(node(n))).expect("remembered").weight
        };
        entries.record_proof(node(1), &listed(1, 1), NOW);
        assert!(weight(&entries, 1, NOW) > weight(&entries, 2, NOW));
        for _ in 0..3 {
            entries.record_failure(&listed(1, 1), NOW);
            entries.record_failure(&listed(2, 2), NOW);
        }
        assert!(weight(&entries, 1, NOW) < UNKNOWN_WEIGHT && weight(&entries, 2, NOW) == 1);
        assert_eq!(weight(&entries, 2, day(1)), UNKNOWN_WEIGHT);
        for _ in 0..100 {
            entries.record_proof(node(1), &listed(1, 1), NOW);
        }
        assert_eq!(weight(&entries, 1, NOW), MAX_WEIGHT);
    }
}
