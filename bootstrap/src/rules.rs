//! The rules of the registry: which record is accepted, what replaces what, when it expires, what a leave ends.
//!
//! Pure: time comes as an argument, changes come out as values that the owner stores before it applies them. Whether a
//! node proved its key when it was dialled back is known outside; here, `admit` means that it did.

use std::{collections::BTreeMap, time::Duration};

use chappe_common::{
    federation::FederationId,
    keys::NodeId,
    record::{MAX_CLOCK_SKEW, MAX_RECORD_LIFETIME, NodeLeave, RecordError, SignedRecord},
    signed::Signed,
    time::UnixTime,
};

/// Kept leaves for each node that may be listed. A node that comes and goes leaves one; the oldest make room.
const LEAVES_PER_NODE: usize = 4;

/// Milliseconds since 1970: what `/servers` and the directory's `seq` count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    /// The whole seconds, as the signed notes have them.
    pub(crate) const fn secs(self) -> UnixTime {
        UnixTime::from_secs(self.0 / 1000)
    }
}

/// A listed node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// What it says of itself.
    pub(crate) record: SignedRecord,
    /// When it was first listed, without a gap since.
    pub(crate) registered_at: Millis,
    /// When it last proved its key.
    pub(crate) last_seen: Millis,
}

/// A leave that is kept so that no record that it ended comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptLeave {
    /// The node's word.
    pub(crate) leave: Signed<NodeLeave>,
    /// When the last record that it ended will have expired.
    pub(crate) until: UnixTime,
}

/// What happens to the state. To be stored first and applied then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The node is listed with this record from now on.
    List(Listing),
    /// The node is not listed any more.
    Delist(NodeId),
    /// The leave is kept.
    KeepLeave(KeptLeave),
    /// The node's leave has nothing left to prevent.
    ForgetLeave(NodeId),
}

/// Why a record or a leave changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is of another federation.
    #[error("it is of another federation")]
    Federation,
    /// It was signed in the future.
    #[error("it was issued in the future; one of the two clocks is wrong")]
    Clock,
    /// Its time is over.
    #[error("it has expired; one of the two clocks may be wrong")]
    Expired,
    /// It claims to live for too long.
    #[error("it lives longer than is allowed")]
    Lifetime,
    /// A record or a leave with the same or a higher epoch and sequence is known.
    #[error("the same or a newer epoch and sequence is known")]
    Stale,
    /// No more nodes are listed.
    #[error("the registry is full")]
    Full,
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

/// All that the registry knows.
#[derive(Debug)]
pub(crate) struct Registry {
    federation: FederationId,
    max_nodes: usize,
    seen_within: Duration,
    started: UnixTime,
    nodes: BTreeMap<NodeId, Listing>,
    leaves: BTreeMap<NodeId, KeptLeave>,
}

impl Registry {
    /// An empty registry of `federation` that starts now and lists at most `max_nodes`, each while it was seen within
    /// `seen_within`.
    pub(crate) const fn new(
        federation: FederationId,
        max_nodes: usize,
        seen_within: Duration,
        started: UnixTime,
    ) -> Self {
        Self { federation, max_nodes, seen_within, started, nodes: BTreeMap::new(), leaves: BTreeMap::new() }
    }

    /// The federation.
    pub(crate) const fn federation(&self) -> FederationId {
        self.federation
    }

    /// The listed nodes, by key.
    pub(crate) fn listings(&self) -> impl ExactSizeIterator<Item = &Listing> {
        self.nodes.values()
    }

    /// Whether exactly this record is listed.
    pub(crate) fn lists(&self, record: &SignedRecord) -> bool {
        self.nodes.get(&record.node).is_some_and(|listing| listing.record.as_bytes() == record.as_bytes())
    }

    /// Whether `record` could be listed, were its node to prove its key.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn judge(&self, record: &SignedRecord, now: UnixTime) -> Result<(), Refusal> {
        record.check(self.federation, now)?;
        if self.leaves.get(&record.node).is_some_and(|kept| kept.leave.ends(record)) {
            return Err(Refusal::Stale);
        }
        if self.lists(record) {
            // The node's way to say that it is still there.
            return Ok(());
        }
        match self.nodes.get(&record.node) {
            Some(listing) if !record.supersedes(&listing.record) => Err(Refusal::Stale),
            Some(_) => Ok(()),
            None if self.nodes.len() >= self.max_nodes => Err(Refusal::Full),
            None => Ok(()),
        }
    }

    /// Lists a record whose node has proved its key.
    ///
    /// # Errors
    /// Says why not; while the node was dialled back, a newer record or a leave may have come.
    pub(crate) fn admit(&self, record: SignedRecord, now: Millis) -> Result<Change, Refusal> {
        self.judge(&record, now.secs())?;
        let registered_at = self.nodes.get(&record.node).map_or(now, |listing| listing.registered_at);
        // A leave from before stays until its own time: the listing may end before the records that it ended would.
        Ok(Change::List(Listing { record, registered_at, last_seen: now }))
    }

    /// Ends the listing of a node that leaves.
    ///
    /// # Errors
    /// The leave is of another federation, from the future, or older than what is listed.
    pub(crate) fn leave(&self, leave: Signed<NodeLeave>, now: UnixTime) -> Result<Vec<Change>, Refusal> {
        if leave.federation != self.federation {
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
        if self.leaves.len() >= self.max_nodes * LEAVES_PER_NODE && !self.leaves.contains_key(&leave.node) {
            let oldest = self.leaves.iter().min_by_key(|(_, kept)| kept.until).map(|(node, _)| *node);
            changes.extend(oldest.map(Change::ForgetLeave));
        }
        changes.push(Change::Delist(leave.node));
        changes.push(Change::KeepLeave(KeptLeave { leave, until }));
        Ok(changes)
    }

    /// What `now` ends.
    pub(crate) fn expire(&self, now: UnixTime) -> Vec<Change> {
        // A record outlives a node that was killed by up to a week; registering again is what says that it runs.
        // While this registry didn't run, nobody could.
        let over = |listing: &&Listing| {
            let seen = listing.last_seen.secs().max(self.started);
            listing.record.expires_at <= now || seen + self.seen_within <= now
        };
        let nodes = self.nodes.values().filter(over).map(|listing| Change::Delist(listing.record.node));
        let leaves = self.leaves.iter().filter(|(_, kept)| kept.until <= now).map(|(id, _)| Change::ForgetLeave(*id));
        nodes.chain(leaves).collect()
    }

    /// Puts a change into force. Changes of another federation, read from an old store, are passed over.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::List(listing) if listing.record.federation == self.federation => {
                self.nodes.insert(listing.record.node, listing);
            }
            Change::KeepLeave(kept) if kept.leave.federation == self.federation => {
                self.leaves.insert(kept.leave.node, kept);
            }
            Change::List(_) | Change::KeepLeave(_) => {}
            Change::Delist(node) => {
                self.nodes.remove(&node);
            }
            Change::ForgetLeave(node) => {
                self.leaves.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests;
