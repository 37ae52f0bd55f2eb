//! What this node stores as a home: pairing codes, and the leases of [`LeaseTable`].
//!
//! Pure: the caller passes the time. Bounded: at the bound, new entries are refused and old ones stay. All of it is
//! soft state that the edge nodes register again; nothing is on disk.

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

/// How much a node stores as a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredCounts {
    pub(crate) leases: usize,
    pub(crate) codes: usize,
}

/// The key with which a client can reclaim a code.
#[derive(Debug)]
struct Owner {
    key: PublicKey,
    seq: u64,
}

#[derive(Debug)]
struct CodeEntry {
    holder: CodeHolder,
    /// Boxed, because most clients have no key, and a hash map allocates up to twice its entries.
    owner: Option<Box<Owner>>,
    until: Instant,
    /// The node's epoch when it registered this. The entry ends with that run.
    epoch: u64,
}

#[derive(Debug)]
pub(crate) struct HomeTable {
    pub(crate) leases: LeaseTable,
    codes: HashMap<PairingCode, CodeEntry>,
    quota: MemberQuota,
    capacity: usize,
    keep_for: Duration,
}

impl HomeTable {
    /// Creates a table of at most `capacity` leases and `capacity` codes, each stored for `keep_for` after its last
    /// registration.
    pub(crate) fn new(capacity: usize, keep_for: Duration) -> Self {
        let leases = LeaseTable::new(capacity, keep_for);
        Self { leases, codes: HashMap::new(), quota: MemberQuota::new(capacity), capacity, keep_for }
    }

    /// Sets the number of members, from which each member's quota follows.
    pub(crate) fn share_among(&mut self, members: usize, own: NodeId) {
        self.leases.share_among(members, own);
        self.quota.divide(members, own);
    }

    /// Returns whether `claim` can reclaim `code` from the session that has it: the same key registered it there with
    /// an earlier claim. The signature is not checked here.
    pub(crate) fn can_reclaim(&self, now: Instant, code: PairingCode, holder: CodeHolder, claim: &CodeClaim) -> bool {
        let Some(entry) = self.codes.get(&code).filter(|entry| entry.holder != holder && entry.until > now) else {
            return false;
        };
        claim.code == code
            && claim.node == holder.node
            && entry.owner.as_ref().is_some_and(|owner| owner.key == claim.key && owner.seq < claim.seq)
    }

    /// Registers a code for a session, or extends its registration. `verified` means that the signature of `claim` was
    /// checked, because it reclaims the code.
    pub(crate) fn claim_code(
        &mut self,
        now: Instant,
        code: PairingCode,
        holder: CodeHolder,
        epoch: u64,
        claim: Option<&CodeClaim>,
        verified: bool,
    ) -> ClaimResult {
        let reclaims = verified && claim.is_some_and(|claim| self.can_reclaim(now, code, holder, claim));
        let owner = claim.map(|claim| Box::new(Owner { key: claim.key, seq: claim.seq }));
        let new = CodeEntry { holder, owner, until: now + self.keep_for, epoch };
        let full = self.codes.len() >= self.capacity || !self.quota.has_room(&holder.node);
        match self.codes.entry(code) {
            Entry::Occupied(entry) if entry.get().holder != holder && entry.get().until > now && !reclaims => {
                return ClaimResult::Taken;
            }
            Entry::Vacant(_) if full => return ClaimResult::Full,
            Entry::Occupied(mut entry) => self.quota.count_out(entry.insert(new).holder.node),
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
        }
        self.quota.count_in(holder.node);
        ClaimResult::Granted
    }

    pub(crate) fn drop_code(&mut self, code: &PairingCode, holder: CodeHolder) {
        if let Entry::Occupied(entry) = self.codes.entry(*code)
            && entry.get().holder == holder
        {
            entry.remove();
            self.quota.count_out(holder.node);
        }
    }

    /// Returns the holder of a code.
    pub(crate) fn code(&self, now: Instant, code: &PairingCode) -> Option<CodeHolder> {
        self.codes.get(code).filter(|entry| entry.until > now).map(|entry| entry.holder)
    }

    /// Removes the codes of a node that does not answer. Its clients will claim codes elsewhere.
    pub(crate) fn drop_codes_of(&mut self, node: NodeId) {
        self.retain_codes(|entry| entry.holder.node != node);
    }

    /// Removes everything that a node registered before `epoch`, because it went down or restarted.
    pub(crate) fn drop_before(&mut self, node: NodeId, epoch: u64) {
        self.leases.end_before(node, epoch);
        self.retain_codes(|entry| entry.holder.node != node || entry.epoch >= epoch);
    }

    /// Removes expired registrations.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.leases.expire(now);
        self.retain_codes(|entry| entry.until > now);
    }

    fn retain_codes(&mut self, keep: impl Fn(&CodeEntry) -> bool) {
        let quota = &mut self.quota;
        self.codes.retain(|_, entry| {
            let stays = keep(entry);
            if !stays {
                quota.count_out(entry.holder.node);
            }
            stays
        });
        shrink::shrink_if_sparse(&mut self.codes);
    }

    pub(crate) fn counts(&self) -> StoredCounts {
        StoredCounts { leases: self.leases.len(), codes: self.codes.len() }
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
    fn a_code_belongs_to_one_session_until_it_is_dropped_or_expires() {
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
    fn a_newer_claim_by_the_same_key_reclaims_a_code() {
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
        assert_eq!(take(2, Some(&claim(1, 2, 6)), false), ClaimResult::Granted, "the holder can renew it");
        // A client without a key cannot reclaim a code, and nobody can reclaim one from it.
        let mut table = HomeTable::new(10, 4 * MINUTE);
        assert_eq!(table.claim_code(now, code, holder(1), 1, None, false), ClaimResult::Granted);
        assert_eq!(table.claim_code(now, code, holder(2), 1, Some(&claim(1, 2, 6)), true), ClaimResult::Taken);
    }

    #[test]
    fn a_full_table_refuses_new_codes_and_keeps_old_ones() {
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
        assert_eq!(claim(0, 1, now), ClaimResult::Granted, "a registered code can be renewed");
        assert_eq!(claim(200, 2, now), ClaimResult::Granted, "others have their own share");
        // Expired and removed entries free their quota.
        assert_eq!(claim(0, 2, now + 5 * MINUTE), ClaimResult::Granted);
        assert_eq!(claim(300, 1, now + 5 * MINUTE), ClaimResult::Granted);
        table.drop_codes_of(node(1));
        let granted = (0..100).filter(|n| {
            table.claim_code(now, PairingCode::from_random(*n), holder(1), 1, None, false) == ClaimResult::Granted
        });
        assert_eq!(granted.count(), 80);
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
            "its own codes fill the table"
        );
    }

    #[test]
    fn codes_of_a_former_run_are_removed_and_those_of_the_new_run_stay() {
        let mut table = HomeTable::new(10, 4 * MINUTE);
        let now = Instant::now();
        table.claim_code(now, PairingCode::from_random(1), holder(1), 1, None, false);
        table.claim_code(now, PairingCode::from_random(2), holder(2), 1, None, false);
        // The news of the restart arrives after requests of the restarted node.
        table.claim_code(now, PairingCode::from_random(3), holder(1), 2, None, false);
        table.drop_before(node(1), 2);
        assert_eq!(table.counts(), StoredCounts { leases: 0, codes: 2 });
    }
}
