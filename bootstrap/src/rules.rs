//! The rules of the registry: which record is accepted, what replaces what, when it expires, what ends it, who is shown.
//!
//! Pure: time and chance come as arguments, changes come out as values that the owner stores before it applies them.
//! Whether a node proved its key when it was dialled is known outside; here, `admit` means that it did.

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

/// Kept leaves for each node that may be listed. A node that comes and goes leaves one; the oldest make room.
const LEAVES_PER_NODE: usize = 4;
/// Removals that are kept, under 1 MB. They are an operator's own; beyond so many the caps are what to set.
const MAX_REMOVALS: usize = 4096;

/// Why a record or a note changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is of another federation.
    #[error("it is of another federation")]
    Federation,
    /// It is for another registry.
    #[error("it is for another registry")]
    Registry,
    /// It was signed in the future.
    #[error("it was issued in the future; one of the two clocks is wrong")]
    Clock,
    /// Its time is over.
    #[error("it has expired; one of the two clocks may be wrong")]
    Expired,
    /// It names a URL in a private network, and is not in one.
    #[error("a client URL names a private or local host, and a QUIC address is public")]
    PrivateUrl,
    /// It claims to live for too long.
    #[error("it lives longer than is allowed")]
    Lifetime,
    /// A record or a note with the same or a higher epoch, sequence or time is known.
    #[error("the same or a newer epoch and sequence is known")]
    Stale,
    /// No more nodes are listed.
    #[error("the registry is full")]
    Full,
    /// Its network has as many listed nodes as it may.
    #[error("as many nodes of its network are listed as may be")]
    NetworkFull,
    /// The operator has removed the node.
    #[error("the operator of the registry has removed this node")]
    Removed,
    /// The key may not remove nodes, or see them all.
    #[error("the key may not do that here")]
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

/// What the rules are told by the config.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// The federation.
    pub(crate) federation: FederationId,
    /// The online key, by which this registry is known.
    pub(crate) online: PublicKey,
    /// Who may remove nodes: the roots and the online key.
    pub(crate) operators: Vec<PublicKey>,
    /// Nodes listed at once.
    pub(crate) max_nodes: usize,
    /// A node that has not proved its key for so long is delisted.
    pub(crate) seen_within: Duration,
    /// Nodes of one network.
    pub(crate) caps: Caps,
    /// How often a node that answers is probed.
    pub(crate) probe_every: Duration,
    /// After so many failed probes in a row a node is not public.
    pub(crate) max_failures: u8,
}

/// All that the registry knows.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    bounds: Bounds,
    started: UnixTime,
    nodes: BTreeMap<NodeId, Arc<Listing>>,
    leaves: BTreeMap<NodeId, KeptLeave>,
    removals: BTreeMap<NodeId, KeptRemoval>,
}

impl Registry {
    /// An empty registry that starts now.
    pub(crate) const fn new(bounds: Bounds, started: UnixTime) -> Self {
        Self { bounds, started, nodes: BTreeMap::new(), leaves: BTreeMap::new(), removals: BTreeMap::new() }
    }

    /// The listed nodes, by key.
    pub(crate) fn listings(&self) -> impl ExactSizeIterator<Item = &Arc<Listing>> {
        self.nodes.values()
    }

    /// The nodes that are shown to everybody, by key: not those in reserve, and not those that don't answer.
    ///
    /// Where most don't, it is more likely that this registry is cut off than they, and nobody is hidden for it.
    pub(crate) fn public(&self) -> impl Iterator<Item = &Arc<Listing>> {
        let silent = self.nodes.values().filter(|listing| self.is_silent(listing)).count();
        let believed = silent * 2 <= self.nodes.len();
        let is_hidden =
            move |listing: &Arc<Listing>| listing.record.is_reserve() || (believed && self.is_silent(listing));
        self.nodes.values().filter(move |listing| !is_hidden(listing))
    }

    /// Whether so many probes of the node failed that it counts as gone.
    pub(crate) fn is_silent(&self, listing: &Listing) -> bool {
        listing.probes.failures() >= self.bounds.max_failures
    }

    /// Whether exactly this record is listed.
    pub(crate) fn lists(&self, record: &SignedRecord) -> bool {
        self.nodes.get(&record.node).is_some_and(|listing| listing.record.as_bytes() == record.as_bytes())
    }

    /// Whether `record` could be listed, were its node to prove its key at the best of its addresses.
    ///
    /// # Errors
    /// Says why not.
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
            // The same again is the node's way to say that it is still there.
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

    /// What is at a private address is the network of whoever reads it: a node in the internet that names one has clients
    /// knock there. A node that is reached in a private network alone, as in a test, is in the one that it names.
    fn may_name_its_urls(&self, record: &NodeRecord) -> bool {
        let is_private = |addr: &SocketAddr| !special::is_public(addr.ip()) || self.bounds.caps.are_exempt(addr.ip());
        record.quic_addrs.iter().all(is_private) || record.client_urls.iter().all(|url| special::is_public_url(url))
    }

