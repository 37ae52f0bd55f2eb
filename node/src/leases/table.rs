//! The leases of which this node is a home.
//!
//! A lease is kept while its own node registers it. Once it is withdrawn, or not registered again, nobody is told of it
//! any more; it is remembered until it ends by itself all the same, so that an older one of the same inbox does not
//! come back. Bounded: at the bound a new lease takes the place of the one that has only been remembered for longest, and
//! where none is it is refused. What is forgotten so early could be replayed by the node of an older lease alone.

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

/// How far a lease may be ahead of this clock: the client's may be ahead of its node's, and that one of this.
const MAX_AHEAD: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

/// Who registers something: the node that a link proves, in its present epoch.
#[derive(Clone, Copy, Debug)]
pub struct Registrant {
    /// The node.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: u64,
}

/// Why a lease that was put is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A newer one was registered before, whether it still is or not.
    Stale(Arc<SignedLease>),
    /// Only the lease's own node may register it, only while it lasts, and not once it has taken it back.
    Invalid,
    /// The table is at its bound.
    Full,
}

#[derive(Debug)]
struct Kept {
    /// Shared with the session here that has it, where there is one.
    lease: Arc<SignedLease>,
    /// When it ends by itself.
    ends: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Its node registers it, and others are told of it.
    Registered(Registered),
    /// Its node has stopped registering it. It is remembered, so that an older lease can't take its place.
    Expired,
    /// Its node has withdrawn it. A registration that arrives after the withdrawal doesn't bring it back.
    Withdrawn,
}

#[derive(Clone, Copy, Debug)]
struct Registered {
    until: Instant,
    /// The epoch of the node when it registered this: what a former self registered ends with it.
    epoch: u64,
}

impl Kept {
    /// The registration, also when it has run out and was not expired yet.
    const fn registered(&self) -> Option<Registered> {
        match self.state {
            State::Registered(registered) => Some(registered),
            State::Expired | State::Withdrawn => None,
        }
    }

    fn is_registered(&self, now: Instant) -> bool {
        self.registered().is_some_and(|registered| registered.until > now)
    }
}

/// The leases of which this node is a home.
#[derive(Debug)]
pub struct LeaseTable {
    kept: HashMap<Inbox, Kept>,
    /// How many are only remembered.
    remembered: usize,
    /// Those, the one that has been for longest first, with when they end; among them some that are so no more.
    oldest: VecDeque<(Instant, Inbox)>,
    /// How many leases of each node are kept or remembered.
    shares: MemberQuota,
    capacity: usize,
    keep_for: Duration,
}

impl LeaseTable {
    /// A table of at most `capacity` leases, each kept for `keep_for` after it was registered.
    pub fn new(capacity: usize, keep_for: Duration) -> Self {
        Self {
            kept: HashMap::new(),
            remembered: 0,
            oldest: VecDeque::new(),
            shares: MemberQuota::new(capacity),
            capacity,
            keep_for,
        }
    }

    /// Says among how many members the table is shared, so that none of them fills it.
    pub fn share_among(&mut self, members: usize, own: NodeId) {
        self.shares.divide(members, own);
    }

    /// Why a lease that `from` registers would not be kept; `None`: it would be. Its signature need not be checked for that.
    pub fn refuses(&self, now: Instant, clock: UnixTime, from: Registrant, lease: &Lease) -> Option<Refused> {
        let lasts = lease.expires_at.saturating_since(clock);
        // A lease for a year, or a `seq` from the next one, would shut its inbox's owner out.
        let bounded = lasts <= MAX_LEASE + MAX_AHEAD && lease.seq / 1000 <= (clock + MAX_AHEAD).as_secs();
        if lease.node != from.node || lasts.is_zero() || !bounded {
            return Some(Refused::Invalid);
        }
        if let Some(old) = self.kept.get(&lease.inbox) {
            if old.lease.seq > lease.seq && old.ends > now {
                return Some(Refused::Stale(old.lease.clone()));
            }
            if old.lease.seq == lease.seq && matches!(old.state, State::Withdrawn) {
                return Some(Refused::Invalid);
            }
            // Two that hand leases to one another would else fill the table together.
            let moves = old.lease.node != from.node;
            return (moves && !self.shares.has_room(&from.node)).then_some(Refused::Full);
        }
        let has_room = self.shares.has_room(&from.node) && (self.kept.len() < self.capacity || self.remembered > 0);
        (!has_room).then_some(Refused::Full)
    }

