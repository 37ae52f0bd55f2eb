//! The signed records that this node knows: the only source of addresses to dial.

use chappe_common::{
    federation::FederationId,
    keys::NodeId,
    record::{NodeLeave, RecordError, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use dashmap::{DashMap, mapref::entry::Entry};

/// The most records kept: four times the members that one exchange can carry at the design's size.
const MAX_RECORDS: usize = 4096;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It is new, or newer than what was known.
    New,
    /// The same or a newer one was known.
    Known,
    /// It doesn't count.
    Refused(RecordError),
    /// The table is at its bound.
    Full,
}

/// Records by node.
#[derive(Debug)]
pub struct Records {
    federation: FederationId,
    known: DashMap<NodeId, SignedRecord>,
    /// The leaves, so that an older record doesn't come back by gossip. Bounded like the records: a leave is kept only
    /// for a node whose record was known.
    left: DashMap<NodeId, Signed<NodeLeave>>,
}

impl Records {
    /// No records, of this federation.
    pub fn new(federation: FederationId) -> Self {
        Self { federation, known: DashMap::new(), left: DashMap::new() }
    }

    /// Takes a verified record in, if it counts now and is newer.
    pub fn learn(&self, record: SignedRecord, now: UnixTime) -> Learned {
        if let Err(error) = record.check(self.federation, now) {
            return Learned::Refused(error);
        }
        if self.left.get(&record.node).is_some_and(|leave| leave.ends(&record)) {
            return Learned::Known;
        }
        let full = self.known.len() >= MAX_RECORDS;
        match self.known.entry(record.node) {
            Entry::Occupied(mut entry) if record.supersedes(entry.get()) => {
                entry.insert(record);
                Learned::New
            }
            Entry::Occupied(_) => Learned::Known,
            Entry::Vacant(_) if full => Learned::Full,
            Entry::Vacant(entry) => {
                entry.insert(record);
                Learned::New
            }
        }
    }

    /// Takes a verified leave in: ends the record it speaks of. Whether that was news.
    pub fn leave(&self, leave: Signed<NodeLeave>) -> bool {
        if leave.federation != self.federation {
            return false;
        }
        let ended = self.known.remove_if(&leave.node, |_, record| leave.ends(record)).is_some();
        if ended {
            self.left.insert(leave.node, leave);
        }
        ended
    }

    /// The record of a node, if it still counts.
    pub fn find(&self, node: &NodeId, now: UnixTime) -> Option<SignedRecord> {
        self.known.get(node).filter(|record| record.expires_at > now).map(|record| record.clone())
    }

    /// Whether exactly this or a newer record is known: checked before a signature is.
    pub fn knows(&self, node: &NodeId, epoch: u64, seq: u64) -> bool {
        self.known.get(node).is_some_and(|record| (record.epoch, record.seq) >= (epoch, seq))
    }

    /// All records that count now.
    pub fn all(&self, now: UnixTime) -> Vec<SignedRecord> {
        self.known.iter().filter(|record| record.expires_at > now).map(|record| record.clone()).collect()
    }

    /// Forgets what counts no more.
    pub fn expire(&self, now: UnixTime) {
        self.known.retain(|_, record| record.expires_at > now);
        // No record outlives its longest lifetime, and neither does the need to remember that it ended.
        let oldest = chappe_common::record::MAX_RECORD_LIFETIME;
        self.left.retain(|_, leave| leave.issued_at + oldest > now);
    }
}
