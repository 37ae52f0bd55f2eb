//! The registry's rules: which records are accepted, what replaces them, when they expire, and which nodes are public.
//!
//! Pure: time and randomness are arguments. Changes are returned as values, which the owner stores before it applies
//! them. Dialling happens outside: `admit` is called for a node that has proved its key.

pub(crate) mod caps;
mod doors;
mod listing;
mod probes;
pub(crate) mod statements;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    list_request::{ListRequest, ListRequestError},
    record::{MAX_CLOCK_SKEW, MAX_RECORD_LIFETIME, NodeLeave, NodeRecord, RecordError, SignedRecord},
    removal::{NodeRemoval, RemovalError},
    signed::Signed,
    special,
    time::UnixTime,
};
use chappe_discovery::trust::Trust;

pub(crate) use self::{
    caps::{Caps, counted_addrs, wide_network},
    doors::{DoorGrace, DoorHistory, DoorTry, Fault, doubts_own_network, is_of_network},
    listing::{Change, Listing, Millis, StoredLeave, StoredRemoval},
    probes::ProbeHistory,
};

/// Number of stored leaves for each node that may be listed. At the limit the oldest is dropped.
const LEAVES_PER_NODE: usize = 4;
/// Maximal number of stored removals, which take less than 1 MB. Only operators can add them.
const MAX_REMOVALS: usize = 4096;

/// If fewer nodes are listed and all of them are silent, it is they that are down.
const MIN_CUT_OFF: usize = 3;

/// Why the rules reject a record or another signed request. The state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleRejection {
    /// It belongs to another federation.
    #[error("it belongs to another federation")]
    Federation,
    /// It is for another registry.
    #[error("it is for another registry")]
    Registry,
    /// It was issued in the future.
    #[error("it was issued in the future; one of the clocks is wrong")]
    Clock,
    /// It has expired.
    #[error("it has expired; one of the clocks may be wrong")]
    Expired,
    /// The record has a public QUIC address and a private client URL.
    #[error("a client URL has a private or local host, but a QUIC address is public")]
    PrivateUrl,
    /// Its lifetime is longer than allowed.
    #[error("its lifetime is longer than allowed")]
    Lifetime,
    /// The same or a higher epoch, sequence number or time is known.
    #[error("the same or a newer epoch and sequence number is known")]
    Stale,
    /// The maximal number of nodes is listed.
    #[error("the registry is full")]
    Full,
    /// The maximal number of nodes in its network is listed.
    #[error("the maximal number of nodes in its network is listed")]
    NetworkFull,
    /// An operator has removed the node.
    #[error("the operator of the registry has removed this node")]
    Removed,
    /// The key may not remove nodes, or may not get the full list.
    #[error("the key is not authorized")]
    Signer,
}

impl From<RecordError> for RuleRejection {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Federation => Self::Federation,
            RecordError::Future => Self::Clock,
            RecordError::Expired => Self::Expired,
            RecordError::Lifetime => Self::Lifetime,
        }
    }
}

impl From<RemovalError> for RuleRejection {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Federation => Self::Federation,
            RemovalError::Signer => Self::Signer,
            RemovalError::Future => Self::Clock,
            RemovalError::Old => Self::Expired,
        }
    }
}

impl From<ListRequestError> for RuleRejection {
    fn from(error: ListRequestError) -> Self {
        match error {
            ListRequestError::Federation => Self::Federation,
            ListRequestError::Registry => Self::Registry,
            ListRequestError::Clock => Self::Clock,
        }
    }
}

/// The configuration of the rules.
#[derive(Clone, Debug)]
pub(crate) struct RuleConfig {
    pub(crate) federation: FederationId,
    /// The online key, which identifies this registry.
    pub(crate) online: PublicKey,
    /// The roots. They and the online key may remove nodes.
    pub(crate) trust: Trust,
    /// Maximal number of listed nodes.
    pub(crate) max_nodes: usize,
    /// A node is delisted if it has not proved its key for this time.
    pub(crate) node_timeout: Duration,
    /// Limits for the nodes of one network.
    pub(crate) caps: Caps,
    /// Interval of probes to a node that answers.
    pub(crate) probe_interval: Duration,
    /// After this number of consecutive failed probes a node is not public.
    pub(crate) failure_threshold: u8,
    /// After its door has failed for this time a node is not public.
    pub(crate) door_grace: Duration,
}

/// The registry's state.
#[derive(Clone, Debug)]
pub(crate) struct RegistryState {
    config: RuleConfig,
    nodes: BTreeMap<NodeId, Arc<Listing>>,
    leaves: BTreeMap<NodeId, StoredLeave>,
    removals: BTreeMap<NodeId, StoredRemoval>,
}

