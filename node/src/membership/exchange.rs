//! The full exchange: two members find out where their views differ, and tell each other what is missing.
//!
//! Each side's members fall into buckets by their key; the hashes of the buckets travel first, and then the members of
//! those that differ alone. Two equal views cost half a kilobyte, whatever the federation's size.

use bytes::Bytes;
use chappe_common::{beacon::BeaconNote, keys::NodeId, signed::Signable as _, time::UnixTime};
use serde::{Deserialize, Serialize};

/// How many buckets there are, by the first byte of the key.
pub const BUCKETS: usize = 64;
/// The most members in one message: all that can be known.
pub const MAX_MEMBERS: usize = crate::membership::member_table::MAX_KNOWN;
/// The most records, or nodes whose records are wanted, in one message; the rest follows with the next exchange.
pub const MAX_RECORDS: usize = 1024;
/// The longest message in bytes: that many of the longest records, and a beacon.
pub const MAX_MESSAGE: usize = MAX_RECORDS * 520 + BeaconNote::MAX_LEN;

/// What one side says, in this order: the asker's summary, the other's members, the asker's records, the other's
/// records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeMessage {
    /// A hash of each bucket, and the number of the newest beacon.
    Summary {
        /// [`BUCKETS`] hashes.
        buckets: Vec<u64>,
        /// The newest beacon's number; 0: none.
        beacon: u64,
    },
    /// The members in the buckets that differ.
    Members {
        /// Which buckets.
        buckets: Vec<u8>,
        /// The members in them.
        members: Vec<KnownMember>,
        /// The newest beacon, where the asker's is older.
        beacon: Option<Bytes>,
        /// The number of the newest beacon.
        newest: u64,
    },
    /// Signed records that the other side lacks, and the nodes whose records are wanted.
    Records {
        /// Signed records.
        records: Vec<Bytes>,
        /// Whose records are wanted.
        wanted: Vec<NodeId>,
        /// The newest beacon, where the other's is older.
        beacon: Option<Bytes>,
    },
}

/// A member that one side knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// The member.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: u64,
    /// Since when this side has known it.
    pub since: UnixTime,
}

/// What is checked of every input, by the tests and by the fuzzer.
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
