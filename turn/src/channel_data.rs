//! ChannelData messages (RFC 8656, 12.4).

/// The length of the header: channel number and payload length.
pub const HEADER: usize = 4;

/// The first and last channel number. RFC 8656 ends the range at 0x4fff, so that other protocols can share a client's port.
/// coturn's client still uses the whole range of RFC 5766. No other protocol shares the server's port.
const FIRST: u16 = 0x4000;
const LAST: u16 = 0x7fff;

/// A channel number within the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// Checks a number. Returns `None` outside 0x4000–0x7fff.
    pub fn new(number: u16) -> Option<Self> {
        (FIRST..=LAST).contains(&number).then_some(Self(number))
    }
}

/// Whether a packet with this first byte is ChannelData.
pub const fn is_channel_data(first: u8) -> bool {
    first >> 6 == 1
}

/// Parses a header. Returns the channel and the length of the payload, or `None` if it is not ChannelData.
pub fn parse(packet: &[u8]) -> Option<(ChannelNumber, usize)> {
    let (header, _) = packet.split_first_chunk::<HEADER>()?;
    let number = ChannelNumber::new(u16::from_be_bytes([header[0], header[1]]))?;
    Some((number, usize::from(u16::from_be_bytes([header[2], header[3]]))))
}

/// Returns the header for `len` bytes of payload.
///
/// # Panics
/// The payload is longer than a UDP packet can be.
pub fn header(number: ChannelNumber, len: usize) -> [u8; HEADER] {
    let [a, b] = number.0.to_be_bytes();
    let [c, d] = u16::try_from(len).expect("a payload fits a UDP packet").to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_the_rfc() {
        let number = ChannelNumber::new(0x4abc).expect("in range");
        assert_eq!(header(number, 300), [0x4a, 0xbc, 0x01, 0x2c]);
        assert_eq!(parse(&[0x4a, 0xbc, 0x01, 0x2c, 9]), Some((number, 300)));
    }

    #[test]
    fn numbers_outside_the_range_and_short_packets_are_refused() {
        for first in 0..=u8::MAX {
            assert_eq!(parse(&[first, 0, 0, 0]).is_some(), is_channel_data(first));
        }
        assert_eq!(parse(&[0x40, 0, 0]), None);
        assert_eq!(parse(&[]), None);
    }
}