impl RegistryState {
    /// A state without nodes.
    pub(crate) const fn new(config: RuleConfig) -> Self {
        Self { config, nodes: BTreeMap::new(), leaves: BTreeMap::new(), removals: BTreeMap::new() }
    }

    /// The listed nodes by key.
    pub(crate) fn listings(&self) -> impl ExactSizeIterator<Item = &Arc<Listing>> {
        self.nodes.values()
    }

    /// The listing of a node.
    pub(crate) fn listing(&self, node: &NodeId) -> Option<&Arc<Listing>> {
        self.nodes.get(node)
    }

    /// The public nodes by key: all listed nodes except reserve nodes, those that clients cannot reach, and unresponsive
    /// ones.
    ///
    /// If most nodes are unresponsive, the registry itself is probably cut off, so unresponsive nodes are included.
    pub(crate) fn public_nodes(&self) -> impl Iterator<Item = &Arc<Listing>> {
        let silent = self.nodes.values().filter(|listing| self.is_unresponsive(listing)).count();
        let believed = silent * 2 <= self.nodes.len();
        let is_hidden = move |listing: &Arc<Listing>| {
            listing.record.is_reserve() || listing.hidden_for().is_some() || (believed && self.is_unresponsive(listing))
        };
        self.nodes.values().filter(move |listing| !is_hidden(listing))
    }

    /// Whether the node has failed too many consecutive probes.
    pub(crate) fn is_unresponsive(&self, listing: &Listing) -> bool {
        listing.probes.failures() >= self.config.failure_threshold
    }

    /// Whether exactly this record is listed.
    pub(crate) fn lists_record(&self, record: &SignedRecord) -> bool {
        self.nodes.get(&record.node).is_some_and(|listing| listing.record.as_bytes() == record.as_bytes())
    }

    /// Checks whether `record` can be listed, if its node proves its key.
    ///
    /// # Errors
    /// Why the record is rejected.
    pub(crate) fn check_record(&self, record: &SignedRecord, now: UnixTime) -> Result<(), RuleRejection> {
        record.check(self.config.federation, now)?;
        if !self.has_allowed_urls(record) {
            return Err(RuleRejection::PrivateUrl);
        }
        if self.removals.get(&record.node).is_some_and(|stored| stored.removal.counts(now)) {
            return Err(RuleRejection::Removed);
        }
        if self.leaves.get(&record.node).is_some_and(|stored| stored.leave.ends(record)) {
            return Err(RuleRejection::Stale);
        }
        match self.nodes.get(&record.node) {
            // A node sends the same record again to show that it is still running.
            Some(listing) if !record.supersedes(&listing.record) && !self.lists_record(record) => {
                return Err(RuleRejection::Stale);
            }
            Some(_) => {}
            None if self.nodes.len() >= self.config.max_nodes => return Err(RuleRejection::Full),
            None => {}
        }
        if counted_addrs(record).any(|addr| self.fits_network(record.node, addr.ip())) {
            Ok(())
        } else {
            Err(RuleRejection::NetworkFull)
        }
    }

    /// A private address refers to the reader's own network, so a public node must not name one: clients would connect
    /// to machines of their own network. A node with private addresses only, as in a test, may.
    fn has_allowed_urls(&self, record: &NodeRecord) -> bool {
        let is_private = |addr: &SocketAddr| !special::is_public(addr.ip()) || self.config.caps.is_exempt(addr.ip());
        record.quic_addrs.iter().all(is_private) || record.client_urls.iter().all(|url| special::is_public_url(url))
    }

    fn fits_network(&self, node: NodeId, address: IpAddr) -> bool {
        // A listed node keeps its place there, even if the cap is lowered or reached.
        if self.nodes.get(&node).is_some_and(|listing| listing.proved == address) {
            return true;
        }
        let others = self.nodes.values().filter(|listing| listing.record.node != node);
        self.config.caps.allow(address, others.map(|listing| listing.proved))
    }

    /// Lists a record whose node has proved its key at the address `proved`.
    ///
    /// # Errors
    /// Why the record is rejected. A newer record or a leave may have arrived during the dial-back.
    pub(crate) fn admit(
        &self,
        record: SignedRecord,
        proved: IpAddr,
        now: Millis,
    ) -> Result<Vec<Change>, RuleRejection> {
        self.check_record(&record, now.secs())?;
        if !self.fits_network(record.node, proved) {
            return Err(RuleRejection::NetworkFull);
        }
        let probes = ProbeHistory::after_registration(now, self.config.probe_interval);
        // An earlier leave is kept until it expires. The new listing may end before the records that the leave revoked
        // do.
        let listing = match self.nodes.get(&record.node) {
            Some(listing) => {
                let probes = if self.is_unresponsive(listing) { probes } else { listing.probes };
                let is_same_door = record.client_urls == listing.record.client_urls;
                let door = if is_same_door { listing.door } else { listing.door.of_other_urls() };
                Listing { record, last_seen: now, proved, probes, door, ..(**listing).clone() }
            }
            None => {
                let (load, asked, door) = Default::default();
                Listing { record, registered_at: now, last_seen: now, proved, probes, load, asked, door }
            }
        };
        Ok(vec![Change::List(Box::new(listing))])
    }

