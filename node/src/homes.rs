//! What this node keeps for others as their home: leases and pairing codes.
//!
//! Pure: the caller gives the time. Bounded: at the bound new entries are refused and old ones stay. Everything here
//! is soft state that its edge node registers again; nothing is on disk.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Inbox, SignedLease},
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

use crate::session::SessionId;

/// Where a pairing code is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeHolder {
    /// The node of the client.
    pub(crate) node: NodeId,
    /// The client's session there.
    pub(crate) session: SessionId,
}

/// Who registers something: the node that a link proves, in its present epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registrant {
    /// The node.
    pub(crate) node: NodeId,
    /// Its epoch.
    pub(crate) epoch: u64,
}

/// What became of a lease that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is kept. The node that had an older one of the same inbox, if that was another.
    Kept(Option<NodeId>),
    /// A newer one is kept already.
    Stale(SignedLease),
    /// Only the lease's own node may register it, and only while it lasts.
    Refused,
    /// The table is at its bound.
    Full,
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
    leases: HashMap<Inbox, Kept<SignedLease>>,
    codes: HashMap<PairingCode, Kept<CodeHolder>>,
    capacity: usize,
    keep_for: Duration,
}

impl HomeTable {
    /// A table of at most `capacity` leases and as many codes, each kept for `keep_for` after it was registered.
    pub(crate) fn new(capacity: usize, keep_for: Duration) -> Self {
        Self { leases: HashMap::new(), codes: HashMap::new(), capacity, keep_for }
    }

    /// Keeps a lease that `from` registers.
    pub(crate) fn put_lease(&mut self, now: Instant, clock: UnixTime, from: Registrant, lease: SignedLease) -> Put {
        let Registrant { node: from, epoch } = from;
        if lease.node != from || lease.expires_at <= clock {
            return Put::Refused;
        }
        let lasts = lease.expires_at.saturating_since(clock);
        let until = now + lasts.min(self.keep_for);
        let full = self.leases.len() >= self.capacity;
        match self.leases.entry(lease.inbox) {
            Entry::Occupied(mut entry) => {
                let old = entry.get();
                if old.value.seq > lease.seq && old.until > now {
                    return Put::Stale(old.value.clone());
                }
                let displaced = (old.value.node != from).then_some(old.value.node);
                entry.insert(Kept { value: lease, until, epoch });
                Put::Kept(displaced)
            }
            Entry::Vacant(_) if full => Put::Full,
            Entry::Vacant(entry) => {
                entry.insert(Kept { value: lease, until, epoch });
                Put::Kept(None)
            }
        }
    }

    /// Drops a lease that `from` registered, unless a newer one than `seq` is kept.
    pub(crate) fn drop_lease(&mut self, from: NodeId, inbox: &Inbox, seq: u64) {
        if let Entry::Occupied(entry) = self.leases.entry(*inbox)
            && entry.get().value.node == from
            && entry.get().value.seq <= seq
        {
            entry.remove();
        }
    }

    /// The lease of an inbox.
    pub(crate) fn lease(&self, now: Instant, inbox: &Inbox) -> Option<&SignedLease> {
        self.leases.get(inbox).filter(|kept| kept.until > now).map(|kept| &kept.value)
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
        self.leases.retain(|_, kept| kept.value.node != node || kept.epoch >= epoch);
        self.codes.retain(|_, kept| kept.value.node != node || kept.epoch >= epoch);
    }

