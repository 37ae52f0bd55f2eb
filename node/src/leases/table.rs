//! The table of leases that this node stores as a home.
//!
//! A lease is shown to others while its own node registers it. After it is withdrawn or no longer registered, it stays
//! as a tombstone until it expires, so that an older lease of the inbox cannot return. Bounded: at the bound, a new
//! lease evicts the oldest tombstone; if there is none, it is refused. After an eviction an older lease could return,
//! but only its own node can register it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::{
    keys::NodeId,
    lease::{Inbox, Lease, MAX_LEASE, SignedLease},
    record::MAX_CLOCK_SKEW,
    time::UnixTime,
};

use crate::limits::{member_quota::MemberQuota, shrink};

/// How far a lease may be ahead of this clock. The client's clock may be ahead of its node's, and the node's ahead of
/// this one.
const MAX_AHEAD: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

/// The node that registers something, as its link authenticates it.
#[derive(Clone, Copy, Debug)]
pub struct Registrant {
    /// The node's id.
    pub node: NodeId,
    /// The node's current epoch.
    pub epoch: u64,
}

/// Why a lease was not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseRefusal {
    /// A newer lease was registered before, and may be a tombstone now.
    Stale(Arc<SignedLease>),
    /// The lease is not its registrant's, has expired, is too far ahead, or was withdrawn.
    Invalid,
    /// The table is at its bound.
    Full,
}

#[derive(Debug)]
struct LeaseEntry {
    /// Shared with this node's session that has it, if there is one.
    lease: Arc<SignedLease>,
    /// When the lease expires.
    ends: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Registered by its node, and shown to others.
    Registered(LeaseRegistration),
    /// A tombstone: its node has stopped registering it.
    Expired,
    /// A tombstone: its node has withdrawn it. A registration that arrives after the withdrawal is refused.
    Withdrawn,
}

#[derive(Clone, Copy, Debug)]
struct LeaseRegistration {
    until: Instant,
    /// The node's epoch when it registered this. The registration ends with that run.
    epoch: u64,
}

impl LeaseEntry {
    /// Returns the registration, even if it has run out but was not expired yet.
    const fn registered(&self) -> Option<LeaseRegistration> {
        match self.state {
            State::Registered(registered) => Some(registered),
            State::Expired | State::Withdrawn => None,
        }
    }

    fn is_registered(&self, now: Instant) -> bool {
        self.registered().is_some_and(|registered| registered.until > now)
    }
}

/// The leases and tombstones of a home.
#[derive(Debug)]
pub struct LeaseTable {
    entries: HashMap<Inbox, LeaseEntry>,
    /// Number of tombstones.
    tombstones: usize,
    /// Tombstones with their expiry, the oldest first. Includes stale entries of leases that are no longer tombstones.
    tombstone_queue: VecDeque<(Instant, Inbox)>,
    /// Counts the leases and tombstones of each node.
    quota: MemberQuota,
    capacity: usize,
    keep_for: Duration,
}