    /// Delists a node that leaves.
    ///
    /// # Errors
    /// The leave is of another federation, from the future, or older than the listed record.
    pub(crate) fn leave(&self, leave: Signed<NodeLeave>, now: UnixTime) -> Result<Vec<Change>, RuleRejection> {
        if leave.federation != self.config.federation {
            return Err(RuleRejection::Federation);
        }
        if leave.issued_at > now + MAX_CLOCK_SKEW {
            return Err(RuleRejection::Clock);
        }
        let Some(listing) = self.nodes.get(&leave.node) else {
            // Store nothing for keys that were never dialled, because anyone can create those.
            return Ok(Vec::new());
        };
        if !leave.ends(&listing.record) {
            return Err(RuleRejection::Stale);
        }
        let until = if (leave.epoch, leave.seq) == (listing.record.epoch, listing.record.seq) {
            listing.record.expires_at
        } else {
            // The leave also revokes records that were never sent here. They were issued before it.
            leave.issued_at + MAX_CLOCK_SKEW + MAX_RECORD_LIFETIME
        };
        // An earlier leave may have revoked records that live longer. The new one revokes them too.
        let until = self.leaves.get(&leave.node).map_or(until, |stored| until.max(stored.until));
        let mut changes = Vec::new();
        if self.leaves.len() >= self.config.max_nodes * LEAVES_PER_NODE && !self.leaves.contains_key(&leave.node) {
            let oldest = self.leaves.iter().min_by_key(|(_, stored)| stored.until).map(|(node, _)| *node);
            changes.extend(oldest.map(Change::DeleteLeave));
        }
        changes.push(Change::Delist(leave.node));
        changes.push(Change::StoreLeave(StoredLeave { leave, until }));
        Ok(changes)
    }

    /// Removes a node, or revokes a removal, for an operator.
    ///
    /// # Errors
    /// The removal is not valid here, or a later one is known.
    pub(crate) fn remove(&self, removal: Signed<NodeRemoval>, now: UnixTime) -> Result<Vec<Change>, RuleRejection> {
        removal.check(self.config.federation, &self.operators(now), now)?;
        let stored = self.removals.get(&removal.node);
        match stored {
            Some(stored) if stored.removal.as_bytes() == removal.as_bytes() => return Ok(Vec::new()),
            Some(stored) if stored.removal.issued_at >= removal.issued_at => return Err(RuleRejection::Stale),
            None if self.removals.len() >= MAX_REMOVALS => return Err(RuleRejection::Full),
            _ => {}
        }
        let mut changes = Vec::new();
        if removal.counts(now) && self.nodes.contains_key(&removal.node) {
            changes.push(Change::Delist(removal.node));
        }
        let until = stored.map_or(removal.until, |stored| removal.until.max(stored.until));
        changes.push(Change::StoreRemoval(StoredRemoval { removal, until }));
        Ok(changes)
    }

    /// Checks that a list request is for this registry and for now.
    ///
    /// # Errors
    /// Why it is rejected.
    pub(crate) fn check_list_request(&self, request: &ListRequest, now: UnixTime) -> Result<(), RuleRejection> {
        Ok(request.check(self.config.federation, &self.config.online, now)?)
    }

    /// Records a listed node's list request, which is valid only once.
    ///
    /// # Errors
    /// The request is not valid here, was used before, or its key belongs to no listed node.
    pub(crate) fn accept_list_request(
        &self,
        request: &ListRequest,
        now: UnixTime,
    ) -> Result<Vec<Change>, RuleRejection> {
        self.check_list_request(request, now)?;
        let listing = self.nodes.get(&NodeId::new(request.key)).ok_or(RuleRejection::Signer)?;
        if listing.asked >= request.seq {
            return Err(RuleRejection::Stale);
        }
        let listing = Listing { load: request.load, asked: request.seq, ..(**listing).clone() };
        Ok(vec![Change::List(Box::new(listing))])
    }

    /// Whether the key belongs to an operator.
    pub(crate) fn is_operator(&self, key: &PublicKey, now: UnixTime) -> bool {
        self.operators(now).contains(key)
    }

