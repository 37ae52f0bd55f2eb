//! What this node keeps for others as their home: pairing codes, and the leases of [`LeaseTable`].
//!
//! Pure: the caller gives the time. Bounded: at the bound new entries are refused and old ones stay. Everything here
//! is soft state that its edge node registers again; nothing is on disk.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use chappe_common::{
    code::PairingCode,
    code_claim::CodeClaim,
    keys::{NodeId, PublicKey},
};

use crate::{
    leases::table::LeaseTable,
    limits::{member_quota::MemberQuota, shrink},
    wire::ids::{ClaimResult, CodeHolder},
};

/// The key by which a client can take a code back.
#[derive(Debug)]
struct Owner {
    key: PublicKey,
    seq: u64,
}

#[derive(Debug)]
struct Kept {
    holder: CodeHolder,
    /// Boxed, since most clients show no key and the table has room for twice its entries.
    owner: Option<Box<Owner>>,
    until: Instant,
    /// The epoch of the node when it registered this: what a former self registered ends with it.
    epoch: u64,
}

/// The leases and codes of which this node is a home.
#[derive(Debug)]
pub(crate) struct HomeTable {
    /// The leases.
    pub(crate) leases: LeaseTable,
    codes: HashMap<PairingCode, Kept>,
    /// How many codes of each node are kept.
    shares: MemberQuota,
    capacity: usize,
    keep_for: Duration,
}

impl HomeTable {
    /// A table of at most `capacity` leases and as many codes, each kept for `keep_for` after it was registered.
    pub(crate) fn new(capacity: usize, keep_for: Duration) -> Self {
        let leases = LeaseTable::new(capacity, keep_for);
        Self { leases, codes: HashMap::new(), shares: MemberQuota::new(capacity), capacity, keep_for }
    }

    /// Says among how many members the tables are shared, so that none of them fills one.
    pub(crate) fn share_among(&mut self, members: usize, own: NodeId) {
        self.leases.share_among(members, own);
        self.shares.divide(members, own);
    }

    /// Whether `claim`, if its signature is its key's, takes `code` from the session that has it: the same key had
    /// registered it there, by an earlier claim.
    pub(crate) fn takes_back(&self, now: Instant, code: PairingCode, holder: CodeHolder, claim: &CodeClaim) -> bool {
        let Some(kept) = self.codes.get(&code).filter(|kept| kept.holder != holder && kept.until > now) else {
            return false;
        };
        claim.code == code
            && claim.node == holder.node
            && kept.owner.as_ref().is_some_and(|owner| owner.key == claim.key && owner.seq < claim.seq)
    }

    /// Gives a code to a session of a node in this epoch, or keeps it there for longer. `claim` is the client's, and
    /// `verified` where its signature was checked because it takes the code back.
    pub(crate) fn claim_code(
        &mut self,
        now: Instant,
        code: PairingCode,
        holder: CodeHolder,
        epoch: u64,
        claim: Option<&CodeClaim>,
        verified: bool,
    ) -> ClaimResult {
        let takes_back = verified && claim.is_some_and(|claim| self.takes_back(now, code, holder, claim));
        let owner = claim.map(|claim| Box::new(Owner { key: claim.key, seq: claim.seq }));
        let kept = Kept { holder, owner, until: now + self.keep_for, epoch };
        let full = self.codes.len() >= self.capacity || !self.shares.has_room(&holder.node);
        match self.codes.entry(code) {
            Entry::Occupied(entry) if entry.get().holder != holder && entry.get().until > now && !takes_back => {
                return ClaimResult::Taken;
            }
            Entry::Vacant(_) if full => return ClaimResult::Full,
            Entry::Occupied(mut entry) => self.shares.count_out(entry.insert(kept).holder.node),
            Entry::Vacant(entry) => {
                entry.insert(kept);
            }
        }
        self.shares.count_in(holder.node);
        ClaimResult::Granted
    }

    /// Gives a code back.
    pub(crate) fn drop_code(&mut self, code: &PairingCode, holder: CodeHolder) {
        if let Entry::Occupied(entry) = self.codes.entry(*code)
            && entry.get().holder == holder
        {
            entry.remove();
            self.shares.count_out(holder.node);
        }
    }

    /// Where a code is registered.
    pub(crate) fn code(&self, now: Instant, code: &PairingCode) -> Option<CodeHolder> {
        self.codes.get(code).filter(|kept| kept.until > now).map(|kept| kept.holder)
    }

    /// Forgets the codes of a node that doesn't answer any more: its clients will ask for them elsewhere.
    pub(crate) fn drop_codes_of(&mut self, node: NodeId) {
        self.retain_codes(|kept| kept.holder.node != node);
    }

    /// Forgets all that a node registered before `epoch`: it went down, or has started anew.
    pub(crate) fn drop_before(&mut self, node: NodeId, epoch: u64) {
        self.leases.end_before(node, epoch);
        self.retain_codes(|kept| kept.holder.node != node || kept.epoch >= epoch);
    }

