//! The full exchange, by which two members compare their views and send each other the missing records.
//!
//! Each side's members are divided into buckets by key. The hashes of the buckets are sent first, and then only the
//! members of buckets that differ. Two equal views cost 512 bytes, whatever the size of the federation.

use bytes::Bytes;
use chappe_common::{beacon::Beacon, keys::NodeId, signed::Signable as _, time::UnixTime};
use serde::{Deserialize, Serialize};

/// The number of buckets. The first byte of the key determines the bucket.
pub const BUCKETS: usize = 64;
/// The maximum number of members in one message: all that a node can know.
pub const MAX_MEMBERS: usize = crate::membership::member_table::MAX_KNOWN;
/// The maximum number of records, and of wanted records, in one message. The next exchange carries the rest.
pub const MAX_RECORDS: usize = 1024;
/// The maximum message length in bytes: [`MAX_RECORDS`] of the longest records, and a beacon.
pub const MAX_MESSAGE: usize = MAX_RECORDS * 520 + Beacon::MAX_LEN;

/// A message of an exchange. The order is: the initiator's summary, the other side's members, the initiator's records,
/// the other side's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeMessage {
    /// The hashes of all buckets, and the number of the newest beacon.
    Summary {
        /// [`BUCKETS`] hashes.
        buckets: Vec<u64>,
        /// The number of the newest beacon, or 0 if there is none.
        beacon: u64,
    },
    /// The members in the buckets that differ.
    Members {
        /// The buckets.
        buckets: Vec<u8>,
        /// The members in these buckets.
        members: Vec<KnownMember>,
        /// The newest beacon, if the initiator's is older.
        beacon: Option<Bytes>,
        /// The number of the newest beacon.
        newest: u64,
    },
    /// Records that the other side lacks, and requests for records.
    Records {
        /// Signed records.
        records: Vec<Bytes>,
        /// The nodes whose records are requested.
        wanted: Vec<NodeId>,
        /// The newest beacon, if the other side's is older.
        beacon: Option<Bytes>,
    },
}

/// A member in the view of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// The member.
    pub node: NodeId,
    /// The member's epoch.
    pub epoch: u64,
    /// Since when it has been a member, as far as this side knows.
    pub since: UnixTime,
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A message of the exchange.
    pub const EXCHANGE: (&str, fn(&[u8]) -> bool) = ("exchange", |bytes| {
        let Ok((read, [])) = postcard::take_from_bytes::<ExchangeMessage>(bytes) else { return false };
        let again = postcard::to_allocvec(&read).expect("owned values encode");
        assert_eq!(postcard::from_bytes(&again), Ok(read));
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    #[test]
    fn mutated_exchanges_read_as_they_are_written() {
        let node = NodeId::new(PublicKey::from_bytes([3; 32]));
        let corpus = [
            ExchangeMessage::Summary { buckets: vec![0, 1, u64::MAX], beacon: 300 },
            ExchangeMessage::Members {
                buckets: vec![0, 63],
                members: vec![KnownMember { node, epoch: 3, since: UnixTime::from_secs(1_800_000_000) }],
                beacon: Some(Bytes::from_static(b"a beacon")),
                newest: 7,
            },
            ExchangeMessage::Records {
                records: vec![Bytes::from_static(b"a record"), Bytes::new()],
                wanted: vec![node],
                beacon: None,
            },
        ];
        let corpus = corpus.map(|valid| postcard::to_allocvec(&valid).expect("owned values encode"));
        chappe_mutations::run(fuzzed::EXCHANGE, &corpus);
    }
}