    fn operators(&self, now: UnixTime) -> Vec<PublicKey> {
        let mut keys = self.config.trust.roots().accepted(now);
        keys.push(self.config.online);
        keys
    }

    /// The nodes whose next probe is due, the longest overdue first.
    pub(crate) fn due_probes(&self, now: Millis) -> Vec<Arc<Listing>> {
        let mut due: Vec<_> = self.nodes.values().filter(|listing| listing.probes.due() <= now).cloned().collect();
        due.sort_by_key(|listing| listing.probes.due());
        due
    }

    /// Shows a node whose door the registry cannot reach, because members do.
    pub(crate) fn overrule(&self, node: NodeId, now: Millis) -> Option<Change> {
        // It may have left, or its door may work again.
        let listing = self.nodes.get(&node).filter(|listing| listing.door.may_be_overruled())?;
        let door = listing.door.overruled(now, self.config.door_grace);
        Some(Change::List(Box::new(Listing { door, ..(**listing).clone() })))
    }

    /// Whether the registry blames its own network for the doors that fail.
    pub(crate) fn doubts_own_network(&self) -> bool {
        doubts_own_network(self.nodes.values())
    }

    /// Whether the registry's own network is the likely cause that no node has proved its key for longer than the pause between
    /// two probes.
    pub(crate) fn is_cut_off(&self, now: Millis) -> bool {
        let heard = self.nodes.values().map(|listing| listing.last_seen.0).max().unwrap_or_default();
        let longest = self.config.probe_interval.as_millis() * 3 / 2;
        self.nodes.len() >= MIN_CUT_OFF && u128::from(now.0.saturating_sub(heard)) > longest
    }

    /// Records the result of a node's probe, and of trying its door. `jitter` from 0 to 1 spreads the next probes.
    pub(crate) fn record_probe(
        &self,
        node: NodeId,
        answered: bool,
        tried: DoorTry,
        jitter: f64,
        now: Millis,
    ) -> Option<Change> {
        // The node may have left in the meantime. If it is not due any more, it has registered again, or another
        // registry on the same store has probed it. One lost packet must count once, however many registries see it.
        let listing = self.nodes.get(&node).filter(|listing| listing.probes.due() <= now)?;
        // The registry tries a failing door more often than that, unless it is stopped or asleep.
        let grace = DoorGrace { time: self.config.door_grace, longest_pause: self.config.probe_interval };
        let door = listing.door.with_result(tried, now, grace, self.doubts_own_network());
        let mut probes = listing.probes.with_result(answered, now, self.config.probe_interval, jitter);
        if door.is_in_question() {
            probes = probes.sooner(now, self.config.probe_interval, jitter);
        }
        let last_seen = if answered { now } else { listing.last_seen };
        Some(Change::List(Box::new(Listing { probes, door, last_seen, ..(**listing).clone() })))
    }

    /// The changes for everything that expires at `now`. Nodes could not prove their keys before `watching_since`.
    pub(crate) fn expire(&self, now: UnixTime, watching_since: UnixTime) -> Vec<Change> {
        // A record can outlive a killed node by up to a week, so a node must also prove its key regularly.
        let over = |listing: &&Arc<Listing>| {
            let seen = listing.last_seen.secs().max(watching_since);
            listing.record.expires_at <= now || seen + self.config.node_timeout <= now
        };
        let nodes = self.nodes.values().filter(over).map(|listing| Change::Delist(listing.record.node));
        let leaves =
            self.leaves.iter().filter(|(_, stored)| stored.until <= now).map(|(id, _)| Change::DeleteLeave(*id));
        let removals = self.removals.iter().filter(|(_, stored)| stored.until <= now);
        nodes.chain(leaves).chain(removals.map(|(id, _)| Change::DeleteRemoval(*id))).collect()
    }

    /// Applies a change. Changes of another federation, from an old store, are ignored.
    pub(crate) fn apply(&mut self, change: Change) {
        let federation = self.config.federation;
        match change {
            Change::List(listing) if listing.record.federation == federation => {
                self.nodes.insert(listing.record.node, Arc::from(listing));
            }
            Change::StoreLeave(stored) if stored.leave.federation == federation => {
                self.leaves.insert(stored.leave.node, stored);
            }
            Change::StoreRemoval(stored) if stored.removal.federation == federation => {
                self.removals.insert(stored.removal.node, stored);
            }
            Change::List(_) | Change::StoreLeave(_) | Change::StoreRemoval(_) => {}
            Change::Delist(node) => {
                self.nodes.remove(&node);
            }
            Change::DeleteLeave(node) => {
                self.leaves.remove(&node);
            }
            Change::DeleteRemoval(node) => {
                self.removals.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests;
