//! The registry's rules: which records are accepted, what replaces them, when they expire, and which nodes are public.
//!
//! Pure: time and randomness are arguments. Changes are returned as values, which the owner stores before it applies
//! them. Dialling happens outside: `admit` is called for a node that has proved its key.

pub(crate) mod caps;
mod listing;
mod probes;

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

pub(crate) use self::{
    caps::{Caps, counted_addrs, wide_network},
    listing::{Change, KeptLeave, KeptRemoval, Listing, Millis},
    probes::Probes,
};

/// Number of stored leaves for each node that may be listed. At the limit the oldest is dropped.
const LEAVES_PER_NODE: usize = 4;
/// Maximal number of stored removals, which take less than 1 MB. Only operators can add them.
const MAX_REMOVALS: usize = 4096;

/// Why the rules reject a record or another signed request. The state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
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

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Federation => Self::Federation,
            RecordError::Future => Self::Clock,
            RecordError::Expired => Self::Expired,
            RecordError::Lifetime => Self::Lifetime,
        }
    }
}

impl From<RemovalError> for Refusal {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Federation => Self::Federation,
            RemovalError::Signer => Self::Signer,
            RemovalError::Future => Self::Clock,
            RemovalError::Old => Self::Expired,
        }
    }
}

impl From<ListRequestError> for Refusal {
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
pub(crate) struct Bounds {
    pub(crate) federation: FederationId,
    /// The online key, which identifies this registry.
    pub(crate) online: PublicKey,
    /// The keys that may remove nodes: the roots and the online key.
    pub(crate) operators: Vec<PublicKey>,
    /// Maximal number of listed nodes.
    pub(crate) max_nodes: usize,
    /// A node is delisted if it has not proved its key for this time.
    pub(crate) seen_within: Duration,
    /// Limits for the nodes of one network.
    pub(crate) caps: Caps,
    /// Interval of probes to a node that answers.
    pub(crate) probe_every: Duration,
    /// After this number of consecutive failed probes a node is not public.
    pub(crate) max_failures: u8,
}

/// The registry's state.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    bounds: Bounds,
    started: UnixTime,
    nodes: BTreeMap<NodeId, Arc<Listing>>,
    leaves: BTreeMap<NodeId, KeptLeave>,
    removals: BTreeMap<NodeId, KeptRemoval>,
}

impl Registry {
    /// A state without nodes, for a process that started at `started`.
    pub(crate) const fn new(bounds: Bounds, started: UnixTime) -> Self {
        Self { bounds, started, nodes: BTreeMap::new(), leaves: BTreeMap::new(), removals: BTreeMap::new() }
    }

    /// The listed nodes by key.
    pub(crate) fn listings(&self) -> impl ExactSizeIterator<Item = &Arc<Listing>> {
        self.nodes.values()
    }

    /// The public nodes by key: all listed nodes except reserve nodes and unresponsive ones.
    ///
    /// If most nodes are unresponsive, the registry itself is probably cut off, so unresponsive nodes are included.
    pub(crate) fn public(&self) -> impl Iterator<Item = &Arc<Listing>> {
        let silent = self.nodes.values().filter(|listing| self.is_silent(listing)).count();
        let believed = silent * 2 <= self.nodes.len();
        let is_hidden =
            move |listing: &Arc<Listing>| listing.record.is_reserve() || (believed && self.is_silent(listing));
        self.nodes.values().filter(move |listing| !is_hidden(listing))
    }

    /// Whether the node has failed too many consecutive probes.
    pub(crate) fn is_silent(&self, listing: &Listing) -> bool {
        listing.probes.failures() >= self.bounds.max_failures
    }

    /// Whether exactly this record is listed.
    pub(crate) fn lists(&self, record: &SignedRecord) -> bool {
        self.nodes.get(&record.node).is_some_and(|listing| listing.record.as_bytes() == record.as_bytes())
    }

    /// Checks whether `record` can be listed, if its node proves its key.
    ///
    /// # Errors
    ///
    /// Why the record is rejected.
    pub(crate) fn judge(&self, record: &SignedRecord, now: UnixTime) -> Result<(), Refusal> {
        record.check(self.bounds.federation, now)?;
        if !self.may_name_its_urls(record) {
            return Err(Refusal::PrivateUrl);
        }
        if self.removals.get(&record.node).is_some_and(|kept| kept.removal.counts(now)) {
            return Err(Refusal::Removed);
        }
        if self.leaves.get(&record.node).is_some_and(|kept| kept.leave.ends(record)) {
            return Err(Refusal::Stale);
        }
        match self.nodes.get(&record.node) {
            // A node sends the same record again to show that it is still running.
            Some(listing) if !record.supersedes(&listing.record) && !self.lists(record) => return Err(Refusal::Stale),
            Some(_) => {}
            None if self.nodes.len() >= self.bounds.max_nodes => return Err(Refusal::Full),
            None => {}
        }
        if counted_addrs(record).any(|addr| self.has_room(record.node, addr.ip())) {
            Ok(())
        } else {
            Err(Refusal::NetworkFull)
        }
    }

