//! When former members, which the file of the last run names, are dialled again. Pure.
//!
//! Invariant: a node that has been silent for [`LONG_SILENT`] is dialled at most once in each of its windows by one run, and
//! only within a short slot of it. The slots follow from the clock and the two keys, so a restart does not dial again.

use std::{collections::HashMap, time::Duration};

use chappe_common::{keys::NodeId, record::SignedRecord, time::UnixTime};
use rand::{Rng, seq::IteratorRandom as _};
use sha2::{Digest as _, Sha256};

/// A node whose newest record is older than this is most likely gone. A member's record in the file is at most a day old.
const LONG_SILENT: Duration = Duration::from_secs(7 * 24 * 3600);
/// A silent node is dialled once in each window: twice a day.
const WINDOW: Duration = Duration::from_secs(12 * 3600);
/// Within a window, it is dialled in this time only. Longer than the time between two attempts to heal a partition.
const SLOT: Duration = Duration::from_secs(15 * 60);

/// The members of the last run.
#[derive(Debug)]
pub(crate) struct FormerMembers {
    me: NodeId,
    records: Vec<SignedRecord>,
    /// The last window in which each silent node was dialled.
    dialled: HashMap<NodeId, u64>,
}

impl FormerMembers {
    pub(crate) fn new(me: NodeId, records: Vec<SignedRecord>) -> Self {
        Self { me, records, dialled: HashMap::new() }
    }

    /// Their ids.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.records.iter().map(|record| record.node)
    }

    /// Returns up to `count` of them to dial now, which are not members.
    pub(crate) fn take_due(
        &mut self,
        now: UnixTime,
        count: usize,
        is_member: impl Fn(&NodeId) -> bool,
        rng: &mut impl Rng,
    ) -> Vec<SignedRecord> {
        let may_be_dialled = |record: &&SignedRecord| {
            if is_member(&record.node) {
                return false;
            }
            let is_silent = record.issued_at + LONG_SILENT <= now;
            !is_silent
                || self
                    .open_window(&record.node, now)
                    .is_some_and(|window| self.dialled.get(&record.node).is_none_or(|dialled| *dialled != window))
        };
        let due: Vec<_> = self.records.iter().filter(may_be_dialled).sample(rng, count).into_iter().cloned().collect();
        for record in &due {
            if let Some(window) = self.open_window(&record.node, now) {
                self.dialled.insert(record.node, window);
            }
        }
        due
    }

    /// Returns the number of the node's window if its slot is now.
    fn open_window(&self, node: &NodeId, now: UnixTime) -> Option<u64> {
        let mut hash = Sha256::new();
        hash.update(b"chappe: when a silent node is dialled");
        hash.update(self.me.as_bytes());
        hash.update(node.as_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        // Each pair of nodes has a slot of its own, so a returned node is soon dialled by somebody.
        let offset = u64::from(u32::from_be_bytes([a, b, c, d])) % WINDOW.as_secs();
        let shifted = now.as_secs() + offset;
        (shifted % WINDOW.as_secs() < SLOT.as_secs()).then_some(shifted / WINDOW.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        federation::FederationId,
        keys::SecretKey,
        record::{Abilities, NodeRecord},
        signed::Signed,
    };
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const DAY: u64 = 24 * 3600;
    const LEFT: u64 = 1_800_000_000;

    fn record(n: u8) -> SignedRecord {
        let key = SecretKey::from_bytes(&[n; 32]);
        let record = NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: key.node_id(),
            epoch: 1,
            seq: 1,
            issued_at: UnixTime::from_secs(LEFT),
            expires_at: UnixTime::from_secs(LEFT + DAY),
            client_urls: Vec::new(),
            quic_addrs: vec!["192.0.2.1:1".parse().expect("an address")],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, &key).expect("a record")
    }

    /// The dials of the node 1 on each of ten days after it left, by a node that tries every `pause` seconds, and is restarted
    /// every `restart` seconds.
    fn dials(others: u8, pause: u64, restart: u64) -> [usize; 10] {
        let mut rng = StdRng::seed_from_u64(1);
        let me = SecretKey::from_bytes(&[99; 32]).node_id();
        let records: Vec<_> = (1..=1 + others).map(record).collect();
        let mut days = [0; 10];
        let mut former = FormerMembers::new(me, records.clone());
        for at in (0..10 * DAY).step_by(usize::try_from(pause).expect("small")) {
            if at % restart < pause {
                former = FormerMembers::new(me, records.clone());
            }
            let due = former.take_due(UnixTime::from_secs(LEFT + at), 3, |_| false, &mut rng);
            days[usize::try_from(at / DAY).expect("a day")] +=
                due.iter().filter(|due| due.node == records[0].node).count();
        }
        days
    }

    #[test]
    fn a_node_that_left_is_dialled_at_most_four_times_a_day_after_a_week() {
        for (what, others, pause, restart) in [
            ("a member heals every ten minutes", 0, 600, 100 * DAY),
            ("as one of many", 30, 600, 100 * DAY),
            ("alone, every fifteen seconds", 0, 15, 100 * DAY),
            ("alone, and restarted every hour", 0, 15, 3600),
        ] {
            let days = dials(others, pause, restart);
            println!("{what}: {days:?}");
            assert!(days[7..].iter().all(|dials| *dials <= 4), "{what}: {days:?}");
            assert!(days[6] > 20 || others > 10, "before, it may be back soon: {what}: {days:?}");
        }
        // It is not forgotten either.
        assert!(dials(0, 600, 100 * DAY)[7..].iter().all(|dials| *dials >= 1));
    }

    #[test]
    fn members_are_not_dialled() {
        let me = SecretKey::from_bytes(&[99; 32]).node_id();
        let mut former = FormerMembers::new(me, vec![record(1), record(2)]);
        let member = record(1).node;
        let mut rng = StdRng::seed_from_u64(1);
        let due = former.take_due(UnixTime::from_secs(LEFT), 3, |node| *node == member, &mut rng);
        assert_eq!(due.iter().map(|record| record.node).collect::<Vec<_>>(), [record(2).node]);
    }
}