impl LeaseTable {
    /// Creates a table of at most `capacity` leases, each registered for `keep_for` at a time.
    pub fn new(capacity: usize, keep_for: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            tombstones: 0,
            tombstone_queue: VecDeque::new(),
            quota: MemberQuota::new(capacity),
            capacity,
            keep_for,
        }
    }

    /// Sets the number of members, from which each member's quota follows.
    pub fn share_among(&mut self, members: usize, own: NodeId) {
        self.quota.divide(members, own);
    }

    /// Returns why a lease from this registrant would be refused, or `None` if it would be registered. Needs no
    /// signature check.
    pub fn refuses(&self, now: Instant, clock: UnixTime, from: Registrant, lease: &Lease) -> Option<LeaseRefusal> {
        let lasts = lease.expires_at.saturating_since(clock);
        // A lease for a year, or a `seq` of next year, would lock out the inbox's owner.
        let bounded = lasts <= MAX_LEASE + MAX_AHEAD && lease.seq / 1000 <= (clock + MAX_AHEAD).as_secs();
        if lease.node != from.node || lasts.is_zero() || !bounded {
            return Some(LeaseRefusal::Invalid);
        }
        if let Some(old) = self.entries.get(&lease.inbox) {
            if old.lease.seq > lease.seq && old.ends > now {
                return Some(LeaseRefusal::Stale(old.lease.clone()));
            }
            if old.lease.seq == lease.seq && matches!(old.state, State::Withdrawn) {
                return Some(LeaseRefusal::Invalid);
            }
            // Without this check, two nodes that move leases to each other could fill the table together.
            let moves = old.lease.node != from.node;
            return (moves && !self.quota.has_room(&from.node)).then_some(LeaseRefusal::Full);
        }
        let has_room = self.quota.has_room(&from.node) && (self.entries.len() < self.capacity || self.tombstones > 0);
        (!has_room).then_some(LeaseRefusal::Full)
    }

    /// Registers a lease. Returns the node of an older lease of the same inbox, if it is another node.
    ///
    /// # Errors
    /// See [`LeaseTable::refuses`].
    pub fn register(
        &mut self,
        now: Instant,
        clock: UnixTime,
        from: Registrant,
        lease: Arc<SignedLease>,
    ) -> Result<Option<NodeId>, LeaseRefusal> {
        if let Some(refused) = self.refuses(now, clock, from, &lease) {
            return Err(refused);
        }
        let lasts = lease.expires_at.saturating_since(clock);
        let displaced = self.entries.get(&lease.inbox).map(|old| old.lease.node).filter(|node| *node != from.node);
        if !self.entries.contains_key(&lease.inbox) && self.entries.len() >= self.capacity {
            self.evict_oldest_tombstone();
        }
        self.remove(&lease.inbox);
        self.quota.count_in(from.node);
        let state = State::Registered(LeaseRegistration { until: now + lasts.min(self.keep_for), epoch: from.epoch });
        self.entries.insert(lease.inbox, LeaseEntry { lease, ends: now + lasts, state });
        Ok(displaced)
    }

    fn remove(&mut self, inbox: &Inbox) {
        let Some(entry) = self.entries.remove(inbox) else { return };
        self.tombstones -= usize::from(entry.registered().is_none());
        self.quota.count_out(entry.lease.node);
    }

    fn evict_oldest_tombstone(&mut self) {
        while let Some(slot) = self.tombstone_queue.pop_front() {
            if is_tombstone(&self.entries, &slot) {
                return self.remove(&slot.1);
            }
        }
    }

    /// Removes stale entries from the queue.
    fn drop_stale_slots(&mut self) {
        self.tombstone_queue.retain(|slot| is_tombstone(&self.entries, slot));
        shrink::shrink_queue_if_sparse(&mut self.tombstone_queue);
    }

    /// Cleans up the queue once stale entries may outnumber the leases.
    fn bound_queue(&mut self) {
        if self.tombstone_queue.len() > 2 * self.entries.len() {
            self.drop_stale_slots();
        }
    }

    /// Withdraws a lease of node `from`, unless it is newer than `seq`.
    pub fn withdraw(&mut self, from: NodeId, inbox: &Inbox, seq: u64) {
        let Some(entry) =
            self.entries.get_mut(inbox).filter(|entry| entry.lease.node == from && entry.lease.seq <= seq)
        else {
            return;
        };
        let former = std::mem::replace(&mut entry.state, State::Withdrawn);
        if matches!(former, State::Registered(_)) {
            self.tombstones += 1;
            self.tombstone_queue.push_back((entry.ends, *inbox));
            self.bound_queue();
        }
    }

    /// Returns the lease of an inbox while it is registered.
    pub fn find(&self, now: Instant, inbox: &Inbox) -> Option<&Arc<SignedLease>> {
        self.entries.get(inbox).filter(|entry| entry.is_registered(now)).map(|entry| &entry.lease)
    }

    /// Returns the lease of an inbox, even if it is a tombstone.
    pub fn known(&self, inbox: &Inbox) -> Option<&Arc<SignedLease>> {
        self.entries.get(inbox).map(|entry| &entry.lease)
    }

    /// Ends everything that a node registered before `epoch`, because it went down or restarted.
    pub fn end_before(&mut self, node: NodeId, epoch: u64) {
        for (inbox, entry) in &mut self.entries {
            if entry.lease.node == node && entry.registered().is_some_and(|registered| registered.epoch < epoch) {
                entry.state = State::Expired;
                self.tombstones += 1;
                self.tombstone_queue.push_back((entry.ends, *inbox));
            }
        }
        self.bound_queue();
    }

    /// Ends registrations that were not renewed, and removes leases that have expired.
    pub fn expire(&mut self, now: Instant) {
        self.entries.retain(|inbox, entry| {
            if entry.ends <= now {
                self.tombstones -= usize::from(entry.registered().is_none());
                self.quota.count_out(entry.lease.node);
                return false;
            }
            if entry.registered().is_some() && !entry.is_registered(now) {
                entry.state = State::Expired;
                self.tombstones += 1;
                self.tombstone_queue.push_back((entry.ends, *inbox));
            }
            true
        });
        shrink::shrink_if_sparse(&mut self.entries);
        self.drop_stale_slots();
    }

    /// Returns the number of registered leases, as of the last [`LeaseTable::expire`].
    pub fn len(&self) -> usize {
        self.entries.len() - self.tombstones
    }

    /// Returns whether no lease is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns whether a queue entry still refers to a tombstone.