    fn has_room(&self, node: NodeId, address: IpAddr) -> bool {
        // Who is listed there stays: a cap that is lowered, or reached, drives nobody out.
        if self.nodes.get(&node).is_some_and(|listing| listing.proved == address) {
            return true;
        }
        let others = self.nodes.values().filter(|listing| listing.record.node != node);
        self.bounds.caps.have_room(address, others.map(|listing| listing.proved))
    }

    /// Lists a record whose node has proved its key at `proved`.
    ///
    /// # Errors
    /// Says why not; while the node was dialled back, a newer record or a leave may have come.
    pub(crate) fn admit(&self, record: SignedRecord, proved: IpAddr, now: Millis) -> Result<Vec<Change>, Refusal> {
        self.judge(&record, now.secs())?;
        if !self.has_room(record.node, proved) {
            return Err(Refusal::NetworkFull);
        }
        let probes = Probes::first(now, self.bounds.probe_every);
        // A leave from before stays until its own time: the listing may end before the records that it ended would.
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

    /// Ends the listing of a node that leaves.
    ///
    /// # Errors
    /// The leave is of another federation, from the future, or older than what is listed.
    pub(crate) fn leave(&self, leave: Signed<NodeLeave>, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        if leave.federation != self.bounds.federation {
            return Err(Refusal::Federation);
        }
        if leave.issued_at > now + MAX_CLOCK_SKEW {
            return Err(Refusal::Clock);
        }
        let Some(listing) = self.nodes.get(&leave.node) else {
            // Nothing ends, and nothing is kept for keys that were never dialled back: anyone can make those.
            return Ok(Vec::new());
        };
        if !leave.ends(&listing.record) {
            return Err(Refusal::Stale);
        }
        let until = if (leave.epoch, leave.seq) == (listing.record.epoch, listing.record.seq) {
            listing.record.expires_at
        } else {
            // It also ends records that were never seen here; they were issued before it.
            leave.issued_at + MAX_CLOCK_SKEW + MAX_RECORD_LIFETIME
        };
        // An earlier leave may have had records to end that live longer; the new one ends them too.
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

    /// Removes a node, or takes a removal back, by the word of an operator.
    ///
    /// # Errors
    /// The note doesn't count here, or a later one is known.
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

    /// Whether the request is for this registry, and for now.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn check_request(&self, request: &ListRequest, now: UnixTime) -> Result<(), Refusal> {
        Ok(request.check(self.bounds.federation, &self.bounds.online, now)?)
    }

    /// Takes a listed node's request for the list, which counts once.
    ///
    /// # Errors
    /// The request doesn't count here, was used before, or its key is no listed node's.
    pub(crate) fn ask(&self, request: &ListRequest, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        self.check_request(request, now)?;
        let listing = self.nodes.get(&NodeId::new(request.key)).ok_or(Refusal::Signer)?;
        if listing.asked >= request.seq {
            return Err(Refusal::Stale);
        }
        let listing = Listing { load: request.load, asked: request.seq, ..(**listing).clone() };
        Ok(vec![Change::List(Box::new(listing))])
    }

    /// Whether the key is an operator's.
    pub(crate) fn is_operator(&self, key: &PublicKey) -> bool {
        self.bounds.operators.contains(key)
    }

    /// The nodes whose next probe is due, those that waited for longest first.
    pub(crate) fn due(&self, now: Millis) -> Vec<Arc<Listing>> {
        let mut due: Vec<_> = self.nodes.values().filter(|listing| listing.probes.due() <= now).cloned().collect();
        due.sort_by_key(|listing| listing.probes.due());
        due
    }

    /// Takes in that a node that was due was probed. `jitter` from 0 to 1 spreads the next probes.
    pub(crate) fn probed(&self, node: NodeId, answered: bool, jitter: f64, now: Millis) -> Option<Change> {
        // It may have left meanwhile. Where it isn't due any more, another registry on the store has probed it as well, or
        // it has registered anew: a lost packet or a pause of a minute is one failure, however many registries saw it.
        let listing = self.nodes.get(&node).filter(|listing| listing.probes.due() <= now)?;
        let probes = listing.probes.with(answered, now, self.bounds.probe_every, jitter);
        let last_seen = if answered { now } else { listing.last_seen };
        Some(Change::List(Box::new(Listing { probes, last_seen, ..(**listing).clone() })))
    }

    /// What `now` ends.
    pub(crate) fn expire(&self, now: UnixTime) -> Vec<Change> {
        // A record outlives a node that was killed by up to a week; proving the key again is what says that it runs.
        // While this registry didn't run, nobody could.
        let over = |listing: &&Arc<Listing>| {
            let seen = listing.last_seen.secs().max(self.started);
            listing.record.expires_at <= now || seen + self.bounds.seen_within <= now
        };
        let nodes = self.nodes.values().filter(over).map(|listing| Change::Delist(listing.record.node));
        let leaves = self.leaves.iter().filter(|(_, kept)| kept.until <= now).map(|(id, _)| Change::ForgetLeave(*id));
        let removals = self.removals.iter().filter(|(_, kept)| kept.until <= now);
        nodes.chain(leaves).chain(removals.map(|(id, _)| Change::ForgetRemoval(*id))).collect()
    }

    /// Puts a change into force. Changes of another federation, read from an old store, are passed over.
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