    /// Forgets what nobody has registered again.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.leases.expire(now);
        self.retain_codes(|kept| kept.until > now);
    }

    fn retain_codes(&mut self, keep: impl Fn(&Kept) -> bool) {
        let shares = &mut self.shares;
        self.codes.retain(|_, kept| {
            let stays = keep(kept);
            if !stays {
                shares.count_out(kept.holder.node);
            }
            stays
        });
        shrink::shrink_if_sparse(&mut self.codes);
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
    use crate::wire::ids::SessionId;

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
        assert_eq!(table.claim_code(now, code, holder(1), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now, code, holder(1), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now, code, holder(2), 1, None, false), ClaimResult::Taken);
        table.drop_code(&code, holder(2));
        assert_eq!(table.code(now, &code), Some(holder(1)));
        table.drop_code(&code, holder(1));
        assert_eq!(table.claim_code(now, code, holder(2), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now + 5 * MINUTE, code, holder(1), 1, None, false), ClaimResult::Granted);
    }

    #[test]
    fn a_newer_claim_by_the_same_key_takes_a_code_back() {
        let now = Instant::now();
        let code = PairingCode::from_random(7);
        let claim =
            |key: u8, at: u8, seq| CodeClaim { code, key: PublicKey::from_bytes([key; 32]), node: node(at), seq };
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let mut take =
            |by: u8, claim: Option<&CodeClaim>, verified| table.claim_code(now, code, holder(by), 1, claim, verified);
        assert_eq!(take(1, Some(&claim(1, 1, 5)), false), ClaimResult::Granted);
        assert_eq!(take(2, Some(&claim(1, 2, 6)), false), ClaimResult::Taken, "not verified");
        assert_eq!(take(2, Some(&claim(2, 2, 6)), true), ClaimResult::Taken, "another key");
        assert_eq!(take(2, Some(&claim(1, 2, 5)), true), ClaimResult::Taken, "not newer");
        assert_eq!(take(2, Some(&claim(1, 3, 6)), true), ClaimResult::Taken, "another node's");
        let other = CodeClaim { code: PairingCode::from_random(8), ..claim(1, 2, 6) };
        assert_eq!(take(2, Some(&other), true), ClaimResult::Taken, "another code");
        assert_eq!(take(2, Some(&claim(1, 2, 6)), true), ClaimResult::Granted);
        assert_eq!(take(1, Some(&claim(1, 1, 5)), true), ClaimResult::Taken, "the former session registers it again");
        assert_eq!(take(2, Some(&claim(1, 2, 6)), false), ClaimResult::Granted, "who has it keeps it");
        // A client that shows no key can take nothing back, and none takes from it.
        let mut table = HomeTable::new(10, 4 * MINUTE);
        assert_eq!(table.claim_code(now, code, holder(1), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now, code, holder(2), 1, Some(&claim(1, 2, 6)), true), ClaimResult::Taken);
    }

    #[test]
    fn a_full_table_refuses_new_codes_and_keeps_the_old() {
        let mut table = HomeTable::new(1, 4 * MINUTE);
        let now = Instant::now();
        assert_eq!(table.claim_code(now, PairingCode::from_random(1), holder(1), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now, PairingCode::from_random(2), holder(1), 1, None, false), ClaimResult::Full);
    }

    #[test]
    fn one_member_does_not_fill_the_table_of_a_large_federation() {
        let mut table = HomeTable::new(1000, 4 * MINUTE);
        table.share_among(100, node(9));
        let now = Instant::now();
        let mut claim = |n: u32, by: u8, now: Instant| {
            table.claim_code(now, PairingCode::from_random(n), holder(by), 1, None, false)
        };
        assert_eq!((0..100).filter(|n| claim(*n, 1, now) == ClaimResult::Granted).count(), 80);
        assert_eq!(claim(0, 1, now), ClaimResult::Granted, "what it has it may renew");
        assert_eq!(claim(200, 2, now), ClaimResult::Granted, "others have their own share");
        // What nobody renews makes room, by whichever way it goes.
        assert_eq!(claim(0, 2, now + 5 * MINUTE), ClaimResult::Granted);
        assert_eq!(claim(300, 1, now + 5 * MINUTE), ClaimResult::Granted);
        table.drop_codes_of(node(1));
        let kept = (0..100).filter(|n| {
            table.claim_code(now, PairingCode::from_random(*n), holder(1), 1, None, false) == ClaimResult::Granted
        });
        assert_eq!(kept.count(), 80);
    }

    #[test]
    fn one_member_of_two_fills_half_of_the_table() {
        let mut table = HomeTable::new(1000, 4 * MINUTE);
        let now = Instant::now();
        table.share_among(2, node(2));
        let mut claim = |n: u32, by: u8| table.claim_code(now, PairingCode::from_random(n), holder(by), 1, None, false);
        assert_eq!((0..1000).filter(|n| claim(*n, 1) == ClaimResult::Granted).count(), 500);
        assert_eq!((1000..1400).filter(|n| claim(*n, 3) == ClaimResult::Granted).count(), 400);
        assert_eq!(
            (2000..3000).filter(|n| claim(*n, 2) == ClaimResult::Granted).count(),
            100,
            "its own are all that fit"
        );
    }

    #[test]
    fn the_codes_of_a_former_self_are_forgotten_and_those_that_it_claimed_anew_stay() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        table.claim_code(now, PairingCode::from_random(1), holder(1), 1, None, false);
        table.claim_code(now, PairingCode::from_random(2), holder(2), 1, None, false);
        // The news of the restart comes after the restarted node's own words.
        table.claim_code(now, PairingCode::from_random(3), holder(1), 2, None, false);
        table.drop_before(node(1), 2);
        assert_eq!(table.len(), (0, 2));
    }
}