fn is_tombstone(entries: &HashMap<Inbox, LeaseEntry>, (ends, inbox): &(Instant, Inbox)) -> bool {
    entries.get(inbox).is_some_and(|entry| entry.registered().is_none() && entry.ends == *ends)
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        keys::{PublicKey, SecretKey},
        lease::{AccessToken, Lease},
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

    fn lease_with(inbox: u8, at: u8, change: impl FnOnce(&mut Lease)) -> Arc<SignedLease> {
        let key = SecretKey::from_bytes(&[inbox; 32]);
        let inbox = Inbox::new(key.public());
        let mut lease = Lease {
            inbox,
            node: node(at),
            session_key: [0; 32],
            access: AccessToken::from_bytes([9; 16]).hash(),
            seq: 5,
            expires_at: CLOCK + 10 * MINUTE,
        };
        change(&mut lease);
        Signed::sign(lease, &key).expect("a lease").into()
    }

    fn lease(inbox: u8, at: u8, seq: u64) -> Arc<SignedLease> {
        lease_with(inbox, at, |lease| lease.seq = seq)
    }

    fn table(capacity: usize) -> (LeaseTable, Instant) {
        (LeaseTable::new(capacity, 4 * MINUTE), Instant::now())
    }

    #[test]
    fn the_newest_lease_wins_and_its_former_node_is_named() {
        let (mut table, now) = table(10);
        let (old, new) = (lease(1, 1, 5), lease(1, 2, 6));
        assert_eq!(table.register(now, CLOCK, by(1), old.clone()), Ok(None));
        assert_eq!(table.register(now, CLOCK, by(2), new.clone()), Ok(Some(node(1))));
        assert_eq!(table.register(now, CLOCK, by(1), old), Err(LeaseRefusal::Stale(new.clone())));
        assert_eq!(table.find(now, &new.inbox), Some(&new));
    }

    #[test]
    fn only_the_leases_own_node_registers_or_withdraws_it() {
        let (mut table, now) = table(10);
        let lease = lease(1, 1, 5);
        assert_eq!(table.register(now, CLOCK, by(2), lease.clone()), Err(LeaseRefusal::Invalid));
        assert_eq!(table.register(now, CLOCK, by(1), lease.clone()), Ok(None));
        table.withdraw(node(2), &lease.inbox, 9);
        assert!(table.find(now, &lease.inbox).is_some());
        table.withdraw(node(1), &lease.inbox, 4);
        assert!(
            table.find(now, &lease.inbox).is_some(),
            "a late withdrawal of an older lease does not end the newer one"
        );
        table.withdraw(node(1), &lease.inbox, 5);
        assert!(table.find(now, &lease.inbox).is_none());
        assert_eq!(
            table.register(now, CLOCK, by(1), lease),
            Err(LeaseRefusal::Invalid),
            "a renewal that the withdrawal has overtaken"
        );
        assert_eq!(table.register(now, CLOCK, by(1), self::lease(1, 1, 6)), Ok(None));
    }

    #[test]
    fn one_member_does_not_fill_the_table_of_a_large_federation() {
        let (mut table, now) = table(1000);
        table.share_among(100, node(9));
        let many = |n: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_le_bytes());
            let key = SecretKey::from_bytes(&seed);
            let inbox = Inbox::new(key.public());
            let lease = Lease {
                inbox,
                node: node(1),
                session_key: [0; 32],
                access: AccessToken::from_bytes([9; 16]).hash(),
                seq: 5,
                expires_at: CLOCK + Duration::from_secs(60),
            };
            Signed::sign(lease, &key).expect("a lease").into()
        };
        let granted = (0..100).filter(|n| table.register(now, CLOCK, by(1), many(*n)) == Ok(None)).count();
        assert_eq!(granted, 80);
        assert_eq!(table.register(now, CLOCK, by(1), many(0)), Ok(None), "a registered lease can be renewed");
        assert_eq!(table.register(now, CLOCK, by(2), lease(200, 2, 5)), Ok(None));
        assert_eq!(
            table.register(now, CLOCK, by(1), lease(200, 1, 6)),
            Err(LeaseRefusal::Full),
            "leases taken over from others count too"
        );
        // Expired leases free their quota.
        table.expire(now + Duration::from_secs(60));
        assert_eq!(table.register(now, CLOCK, by(1), many(90)), Ok(None));
    }

    #[test]
    fn a_lease_ends_when_it_expires_or_is_not_registered_again() {
        let (mut table, now) = table(10);
        let lease = lease(1, 1, 5);
        assert_eq!(table.register(now, CLOCK + 10 * MINUTE, by(1), lease.clone()), Err(LeaseRefusal::Invalid));
        assert_eq!(table.register(now, CLOCK + 9 * MINUTE, by(1), lease.clone()), Ok(None));
        assert!(table.find(now + MINUTE, &lease.inbox).is_none());
        table.register(now, CLOCK, by(1), lease.clone()).expect("registered");
        assert!(table.find(now + 3 * MINUTE, &lease.inbox).is_some());
        assert!(table.find(now + 4 * MINUTE, &lease.inbox).is_none());
        assert_eq!(table.register(now + 5 * MINUTE, CLOCK + 5 * MINUTE, by(1), lease.clone()), Ok(None));
        assert!(table.find(now + 5 * MINUTE, &lease.inbox).is_some(), "a slow node can register it again");
        table.expire(now + 9 * MINUTE);
        assert!(table.is_empty());
    }

    #[test]
    fn an_older_lease_does_not_come_back_when_the_newer_one_is_gone() {
        let ends: [fn(&mut LeaseTable, Instant, &SignedLease) -> Instant; 3] = [
            |table, now, newer| {
                table.withdraw(newer.node, &newer.inbox, newer.seq);
                now
            },
            |table, now, _| {
                // It is not registered again.
                table.expire(now + 5 * MINUTE);
                now + 5 * MINUTE
            },
            |table, now, newer| {
                // Its node goes down.
                table.end_before(newer.node, 2);
                now
            },
        ];
        for end in ends {
            let (mut table, now) = table(10);
            let older = lease_with(1, 1, |lease| lease.expires_at = CLOCK + 30 * MINUTE);
            let newer = lease(1, 2, 6);
            table.register(now, CLOCK, by(1), older.clone()).expect("registered");
            table.register(now, CLOCK, by(2), newer.clone()).expect("registered");
            let now = end(&mut table, now, &newer);
            assert_eq!((table.find(now, &newer.inbox), table.len()), (None, 0));
            assert_eq!(table.register(now, CLOCK, by(1), older.clone()), Err(LeaseRefusal::Stale(newer.clone())));
            assert_eq!(table.find(now, &newer.inbox), None);
            // The tombstone lasts until the lease expires, and no longer.
            let later = now + 10 * MINUTE;
            table.expire(later);
            assert_eq!(table.register(later, CLOCK + 15 * MINUTE, by(1), older), Ok(None));
        }
    }

    #[test]
    fn a_full_table_evicts_tombstones_first() {
        let (mut table, now) = table(2);
        assert_eq!(table.register(now, CLOCK, by(1), lease(1, 1, 5)), Ok(None));
        assert_eq!(table.register(now, CLOCK, by(1), lease(2, 1, 5)), Ok(None));
        assert_eq!(table.register(now, CLOCK, by(1), lease(3, 1, 5)), Err(LeaseRefusal::Full));
        assert_eq!(table.register(now, CLOCK, by(1), lease(1, 1, 6)), Ok(None), "a registered lease can be renewed");
        table.withdraw(node(1), &lease(2, 1, 5).inbox, 5);
        assert_eq!(table.register(now, CLOCK, by(1), lease(3, 1, 5)), Ok(None));
        assert_eq!(table.register(now, CLOCK, by(1), lease(4, 1, 5)), Err(LeaseRefusal::Full));
        assert_eq!((table.len(), table.entries.len()), (2, 2));
    }

    #[test]
    fn the_oldest_tombstone_is_evicted_first_and_a_returning_lease_leaves_no_slot_behind() {
        let (mut table, mut now) = table(3);
        for seq in 5..105 {
            now += Duration::from_millis(1);
            for inbox in 1..=3 {
                assert_eq!(table.register(now, CLOCK, by(1), lease(inbox, 1, seq)), Ok(None));
            }
            for inbox in [2, 1] {
                table.withdraw(node(1), &lease(inbox, 1, seq).inbox, seq);
            }
            assert!(table.tombstone_queue.len() <= 2 * 3 + 1);
        }
        assert_eq!((table.len(), table.entries.len()), (1, 3));
        for (new, left) in [(4, 2), (5, 1)] {
            assert_eq!(table.register(now, CLOCK, by(1), lease(new, 1, 5)), Ok(None));
            assert_eq!(table.known(&lease(left, 1, 5).inbox), None);
        }
        assert_eq!(table.register(now, CLOCK, by(1), lease(6, 1, 5)), Err(LeaseRefusal::Full));
        assert_eq!((table.len(), table.tombstones), (3, 0));
    }

    #[test]
    fn a_lease_that_lasts_too_long_or_has_a_seq_from_the_future_is_refused() {
        let (mut table, now) = table(2);
        let long = |lasts: Duration| lease_with(1, 1, |lease| lease.expires_at = CLOCK + lasts);
        assert_eq!(table.register(now, CLOCK, by(1), long(MAX_LEASE + MAX_AHEAD)), Ok(None));
        let longer = long(MAX_LEASE + MAX_AHEAD + Duration::from_secs(1));
        assert_eq!(table.register(now, CLOCK, by(1), longer), Err(LeaseRefusal::Invalid));
        assert_eq!(table.register(now, CLOCK, by(1), lease(1, 1, u64::MAX)), Err(LeaseRefusal::Invalid));
    }

    #[test]
    fn registrations_of_a_former_run_end_and_those_of_the_new_run_stay() {
        let (mut table, now) = table(10);
        table.register(now, CLOCK, by(1), lease(1, 1, 5)).expect("registered");
        table.register(now, CLOCK, by(2), lease(2, 2, 5)).expect("registered");
        // The news of the restart arrives after requests of the restarted node.
        table.register(now, CLOCK, Registrant { node: node(1), epoch: 2 }, lease(3, 1, 6)).expect("registered");
        table.end_before(node(1), 2);
        assert_eq!(table.len(), 2);
        assert!(table.find(now, &lease(1, 1, 5).inbox).is_none());
        assert_eq!(table.register(now, CLOCK, Registrant { node: node(1), epoch: 2 }, lease(1, 1, 5)), Ok(None));
    }
}