    /// Keeps a lease that `from` registers. Gives back the node that had an older one of the same inbox, if that was another.
    ///
    /// # Errors
    /// As [`LeaseTable::refuses`] says.
    pub fn put(
        &mut self,
        now: Instant,
        clock: UnixTime,
        from: Registrant,
        lease: Arc<SignedLease>,
    ) -> Result<Option<NodeId>, Refused> {
        if let Some(refused) = self.refuses(now, clock, from, &lease) {
            return Err(refused);
        }
        let lasts = lease.expires_at.saturating_since(clock);
        let displaced = self.kept.get(&lease.inbox).map(|old| old.lease.node).filter(|node| *node != from.node);
        if !self.kept.contains_key(&lease.inbox) && self.kept.len() >= self.capacity {
            self.forget_oldest();
        }
        self.forget(&lease.inbox);
        self.shares.count_in(from.node);
        let state = State::Registered(Registered { until: now + lasts.min(self.keep_for), epoch: from.epoch });
        self.kept.insert(lease.inbox, Kept { lease, ends: now + lasts, state });
        Ok(displaced)
    }

    fn forget(&mut self, inbox: &Inbox) {
        let Some(kept) = self.kept.remove(inbox) else { return };
        self.remembered -= usize::from(kept.registered().is_none());
        self.shares.count_out(kept.lease.node);
    }

    fn forget_oldest(&mut self) {
        while let Some(entry) = self.oldest.pop_front() {
            if is_remembered(&self.kept, &entry) {
                return self.forget(&entry.1);
            }
        }
    }

    /// Takes out the entries of what is remembered no more.
    fn tidy_oldest(&mut self) {
        self.oldest.retain(|entry| is_remembered(&self.kept, entry));
        shrink::shrink_queue_if_sparse(&mut self.oldest);
    }

    /// The same, once they may be as many as the leases.
    fn bound_oldest(&mut self) {
        if self.oldest.len() > 2 * self.kept.len() {
            self.tidy_oldest();
        }
    }

    /// Withdraws a lease that `from` registered, unless a newer one than `seq` is kept.
    pub fn withdraw(&mut self, from: NodeId, inbox: &Inbox, seq: u64) {
        let Some(kept) = self.kept.get_mut(inbox).filter(|kept| kept.lease.node == from && kept.lease.seq <= seq)
        else {
            return;
        };
        let former = std::mem::replace(&mut kept.state, State::Withdrawn);
        if matches!(former, State::Registered(_)) {
            self.remembered += 1;
            self.oldest.push_back((kept.ends, *inbox));
            self.bound_oldest();
        }
    }

    /// The lease of an inbox, while it is registered.
    pub fn find(&self, now: Instant, inbox: &Inbox) -> Option<&Arc<SignedLease>> {
        self.kept.get(inbox).filter(|kept| kept.is_registered(now)).map(|kept| &kept.lease)
    }

    /// What is kept of an inbox, or only remembered.
    pub fn known(&self, inbox: &Inbox) -> Option<&Arc<SignedLease>> {
        self.kept.get(inbox).map(|kept| &kept.lease)
    }

    /// Ends all that a node registered before `epoch`: it went down, or has started anew.
    pub fn end_before(&mut self, node: NodeId, epoch: u64) {
        for (inbox, kept) in &mut self.kept {
            if kept.lease.node == node && kept.registered().is_some_and(|registered| registered.epoch < epoch) {
                kept.state = State::Expired;
                self.remembered += 1;
                self.oldest.push_back((kept.ends, *inbox));
            }
        }
        self.bound_oldest();
    }

    /// Ends what nobody has registered again, and forgets what has ended by itself.
    pub fn expire(&mut self, now: Instant) {
        self.kept.retain(|inbox, kept| {
            if kept.ends <= now {
                self.remembered -= usize::from(kept.registered().is_none());
                self.shares.count_out(kept.lease.node);
                return false;
            }
            if kept.registered().is_some() && !kept.is_registered(now) {
                kept.state = State::Expired;
                self.remembered += 1;
                self.oldest.push_back((kept.ends, *inbox));
            }
            true
        });
        shrink::shrink_if_sparse(&mut self.kept);
        self.tidy_oldest();
    }

