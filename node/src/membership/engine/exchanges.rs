//! This node's side of exchanges.

use std::collections::BTreeMap;

use chappe_common::keys::NodeId;
use sha2::{Digest as _, Sha256};

use super::{Engine, Now};
use crate::membership::{
    counts::Reason,
    exchange::{BUCKETS, ExchangeMessage, KnownMember, MAX_MEMBERS, MAX_RECORDS},
    member_table::{LearnedVia, State},
};

/// After this many new nodes in one exchange, another follows soon: this node is joining, or a partition has healed.
const MANY_NEW: usize = 8;

/// Returns the range of the first byte of the keys in a bucket.
fn bucket_range(bucket: u8) -> (u8, u8) {
    let width = u8::try_from(256 / BUCKETS).unwrap_or(1);
    (bucket * width, bucket * width + (width - 1))
}

impl Engine {
    /// Returns the first message of an exchange.
    pub fn open_exchange(&mut self, now: Now, with: NodeId) -> ExchangeMessage {
        if self.needs_refresh(now, &with) {
            return ExchangeMessage::Records { records: Vec::new(), wanted: vec![with], beacon: None };
        }
        self.exchanges.add_asked(with, now.at);
        // A new node requests all members and their ages from three members. Hashes of 0 differ from all buckets.
        let asks_all = self.ages.should_ask(&with);
        let hash = |bucket| if asks_all { 0 } else { self.hash_bucket(bucket) };
        ExchangeMessage::Summary { buckets: (0..BUCKETS).map(hash).collect(), beacon: self.beacons.newest_number() }
    }

