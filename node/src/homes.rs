//! What this node keeps for others as their home: pairing codes, and the leases of [`LeaseTable`].
//!
//! Pure: the caller gives the time. Bounded: at the bound new entries are refused and old ones stay. Everything here
//! is soft state that its edge node registers again; nothing is on disk.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use chappe_common::{code::PairingCode, keys::NodeId};
use serde::{Deserialize, Serialize};

use crate::{leases::table::LeaseTable, session::SessionId};

/// Where a pairing code is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeHolder {
    /// The node of the client.
    pub(crate) node: NodeId,
    /// The client's session there.
    pub(crate) session: SessionId,
}

/// What became of a code that was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Claim {
    /// It is the claimer's.
    Granted,
    /// Another session has it.
    Taken,
    /// The table is at its bound.
    Full,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    until: Instant,
    /// The epoch of the node when it registered this: what a former self registered ends with it.
    epoch: u64,
}

/// The leases and codes of which this node is a home.
#[derive(Debug)]
pub(crate) struct HomeTable {
    /// The leases.
    pub(crate) leases: LeaseTable,
    codes: HashMap<PairingCode, Kept<CodeHolder>>,
    capacity: usize,
    keep_for: Duration,
}

impl HomeTable {
    /// A table of at most `capacity` leases and as many codes, each kept for `keep_for` after it was registered.
    pub(crate) fn new(capacity: usize, keep_for: Duration) -> Self {
        Self { leases: LeaseTable::new(capacity, keep_for), codes: HashMap::new(), capacity, keep_for }
    }

    /// Gives a code to a session of a node in this epoch, or keeps it there for longer.
    pub(crate) fn claim_code(&mut self, now: Instant, code: PairingCode, holder: CodeHolder, epoch: u64) -> Claim {
        let until = now + self.keep_for;
        let full = self.codes.len() >= self.capacity;
        match self.codes.entry(code) {
            Entry::Occupied(mut entry) => {
                if entry.get().value != holder && entry.get().until > now {
                    return Claim::Taken;
                }
                entry.insert(Kept { value: holder, until, epoch });
                Claim::Granted
            }
            Entry::Vacant(_) if full => Claim::Full,
            Entry::Vacant(entry) => {
                entry.insert(Kept { value: holder, until, epoch });
                Claim::Granted
            }
        }
    }

    /// Gives a code back.
    pub(crate) fn drop_code(&mut self, code: &PairingCode, holder: CodeHolder) {
        if let Entry::Occupied(entry) = self.codes.entry(*code)
            && entry.get().value == holder
        {
            entry.remove();
        }
    }

    /// Where a code is registered.
    pub(crate) fn code(&self, now: Instant, code: &PairingCode) -> Option<CodeHolder> {
        self.codes.get(code).filter(|kept| kept.until > now).map(|kept| kept.value)
    }

    /// Forgets the codes of a node that doesn't answer any more: its clients will ask for them elsewhere.
    pub(crate) fn drop_codes_of(&mut self, node: NodeId) {
        self.codes.retain(|_, kept| kept.value.node != node);
    }

    /// Forgets all that a node registered before `epoch`: it went down, or has started anew.
    pub(crate) fn drop_before(&mut self, node: NodeId, epoch: u64) {
        self.leases.end_before(node, epoch);
        self.codes.retain(|_, kept| kept.value.node != node || kept.epoch >= epoch);
    }

    /// Forgets what nobody has registered again.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.leases.expire(now);
        self.codes.retain(|_, kept| kept.until > now);
    }

    /// How many leases and how many codes are kept.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.leases.len(), self.codes.len())
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    fn holder(n: u8) -> CodeHolder {
        CodeHolder { node: node(n), session: SessionId::from_raw(u64::from(n)) }
    }

    #[test]
    fn a_code_belongs_to_one_session_until_it_is_given_back_or_forgotten() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        let code = PairingCode::from_random(7);
        assert_eq!(table.claim_code(now, code, holder(1), 1), Claim::Granted);
        assert_eq!(table.claim_code(now, code, holder(1), 1), Claim::Granted);
        assert_eq!(table.claim_code(now, code, holder(2), 1), Claim::Taken);
        table.drop_code(&code, holder(2));
        assert_eq!(table.code(now, &code), Some(holder(1)));
        table.drop_code(&code, holder(1));
        assert_eq!(table.claim_code(now, code, holder(2), 1), Claim::Granted);
        assert_eq!(table.claim_code(now + 5 * MINUTE, code, holder(1), 1), Claim::Granted);
    }

    #[test]
    fn a_full_table_refuses_new_codes_and_keeps_the_old() {
        let mut table = HomeTable::new(1, 4 * MINUTE);
        let now = Instant::now();
        assert_eq!(table.claim_code(now, PairingCode::from_random(1), holder(1), 1), Claim::Granted);
        assert_eq!(table.claim_code(now, PairingCode::from_random(2), holder(1), 1), Claim::Full);
    }

    #[test]
    fn the_codes_of_a_former_self_are_forgotten_and_those_that_it_claimed_anew_stay() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        table.claim_code(now, PairingCode::from_random(1), holder(1), 1);
        table.claim_code(now, PairingCode::from_random(2), holder(2), 1);
        // The news of the restart comes after the restarted node's own words.
        table.claim_code(now, PairingCode::from_random(3), holder(1), 2);
        table.drop_before(node(1), 2);
        assert_eq!(table.len(), (0, 2));
    }
}