    /// A private address refers to the reader's own network, so a public node must not name one: clients would connect
    /// to machines of their own network. A node with private addresses only, as in a test, may.
    fn may_name_its_urls(&self, record: &NodeRecord) -> bool {
        let is_private = |addr: &SocketAddr| !special::is_public(addr.ip()) || self.bounds.caps.are_exempt(addr.ip());
        record.quic_addrs.iter().all(is_private) || record.client_urls.iter().all(|url| special::is_public_url(url))
    }

    fn has_room(&self, node: NodeId, address: IpAddr) -> bool {
        // A listed node keeps its place there, even if the cap is lowered or reached.
        if self.nodes.get(&node).is_some_and(|listing| listing.proved == address) {
            return true;
        }
        let others = self.nodes.values().filter(|listing| listing.record.node != node);
        self.bounds.caps.have_room(address, others.map(|listing| listing.proved))
    }

    /// Lists a record whose node has proved its key at the address `proved`.
    ///
    /// # Errors
    ///
    /// Why the record is rejected. A newer record or a leave may have arrived during the dial-back.
    pub(crate) fn admit(&self, record: SignedRecord, proved: IpAddr, now: Millis) -> Result<Vec<Change>, Refusal> {
        self.judge(&record, now.secs())?;
        if !self.has_room(record.node, proved) {
            return Err(Refusal::NetworkFull);
        }
        let probes = Probes::first(now, self.bounds.probe_every);
        // An earlier leave is kept until it expires. The new listing may end before the records that the leave revoked
        // do.
        let listing = match self.nodes.get(&record.node) {
            Some(listing) => {
                let probes = if self.is_silent(listing) { probes } else { listing.probes };
                Listing { record, last_seen: now, proved, probes, ..(**listing).clone() }
            }
            None => {
                let (load, asked) = Default::default();
                Listing { record, registered_at: now, last_seen: now, proved, probes, load, asked }
            }
        };
        Ok(vec![Change::List(Box::new(listing))])
    }

    /// Delists a node that leaves.
    ///
    /// # Errors
    ///
    /// The leave is of another federation, from the future, or older than the listed record.
    pub(crate) fn leave(&self, leave: Signed<NodeLeave>, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        if leave.federation != self.bounds.federation {
            return Err(Refusal::Federation);
        }
        if leave.issued_at > now + MAX_CLOCK_SKEW {
            return Err(Refusal::Clock);
        }
        let Some(listing) = self.nodes.get(&leave.node) else {
            // Store nothing for keys that were never dialled, because anyone can create those.
            return Ok(Vec::new());
        };
        if !leave.ends(&listing.record) {
            return Err(Refusal::Stale);
        }
        let until = if (leave.epoch, leave.seq) == (listing.record.epoch, listing.record.seq) {
            listing.record.expires_at
        } else {
            // The leave also revokes records that were never sent here. They were issued before it.
            leave.issued_at + MAX_CLOCK_SKEW + MAX_RECORD_LIFETIME
        };
        // An earlier leave may have revoked records that live longer. The new one revokes them too.
        let until = self.leaves.get(&leave.node).map_or(until, |kept| until.max(kept.until));
        let mut changes = Vec::new();
        if self.leaves.len() >= self.bounds.max_nodes * LEAVES_PER_NODE && !self.leaves.contains_key(&leave.node) {
            let oldest = self.leaves.iter().min_by_key(|(_, kept)| kept.until).map(|(node, _)| *node);
            changes.extend(oldest.map(Change::ForgetLeave));
        }
        changes.push(Change::Delist(leave.node));
        changes.push(Change::KeepLeave(KeptLeave { leave, until }));
        Ok(changes)
    }

