//! Where a packet ends in a TCP or TLS stream (RFC 8656, 12.5; RFC 8489, 6.2.2).
//!
//! A STUN message has a length that is a multiple of four. A ChannelData message is padded to one; the padding is not part
//! of its length.

use crate::channel_data;

/// The bytes at the start of a packet that determine its length.
pub const HEADER: usize = 4;

/// The longest packet in a stream: the longest STUN message. Its length field is 16 bits.
pub const MAX_PACKET: usize = 20 + u16::MAX as usize;

/// The extent of the packet at the start of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The length of the packet.
    pub packet: usize,
    /// The length of the packet with its padding.
    pub padded: usize,
}

/// The stream holds neither STUN nor ChannelData. The start of the next packet cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a STUN message nor ChannelData")]
pub struct NotAPacket;

/// Returns the extent of the packet that starts with `header`.
///
/// # Errors
/// It is neither a STUN message nor ChannelData.
pub fn frame(header: [u8; HEADER]) -> Result<Frame, NotAPacket> {
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if channel_data::is_channel_data(header[0]) {
        let packet = channel_data::HEADER + len;
        return Ok(Frame { packet, padded: packet.next_multiple_of(4) });
    }
    // The first two bits of a STUN message are zero. Its attributes are padded, so its length is a multiple of four.
    if header[0] >> 6 != 0 || len % 4 != 0 {
        return Err(NotAPacket);
    }
    Ok(Frame { packet: 20 + len, padded: 20 + len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_of_each_size_is_padded_to_four_bytes() {
        for len in 0..=1500_u16 {
            let [a, b] = len.to_be_bytes();
            let len = usize::from(len);
            let expected = Frame { packet: 4 + len, padded: (4 + len).div_ceil(4) * 4 };
            assert_eq!(frame([0x40, 0, a, b]), Ok(expected));
            assert_eq!(frame([0x7f, 0xff, a, b]), Ok(expected));
        }
    }

    #[test]
    fn anything_but_stun_and_channel_data_is_refused() {
        assert_eq!(frame([0, 1, 0, 8]), Ok(Frame { packet: 28, padded: 28 }));
        assert_eq!(frame([0, 1, 0, 7]), Err(NotAPacket));
        assert_eq!(frame(*b"\x16\x03\x01\x02"), Err(NotAPacket), "a TLS ClientHello");
        assert_eq!(frame([0x80, 0, 0, 0]), Err(NotAPacket));
    }
}
