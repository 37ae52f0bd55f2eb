//! Decodes packets of the SWIM library before the library sees them.
//!
//! The layout is that of foca 2.0 with its postcard codec: a header, the updates, and the items. Before
//! the updates is their number, and before each item its length, each as two bytes, big endian. Broadcasts have no
//! updates.

use foca::{Header, Member, Message};

use super::member::MemberId;

/// A decoded packet.
#[derive(Debug)]
pub struct Gossip<'a> {
    /// The sender, the receiver, and the message type.
    pub header: Header<MemberId>,
    /// The sender's statements about third parties.
    pub updates: Vec<Member<MemberId>>,
    /// The news in the packet.
    pub items: Vec<&'a [u8]>,
}

/// The bytes are not a packet of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packet of the membership library")]
pub struct BadGossip;

impl<'a> Gossip<'a> {
    /// Decodes a complete packet. Its length bounds the number of updates and items.
    ///
    /// # Errors
    /// The bytes are not a packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, BadGossip> {
        let (header, mut rest) = postcard::take_from_bytes::<Header<MemberId>>(packet).map_err(|_| BadGossip)?;
        let mut updates = Vec::new();
        if !rest.is_empty() && header.message != Message::Broadcast {
            let count = take_u16(&mut rest)?;
            for _ in 0..count {
                let (update, after) = postcard::take_from_bytes(rest).map_err(|_| BadGossip)?;
                updates.push(update);
                rest = after;
            }
        }
        let mut items = Vec::new();
        while !rest.is_empty() {
            let len = usize::from(take_u16(&mut rest)?);
            if len == 0 {
                return Err(BadGossip);
            }
            let (item, after) = rest.split_at_checked(len).ok_or(BadGossip)?;
            items.push(item);
            rest = after;
        }
        Ok(Self { header, updates, items })
    }
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, BadGossip> {
    let (bytes, after) = rest.split_first_chunk::<2>().ok_or(BadGossip)?;
    *rest = after;
    Ok(u16::from_be_bytes(*bytes))
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Encodes a packet. `updates` is `None` if the message type has none.
    pub(super) fn packet(header: &Header<MemberId>, updates: Option<&[Member<MemberId>]>, items: &[&[u8]]) -> Vec<u8> {
        let mut bytes = postcard::to_allocvec(header).expect("a header");
        if let Some(updates) = updates {
            bytes.extend_from_slice(&u16::try_from(updates.len()).expect("few").to_be_bytes());
            for update in updates {
                bytes.extend_from_slice(&postcard::to_allocvec(update).expect("an update"));
            }
        }
        for item in items {
            bytes.extend_from_slice(&u16::try_from(item.len()).expect("short").to_be_bytes());
            bytes.extend_from_slice(item);
        }
        bytes
    }

    /// A packet of the library.
    pub const GOSSIP: (&str, fn(&[u8]) -> bool) = ("gossip", |bytes| {
        let Ok(gossip) = Gossip::decode(bytes) else { return false };
        let Gossip { header, updates, items } = gossip;
        let has_updates = header.message != Message::Broadcast;
        let again = packet(&header, has_updates.then_some(&updates[..]), &items);
        let again = Gossip::decode(&again).expect("what was read can be written");
        assert_eq!((again.header, again.updates, again.items), (header, updates, items));
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::{NodeId, PublicKey};
    use foca::State;

    use super::*;

    fn id(n: u8) -> MemberId {
        MemberId { node: NodeId::new(PublicKey::from_bytes([n; 32])), epoch: 300 }
    }

    fn packet(message: Message<MemberId>, updates: Option<&[Member<MemberId>]>, items: &[&[u8]]) -> Vec<u8> {
        fuzzed::packet(&Header { src: id(1), src_incarnation: 0, dst: id(2), message }, updates, items)
    }

    #[test]
    fn a_packet_is_taken_apart_as_the_library_puts_it_together() {
        let updates = [Member::new(id(3), 0, State::Alive), Member::new(id(4), 7, State::Down)];
        let bytes = packet(Message::Ping(9), Some(&updates), &[b"one", b"two"]);
        let gossip = Gossip::decode(&bytes).expect("a packet");
        assert_eq!((gossip.header.src, gossip.header.dst), (id(1), id(2)));
        assert_eq!((gossip.updates.as_slice(), gossip.items.as_slice()), (&updates[..], &[&b"one"[..], b"two"][..]));
        let bytes = packet(Message::Broadcast, None, &[b"news"]);
        assert_eq!(Gossip::decode(&bytes).expect("a packet").items, [b"news"]);
        assert!(Gossip::decode(&packet(Message::TurnUndead, None, &[])).is_ok());
    }

    #[test]
    fn truncated_packets_and_packets_with_wrong_counts_do_not_decode() {
        let whole = packet(Message::Gossip, Some(&[Member::new(id(3), 0, State::Alive)]), &[b"item"]);
        let header = packet(Message::Gossip, None, &[]).len();
        // A header alone is a packet, and so is a packet that ends between two items.
        let ends = [header, whole.len() - 6, whole.len()];
        for len in 0..=whole.len() {
            assert_eq!(Gossip::decode(&whole[..len]).is_ok(), ends.contains(&len), "{len}");
        }
        let mut many = packet(Message::Gossip, None, &[]);
        many.extend_from_slice(&[0xff, 0xff]);
        assert!(Gossip::decode(&many).is_err());
        assert!(Gossip::decode(&packet(Message::Gossip, Some(&[]), &[b""])).is_err());
    }

    #[test]
    fn mutated_packets_read_as_they_are_written() {
        let updates = [Member::new(id(3), 0, State::Alive), Member::new(id(4), 300, State::Suspect)];
        let corpus = [
            packet(Message::Ping(9), Some(&updates), &[b"one", b"two"]),
            packet(Message::PingReq { target: id(5), probe_number: 7 }, Some(&[]), &[]),
            packet(Message::IndirectAck { target: id(5), probe_number: 255 }, Some(&updates), &[]),
            packet(Message::Announce, None, &[]),
            packet(Message::Broadcast, None, &[b"news"]),
        ];
        chappe_mutations::run(fuzzed::GOSSIP, &corpus);
    }
}