    /// Forgets what nobody has registered again.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.leases.retain(|_, kept| kept.until > now);
        self.codes.retain(|_, kept| kept.until > now);
    }

    /// How many leases and how many codes are kept.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.leases.len(), self.codes.len())
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        keys::{PublicKey, SecretKey},
        lease::Lease,
        signed::Signed,
    };

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const CLOCK: UnixTime = UnixTime::from_secs(1_000_000);

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    fn by(n: u8) -> Registrant {
        Registrant { node: node(n), epoch: 1 }
    }

    fn lease(inbox: u8, at: NodeId, seq: u64) -> SignedLease {
        let key = SecretKey::from_bytes(&[inbox; 32]);
        let lease = Lease {
            inbox: Inbox::new(key.public()),
            node: at,
            session_key: [0; 32],
            seq,
            expires_at: CLOCK + 10 * MINUTE,
        };
        Signed::sign(lease, &key).expect("a lease")
    }

    fn holder(n: u8) -> CodeHolder {
        CodeHolder { node: node(n), session: SessionId::from_raw(u64::from(n)) }
    }

    #[test]
    fn the_newest_lease_wins_and_its_former_node_is_named() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        let (old, new) = (lease(1, node(1), 5), lease(1, node(2), 6));
        assert_eq!(table.put_lease(now, CLOCK, by(1), old.clone()), Put::Kept(None));
        assert_eq!(table.put_lease(now, CLOCK, by(2), new.clone()), Put::Kept(Some(node(1))));
        assert_eq!(table.put_lease(now, CLOCK, by(1), old), Put::Stale(new.clone()));
        assert_eq!(table.lease(now, &new.inbox), Some(&new));
    }

    #[test]
    fn only_the_leases_own_node_registers_or_drops_it() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        let lease = lease(1, node(1), 5);
        assert_eq!(table.put_lease(now, CLOCK, by(2), lease.clone()), Put::Refused);
        assert_eq!(table.put_lease(now, CLOCK, by(1), lease.clone()), Put::Kept(None));
        table.drop_lease(node(2), &lease.inbox, 9);
        assert!(table.lease(now, &lease.inbox).is_some());
        table.drop_lease(node(1), &lease.inbox, 4);
        assert!(table.lease(now, &lease.inbox).is_some(), "a late drop of an older lease ends the newer one");
        table.drop_lease(node(1), &lease.inbox, 5);
        assert!(table.lease(now, &lease.inbox).is_none());
    }

    #[test]
    fn a_lease_ends_when_it_expires_or_is_not_registered_again() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        let lease = lease(1, node(1), 5);
        assert_eq!(table.put_lease(now, CLOCK + 10 * MINUTE, by(1), lease.clone()), Put::Refused);
        assert_eq!(table.put_lease(now, CLOCK + 9 * MINUTE, by(1), lease.clone()), Put::Kept(None));
        assert!(table.lease(now + MINUTE, &lease.inbox).is_none());
        table.put_lease(now, CLOCK, by(1), lease.clone());
        assert!(table.lease(now + 3 * MINUTE, &lease.inbox).is_some());
        assert!(table.lease(now + 4 * MINUTE, &lease.inbox).is_none());
        table.expire(now + 4 * MINUTE);
        assert_eq!(table.len(), (0, 0));
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
    fn a_full_table_refuses_new_entries_and_keeps_the_old() {
        let mut table = HomeTable::new(1, 4 * MINUTE);
        let now = Instant::now();
        assert_eq!(table.put_lease(now, CLOCK, by(1), lease(1, node(1), 5)), Put::Kept(None));
        assert_eq!(table.put_lease(now, CLOCK, by(1), lease(2, node(1), 5)), Put::Full);
        assert_eq!(table.put_lease(now, CLOCK, by(1), lease(1, node(1), 6)), Put::Kept(None));
        assert_eq!(table.claim_code(now, PairingCode::from_random(1), holder(1), 1), Claim::Granted);
        assert_eq!(table.claim_code(now, PairingCode::from_random(2), holder(1), 1), Claim::Full);
    }

    #[test]
    fn all_that_a_downed_node_registered_is_forgotten() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        table.put_lease(now, CLOCK, by(1), lease(1, node(1), 5));
        table.put_lease(now, CLOCK, by(2), lease(2, node(2), 5));
        table.claim_code(now, PairingCode::from_random(1), holder(1), 1);
        table.drop_before(node(1), 2);
        assert_eq!(table.len(), (1, 0));
    }

    #[test]
    fn what_a_restarted_node_has_registered_anew_stays() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        table.put_lease(now, CLOCK, by(1), lease(1, node(1), 5));
        // The news of the restart comes after the restarted node's own words.
        table.put_lease(now, CLOCK, Registrant { node: node(1), epoch: 2 }, lease(2, node(1), 6));
        table.claim_code(now, PairingCode::from_random(1), holder(1), 2);
        table.drop_before(node(1), 2);
        assert_eq!(table.len(), (1, 1));
    }
}