    /// How many leases are registered, as of the last [`LeaseTable::expire`].
    pub fn len(&self) -> usize {
        self.kept.len() - self.remembered
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether what was remembered, and was to end then, still is.
fn is_remembered(kept: &HashMap<Inbox, Kept>, (ends, inbox): &(Instant, Inbox)) -> bool {
    kept.get(inbox).is_some_and(|kept| kept.registered().is_none() && kept.ends == *ends)
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
        assert_eq!(table.put(now, CLOCK, by(1), old.clone()), Ok(None));
        assert_eq!(table.put(now, CLOCK, by(2), new.clone()), Ok(Some(node(1))));
        assert_eq!(table.put(now, CLOCK, by(1), old), Err(Refused::Stale(new.clone())));
        assert_eq!(table.find(now, &new.inbox), Some(&new));
    }

    #[test]
    fn only_the_leases_own_node_registers_or_withdraws_it() {
        let (mut table, now) = table(10);
        let lease = lease(1, 1, 5);
        assert_eq!(table.put(now, CLOCK, by(2), lease.clone()), Err(Refused::Invalid));
        assert_eq!(table.put(now, CLOCK, by(1), lease.clone()), Ok(None));
        table.withdraw(node(2), &lease.inbox, 9);
        assert!(table.find(now, &lease.inbox).is_some());
        table.withdraw(node(1), &lease.inbox, 4);
        assert!(table.find(now, &lease.inbox).is_some(), "a late word of an older lease ends the newer one");
        table.withdraw(node(1), &lease.inbox, 5);
        assert!(table.find(now, &lease.inbox).is_none());
        assert_eq!(
            table.put(now, CLOCK, by(1), lease),
            Err(Refused::Invalid),
            "a renewal that the withdrawal has overtaken"
        );
        assert_eq!(table.put(now, CLOCK, by(1), self::lease(1, 1, 6)), Ok(None));
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
        let kept = (0..100).filter(|n| table.put(now, CLOCK, by(1), many(*n)) == Ok(None)).count();
        assert_eq!(kept, 80);
        assert_eq!(table.put(now, CLOCK, by(1), many(0)), Ok(None), "what it has it may renew");
        assert_eq!(table.put(now, CLOCK, by(2), lease(200, 2, 5)), Ok(None));
        assert_eq!(table.put(now, CLOCK, by(1), lease(200, 1, 6)), Err(Refused::Full), "nor by those of others");
        // What has ended by itself counts no more.
        table.expire(now + Duration::from_secs(60));
        assert_eq!(table.put(now, CLOCK, by(1), many(90)), Ok(None));
    }

    #[test]
    fn a_lease_ends_when_it_expires_or_is_not_registered_again() {
        let (mut table, now) = table(10);
        let lease = lease(1, 1, 5);
        assert_eq!(table.put(now, CLOCK + 10 * MINUTE, by(1), lease.clone()), Err(Refused::Invalid));
        assert_eq!(table.put(now, CLOCK + 9 * MINUTE, by(1), lease.clone()), Ok(None));
        assert!(table.find(now + MINUTE, &lease.inbox).is_none());
        table.put(now, CLOCK, by(1), lease.clone()).expect("kept");
        assert!(table.find(now + 3 * MINUTE, &lease.inbox).is_some());
        assert!(table.find(now + 4 * MINUTE, &lease.inbox).is_none());
        assert_eq!(table.put(now + 5 * MINUTE, CLOCK + 5 * MINUTE, by(1), lease.clone()), Ok(None));
        assert!(table.find(now + 5 * MINUTE, &lease.inbox).is_some(), "a node that was slow registers it again");
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
                // Nobody registers it again.
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
            table.put(now, CLOCK, by(1), older.clone()).expect("kept");
            table.put(now, CLOCK, by(2), newer.clone()).expect("kept");
            let now = end(&mut table, now, &newer);
            assert_eq!((table.find(now, &newer.inbox), table.len()), (None, 0));
            assert_eq!(table.put(now, CLOCK, by(1), older.clone()), Err(Refused::Stale(newer.clone())));
            assert_eq!(table.find(now, &newer.inbox), None);
            // It is remembered until it would have ended itself, and no longer.
            let later = now + 10 * MINUTE;
            table.expire(later);
            assert_eq!(table.put(later, CLOCK + 15 * MINUTE, by(1), older), Ok(None));
        }
    }

