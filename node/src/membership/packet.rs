//! The datagrams between two members.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The maximum packet length in bytes. It always fits a QUIC datagram at the minimum MTU.
pub const MAX_PACKET: usize = 1162;

/// A membership packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A packet of the SWIM library: probes and news.
    Swim(Bytes),
    /// A probe of the sender's own check, with its number.
    Probe(u64),
    /// The answer to a probe, with the probe's number.
    Answer(u64),
}

/// The bytes are not a membership packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a membership packet")]
pub struct BadPacket;

impl Packet {
    /// Encodes the packet: one byte for the kind, then the content.
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

    /// Decodes a packet.
    ///
    /// # Errors
    /// The bytes are not a packet, or longer than [`MAX_PACKET`].
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

/// Properties that the tests and the fuzzer check for every input.
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
    fn a_packet_of_unknown_kind_or_wrong_length_does_not_decode() {
        for bytes in [&b""[..], b"\x03", b"\x01", b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(Packet::decode(&Bytes::copy_from_slice(bytes)), Err(BadPacket));
        }
        assert_eq!(Packet::decode(&Bytes::from(vec![0; MAX_PACKET + 1])), Err(BadPacket));
    }

    #[test]
    fn mutated_datagrams_decode_to_packets_of_the_same_bytes_or_fail() {
        let corpus = [Packet::Swim(Bytes::from_static(b"gossip")), Packet::Probe(300), Packet::Answer(u64::MAX)];
        chappe_mutations::run(fuzzed::PACKET, &corpus.map(|packet| packet.encode()));
    }

    proptest! {
        #[test]
        fn decoded_packets_encode_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(packet.encode(), bytes);
            }
        }
    }
}