    /// Removes a node, or revokes a removal, for an operator.
    ///
    /// # Errors
    ///
    /// The removal is not valid here, or a later one is known.
    pub(crate) fn remove(&self, removal: Signed<NodeRemoval>, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        removal.check(self.bounds.federation, &self.bounds.operators, now)?;
        let kept = self.removals.get(&removal.node);
        match kept {
            Some(kept) if kept.removal.as_bytes() == removal.as_bytes() => return Ok(Vec::new()),
            Some(kept) if kept.removal.issued_at >= removal.issued_at => return Err(Refusal::Stale),
            None if self.removals.len() >= MAX_REMOVALS => return Err(Refusal::Full),
            _ => {}
        }
        let mut changes = Vec::new();
        if removal.counts(now) && self.nodes.contains_key(&removal.node) {
            changes.push(Change::Delist(removal.node));
        }
        let until = kept.map_or(removal.until, |kept| removal.until.max(kept.until));
        changes.push(Change::KeepRemoval(KeptRemoval { removal, until }));
        Ok(changes)
    }

    /// Checks that a list request is for this registry and for now.
    ///
    /// # Errors
    ///
    /// Why it is rejected.
    pub(crate) fn check_request(&self, request: &ListRequest, now: UnixTime) -> Result<(), Refusal> {
        Ok(request.check(self.bounds.federation, &self.bounds.online, now)?)
    }

    /// Records a listed node's list request, which is valid only once.
    ///
    /// # Errors
    ///
    /// The request is not valid here, was used before, or its key belongs to no listed node.
    pub(crate) fn ask(&self, request: &ListRequest, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        self.check_request(request, now)?;
        let listing = self.nodes.get(&NodeId::new(request.key)).ok_or(Refusal::Signer)?;
        if listing.asked >= request.seq {
            return Err(Refusal::Stale);
        }
        let listing = Listing { load: request.load, asked: request.seq, ..(**listing).clone() };
        Ok(vec![Change::List(Box::new(listing))])
    }

    /// Whether the key belongs to an operator.
    pub(crate) fn is_operator(&self, key: &PublicKey) -> bool {
        self.bounds.operators.contains(key)
    }

    /// The nodes whose next probe is due, the longest overdue first.
    pub(crate) fn due(&self, now: Millis) -> Vec<Arc<Listing>> {
        let mut due: Vec<_> = self.nodes.values().filter(|listing| listing.probes.due() <= now).cloned().collect();
        due.sort_by_key(|listing| listing.probes.due());
        due
    }

    /// Records the result of a node's probe. `jitter` from 0 to 1 spreads the next probes.
    pub(crate) fn probed(&self, node: NodeId, answered: bool, jitter: f64, now: Millis) -> Option<Change> {
        // The node may have left in the meantime. If it is not due any more, it has registered again, or another
        // registry on the same store has probed it. One lost packet must count once, however many registries see it.
        let listing = self.nodes.get(&node).filter(|listing| listing.probes.due() <= now)?;
        let probes = listing.probes.with(answered, now, self.bounds.probe_every, jitter);
        let last_seen = if answered { now } else { listing.last_seen };
        Some(Change::List(Box::new(Listing { probes, last_seen, ..(**listing).clone() })))
    }

    /// The changes for everything that expires at `now`.
    pub(crate) fn expire(&self, now: UnixTime) -> Vec<Change> {
        // A record can outlive a killed node by up to a week, so a node must also prove its key regularly. It could not
        // do so before this process started.
        let over = |listing: &&Arc<Listing>| {
            let seen = listing.last_seen.secs().max(self.started);
            listing.record.expires_at <= now || seen + self.bounds.seen_within <= now
        };
        let nodes = self.nodes.values().filter(over).map(|listing| Change::Delist(listing.record.node));
        let leaves = self.leaves.iter().filter(|(_, kept)| kept.until <= now).map(|(id, _)| Change::ForgetLeave(*id));
        let removals = self.removals.iter().filter(|(_, kept)| kept.until <= now);
        nodes.chain(leaves).chain(removals.map(|(id, _)| Change::ForgetRemoval(*id))).collect()
    }

    /// Applies a change. Changes of another federation, from an old store, are ignored.
    pub(crate) fn apply(&mut self, change: Change) {
        let federation = self.bounds.federation;
        match change {
            Change::List(listing) if listing.record.federation == federation => {
                self.nodes.insert(listing.record.node, Arc::from(listing));
            }
            Change::KeepLeave(kept) if kept.leave.federation == federation => {
                self.leaves.insert(kept.leave.node, kept);
            }
            Change::KeepRemoval(kept) if kept.removal.federation == federation => {
                self.removals.insert(kept.removal.node, kept);
            }
            Change::List(_) | Change::KeepLeave(_) | Change::KeepRemoval(_) => {}
            Change::Delist(node) => {
                self.nodes.remove(&node);
            }
            Change::ForgetLeave(node) => {
                self.leaves.remove(&node);
            }
            Change::ForgetRemoval(node) => {
                self.removals.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests;