    fn hash_bucket(&self, bucket: usize) -> u64 {
        let mut hash = Sha256::new();
        for member in self.in_bucket(u8::try_from(bucket).unwrap_or(u8::MAX)) {
            hash.update(member.node.as_bytes());
            hash.update(member.epoch.to_le_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
    }

    /// Returns the members in a bucket, including this node, sorted by key.
    fn in_bucket(&self, bucket: u8) -> Vec<KnownMember> {
        let (first, last) = bucket_range(bucket);
        let mut members: Vec<_> = self
            .table
            .up_in(first, last)
            .map(|(node, entry)| KnownMember { node, epoch: entry.epoch, since: entry.age.since().unwrap_or_default() })
            .collect();
        if (first..=last).contains(&self.own.id.as_bytes()[0]) {
            let me = KnownMember {
                node: self.own.id,
                epoch: self.own.record.epoch,
                since: self.ages.own().unwrap_or_default(),
            };
            members.push(me);
            members.sort_unstable_by_key(|member| member.node);
        }
        members
    }

    /// Handles a message of an exchange. Returns the answer, or `None` if the exchange is over.
    pub fn handle_exchange(&mut self, now: Now, from: NodeId, message: ExchangeMessage) -> Option<ExchangeMessage> {
        if self.own.has_left || self.table.epoch_if_up(&from).is_none() {
            self.counts.refuse(Reason::Stranger);
            return None;
        }
        self.mark_alive(now, from);
        let answer = match message {
            ExchangeMessage::Summary { buckets, beacon } => self.answer_summary(&buckets, beacon),
            ExchangeMessage::Members { .. } if !self.exchanges.take_asked(&from) => Err(Reason::Kind),
            ExchangeMessage::Members { buckets, members, beacon, newest } => {
                self.handle_exchanged_beacon(now, from, beacon.as_ref());
                self.answer_members(now, from, &buckets, members, newest)
            }
            ExchangeMessage::Records { records, wanted, beacon } => {
                self.handle_exchanged_beacon(now, from, beacon.as_ref());
                self.answer_records(now, from, &records, &wanted)
            }
        };
        self.push_outputs(now);
        match answer {
            Ok(answer) => answer,
            Err(reason) => {
                self.counts.refuse(reason);
                None
            }
        }
    }

    fn answer_summary(&self, buckets: &[u64], newest: u64) -> Result<Option<ExchangeMessage>, Reason> {
        if buckets.len() != BUCKETS {
            return Err(Reason::Malformed);
        }
        let differs =
            |(bucket, hash): (usize, &u64)| (self.hash_bucket(bucket) != *hash).then(|| u8::try_from(bucket).ok());
        let buckets: Vec<u8> = buckets.iter().enumerate().filter_map(differs).flatten().collect();
        if buckets.is_empty() && newest == self.beacons.newest_number() {
            return Ok(None);
        }
        let members = buckets.iter().flat_map(|bucket| self.in_bucket(*bucket)).take(MAX_MEMBERS).collect();
        Ok(Some(ExchangeMessage::Members {
            buckets,
            members,
            beacon: self.beacon_after(newest),
            newest: self.beacons.newest_number(),
        }))
    }

    fn answer_members(
        &mut self,
        now: Now,
        from: NodeId,
        buckets: &[u8],
        members: Vec<KnownMember>,
        newest: u64,
    ) -> Result<Option<ExchangeMessage>, Reason> {
        if members.len() > MAX_MEMBERS || buckets.len() > BUCKETS || buckets.iter().any(|b| usize::from(*b) >= BUCKETS)
        {
            return Err(Reason::Malformed);
        }
        let mut theirs = BTreeMap::new();
        let mut wanted = Vec::new();
        let muted = self.reputation.is_muted(now.at, &from);
        self.ages.add_witness(from);
        for member in members {
            theirs.insert(member.node, member.epoch);
            self.ages.record_report(&mut self.table, self.own.id, from, (member.node, member.since));
            if member.node == self.own.id {
                continue;
            }
            let record = self.records.any(&member.node).filter(|record| record.epoch >= member.epoch);
            let is_lost = match self.table.get(&member.node).map(|known| (known.state, known.epoch)) {
                Some((State::Up, epoch)) if epoch >= member.epoch => continue,
                Some((State::Claimed | State::Dialling(_), _)) => continue,
                Some((State::Lost { .. }, _)) => true,
                _ => false,
            };
            if let Some(record) = record.filter(|_| is_lost) {
                if !muted && self.reputation.may_claim(now.at, from) {
                    self.claim(now, &record, Some(from), LearnedVia::Compared);
                }
            } else if wanted.len() < MAX_RECORDS {
                wanted.push(member.node);
            }
        }
        if wanted.len() >= MANY_NEW || self.ages.lacks_witnesses() {
            self.exchanges.hurry(now.at);
        }
        let lacked = buckets
            .iter()
            .flat_map(|bucket| self.in_bucket(*bucket))
            .filter(|member| member.node != from && theirs.get(&member.node).is_none_or(|epoch| *epoch < member.epoch));
        let records: Vec<_> = lacked.filter_map(|member| self.record_of(&member.node)).take(MAX_RECORDS).collect();
        let beacon = self.beacon_after(newest);
        if records.is_empty() && wanted.is_empty() && beacon.is_none() {
            return Ok(None);
        }
        Ok(Some(ExchangeMessage::Records { records, wanted, beacon }))
    }

    fn answer_records(
        &mut self,
        now: Now,
        from: NodeId,
        records: &[bytes::Bytes],
        wanted: &[NodeId],
    ) -> Result<Option<ExchangeMessage>, Reason> {
        if records.len() > MAX_RECORDS || wanted.len() > MAX_RECORDS {
            return Err(Reason::Malformed);
        }
        if records.len() >= MANY_NEW {
            self.exchanges.hurry(now.at);
        }
        for record in records {
            if self.reputation.is_muted(now.at, &from) {
                self.counts.refuse(Reason::Muted);
                break;
            }
            if let Err(reason) = self.handle_record(now, from, record, LearnedVia::Compared) {
                self.counts.refuse(reason);
                if matches!(reason, Reason::Signature | Reason::Malformed) {
                    self.reputation.penalize(now.at, from);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let records = wanted.iter().filter_map(|node| self.record_of(node)).collect();
        Ok(Some(ExchangeMessage::Records { records, wanted: Vec::new(), beacon: None }))
    }

    /// Returns the newest beacon if its number is higher than `number`.
    fn beacon_after(&self, number: u64) -> Option<bytes::Bytes> {
        self.beacons.newest_bytes().filter(|_| self.beacons.newest_number() > number)
    }

    fn handle_exchanged_beacon(&mut self, now: Now, from: NodeId, note: Option<&bytes::Bytes>) {
        let Some(note) = note.filter(|_| !self.reputation.is_muted(now.at, &from)) else { return };
        if let Err(reason) = self.handle_beacon(now, note) {
            self.counts.refuse(reason);
            if matches!(reason, Reason::Signature | Reason::Malformed) {
                self.reputation.penalize(now.at, from);
            }
        }
    }

    /// Returns the signed record of a member that is up, or of this node.
    fn record_of(&self, node: &NodeId) -> Option<bytes::Bytes> {
        if *node == self.own.id {
            return Some(self.own.record.as_bytes().clone());
        }
        self.table.epoch_if_up(node)?;
        self.records.any(node).map(|record| record.as_bytes().clone())
    }
}
