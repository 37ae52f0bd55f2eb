//! Checks the structure of a message before [`stun_types`] parses it: that crate logs a line for each malformed one.
//!
//! Attributes after MESSAGE-INTEGRITY are removed, so that none of them takes effect (RFC 8489, 14.5).

use stun_types::{
    attribute::{AttributeStaticType as _, AttributeType, Fingerprint, MessageIntegrity, MessageIntegritySha256},
    message::MAGIC_COOKIE,
};

/// The length of a STUN header.
pub const HEADER: usize = 20;

/// The most attributes in a message. Browsers send ten.
const MAX_ATTRIBUTES: usize = 32;

/// Whether a packet begins as a STUN message.
pub fn is_stun(packet: &[u8]) -> bool {
    packet.len() >= HEADER && packet[0] >> 6 == 0 && packet[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// Removes the attributes after the integrity of a message, and writes the new length into its header. FINGERPRINT is
/// removed as well: MESSAGE-INTEGRITY proves more, and only a Binding is answered without it.
///
/// Returns the message, or `None` if it is malformed.
pub fn truncate_after_integrity(packet: &mut [u8]) -> Option<&[u8]> {
    if !is_stun(packet) || HEADER + usize::from(u16::from_be_bytes([packet[2], packet[3]])) != packet.len() {
        return None;
    }
    let mut end = HEADER;
    let mut has_sha1 = false;
    for _ in 0..=MAX_ATTRIBUTES {
        if end == packet.len() {
            return Some(with_len(packet, end));
        }
        let header = packet.get(end..end + 4)?;
        let (kind, len) = (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
        let next = end + 4 + usize::from(len).next_multiple_of(4);
        if next > packet.len() {
            return None;
        }
        let kind = AttributeType::new(kind);
        if kind == Fingerprint::TYPE || (has_sha1 && kind != MessageIntegritySha256::TYPE) {
            return Some(with_len(packet, end));
        }
        end = next;
        if kind == MessageIntegritySha256::TYPE {
            return Some(with_len(packet, end));
        }
        // A message may have both attributes, in this order (RFC 8489, 14.6).
        has_sha1 |= kind == MessageIntegrity::TYPE;
    }
    None
}

fn with_len(packet: &mut [u8], end: usize) -> &[u8] {
    let len = u16::try_from(end - HEADER).expect("no longer than it was");
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    &packet[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stun_types::message::Message;

    use super::*;

    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = [&[0, 1, 0, 0], &MAGIC_COOKIE.to_be_bytes()[..], &[7; 12]].concat();
        for (kind, value) in attributes {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let len = u16::try_from(bytes.len() - HEADER).expect("short");
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    #[test]
    fn attributes_after_the_integrity_are_removed() {
        let kept: [(u16, &[u8]); 2] = [(0x0006, b"user"), (0x0008, &[1; 20])];
        let expected = message(&kept);
        for further in [
            vec![(0x0012, &[0; 8][..])],
            vec![(0x000d, &[0, 0, 0, 0])],
            vec![(0x8028, &[1, 2, 3, 4]), (0x0006, b"other")],
        ] {
            let mut packet = message(&[&kept[..], &further].concat());
            assert_eq!(truncate_after_integrity(&mut packet), Some(&expected[..]));
        }
        let both = [&kept[..], &[(0x001c, &[2; 32])]].concat();
        assert_eq!(
            truncate_after_integrity(&mut message(&[&both[..], &[(0x0012, &[0; 8])]].concat())),
            Some(&message(&both)[..])
        );
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = message(&[(0x0006, b"user")]);
        assert!(truncate_after_integrity(&mut good.clone()).is_some());
        for len in 0..good.len() {
            assert_eq!(truncate_after_integrity(&mut good[..len].to_vec()), None, "{len}");
        }
        assert_eq!(truncate_after_integrity(&mut [&good[..], &[0; 4]].concat()), None, "longer than its header says");
        let mut overlong = good.clone();
        overlong[23] = 5;
        assert_eq!(truncate_after_integrity(&mut overlong), None);
        let many = vec![(0x8022, &b""[..]); MAX_ATTRIBUTES];
        assert!(truncate_after_integrity(&mut message(&many)).is_some());
        assert_eq!(truncate_after_integrity(&mut message(&[&many[..], &many].concat())), None);
    }

    proptest! {
        #[test]
        fn accepted_messages_parse(mut packet in proptest::collection::vec(any::<u8>(), 0..200), cookie: bool) {
            if cookie && packet.len() >= HEADER {
                let len = u16::try_from(packet.len() - HEADER).expect("short").to_be_bytes();
                packet[..4].copy_from_slice(&[0, 1, len[0], len[1]]);
                packet[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            }
            if let Some(message) = truncate_after_integrity(&mut packet) {
                prop_assert!(Message::from_bytes(message).is_ok());
            }
        }
    }
}
