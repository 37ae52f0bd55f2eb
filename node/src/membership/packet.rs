//! What travels in a datagram between two members.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The largest packet in bytes: always fits a QUIC datagram at the smallest MTU.
pub const MAX_PACKET: usize = 1162;

/// A packet of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A packet of the SWIM library: probes, and the news that travel with them.
    Swim(Bytes),
    /// «Are you there?»: a check by this node itself.
    Probe(u64),
    /// The answer, with the probe's number.
    Answer(u64),
}

/// Not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a membership packet")]
pub struct BadPacket;

impl Packet {
    /// The bytes: the kind in one, then the rest.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Self::Swim(packet) => {
                bytes.reserve(1 + packet.len());
                bytes.put_u8(0);
                bytes.put_slice(packet);
            }
            Self::Probe(number) => {
                bytes.put_u8(1);
                bytes.put_u64_le(*number);
            }
            Self::Answer(number) => {
                bytes.put_u8(2);
                bytes.put_u64_le(*number);
            }
        }
        bytes.freeze()
    }

    /// The packet that these bytes are.
    ///
    /// # Errors
    /// They are none, or longer than [`MAX_PACKET`].
    pub fn decode(bytes: &Bytes) -> Result<Self, BadPacket> {
        if bytes.len() > MAX_PACKET {
            return Err(BadPacket);
        }
        let number = |rest: &[u8]| rest.try_into().map(u64::from_le_bytes).map_err(|_| BadPacket);
        match bytes.split_first() {
            Some((0, _)) => Ok(Self::Swim(bytes.slice(1..))),
            Some((1, rest)) => Ok(Self::Probe(number(rest)?)),
            Some((2, rest)) => Ok(Self::Answer(number(rest)?)),
            _ => Err(BadPacket),
        }
    }
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A datagram between members.
    pub const PACKET: (&str, fn(&[u8]) -> bool) = ("datagram", |bytes| {
        let Ok(packet) = Packet::decode(&Bytes::copy_from_slice(bytes)) else { return false };
        assert_eq!(packet.encode(), bytes);
        true
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_have_exactly_these_bytes() {
        assert_eq!(Packet::Swim(Bytes::from_static(b"x")).encode(), &b"\x00x"[..]);
        assert_eq!(Packet::Probe(258).encode(), &b"\x01\x02\x01\0\0\0\0\0\0"[..]);
        assert_eq!(Packet::Answer(258).encode(), &b"\x02\x02\x01\0\0\0\0\0\0"[..]);
    }

    #[test]
    fn a_packet_of_no_kind_or_of_another_length_is_none() {
        for bytes in [&b""[..], b"\x03", b"\x01", b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(Packet::decode(&Bytes::copy_from_slice(bytes)), Err(BadPacket));
        }
        assert_eq!(Packet::decode(&Bytes::from(vec![0; MAX_PACKET + 1])), Err(BadPacket));
    }

    #[test]
    fn mutated_datagrams_are_packets_of_the_same_bytes_or_none() {
        let corpus = [Packet::Swim(Bytes::from_static(b"gossip")), Packet::Probe(300), Packet::Answer(u64::MAX)];
        chappe_mutations::run(fuzzed::PACKET, &corpus.map(|packet| packet.encode()));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(packet.encode(), bytes);
            }
        }
    }
}