    #[test]
    fn a_full_table_gives_up_what_it_only_remembers_first() {
        let (mut table, now) = table(2);
        assert_eq!(table.put(now, CLOCK, by(1), lease(1, 1, 5)), Ok(None));
        assert_eq!(table.put(now, CLOCK, by(1), lease(2, 1, 5)), Ok(None));
        assert_eq!(table.put(now, CLOCK, by(1), lease(3, 1, 5)), Err(Refused::Full));
        assert_eq!(table.put(now, CLOCK, by(1), lease(1, 1, 6)), Ok(None), "who is in stays in");
        table.withdraw(node(1), &lease(2, 1, 5).inbox, 5);
        assert_eq!(table.put(now, CLOCK, by(1), lease(3, 1, 5)), Ok(None));
        assert_eq!(table.put(now, CLOCK, by(1), lease(4, 1, 5)), Err(Refused::Full));
        assert_eq!((table.len(), table.kept.len()), (2, 2));
    }

    #[test]
    fn what_has_been_remembered_for_longest_goes_first_and_what_came_back_leaves_nothing_behind() {
        let (mut table, mut now) = table(3);
        for seq in 5..105 {
            now += Duration::from_millis(1);
            for inbox in 1..=3 {
                assert_eq!(table.put(now, CLOCK, by(1), lease(inbox, 1, seq)), Ok(None));
            }
            for inbox in [2, 1] {
                table.withdraw(node(1), &lease(inbox, 1, seq).inbox, seq);
            }
            assert!(table.oldest.len() <= 2 * 3 + 1);
        }
        assert_eq!((table.len(), table.kept.len()), (1, 3));
        for (new, left) in [(4, 2), (5, 1)] {
            assert_eq!(table.put(now, CLOCK, by(1), lease(new, 1, 5)), Ok(None));
            assert_eq!(table.known(&lease(left, 1, 5).inbox), None);
        }
        assert_eq!(table.put(now, CLOCK, by(1), lease(6, 1, 5)), Err(Refused::Full));
        assert_eq!((table.len(), table.remembered), (3, 0));
    }

    #[test]
    fn a_lease_for_longer_than_leases_last_and_a_number_from_the_future_are_refused() {
        let (mut table, now) = table(2);
        let long = |lasts: Duration| lease_with(1, 1, |lease| lease.expires_at = CLOCK + lasts);
        assert_eq!(table.put(now, CLOCK, by(1), long(MAX_LEASE + MAX_AHEAD)), Ok(None));
        let longer = long(MAX_LEASE + MAX_AHEAD + Duration::from_secs(1));
        assert_eq!(table.put(now, CLOCK, by(1), longer), Err(Refused::Invalid));
        assert_eq!(table.put(now, CLOCK, by(1), lease(1, 1, u64::MAX)), Err(Refused::Invalid));
    }

    #[test]
    fn what_a_former_self_registered_ends_and_what_is_registered_anew_stays() {
        let (mut table, now) = table(10);
        table.put(now, CLOCK, by(1), lease(1, 1, 5)).expect("kept");
        table.put(now, CLOCK, by(2), lease(2, 2, 5)).expect("kept");
        // The news of the restart comes after the restarted node's own words.
        table.put(now, CLOCK, Registrant { node: node(1), epoch: 2 }, lease(3, 1, 6)).expect("kept");
        table.end_before(node(1), 2);
        assert_eq!(table.len(), 2);
        assert!(table.find(now, &lease(1, 1, 5).inbox).is_none());
        assert_eq!(table.put(now, CLOCK, Registrant { node: node(1), epoch: 2 }, lease(1, 1, 5)), Ok(None));
    }
}
