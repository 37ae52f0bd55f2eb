//! A packet in its buffer, with room for a header before it and padding after it.
//!
//! A relayed packet is never copied: its new header is written before its payload.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use stun_types::{attribute::AttributeStaticType as _, message::MAGIC_COOKIE};
use turn_types::attribute::{Data, XorPeerAddress};

use crate::channel_data::{self, ChannelNumber};

const STUN_HEADER: usize = 20;
const ATTRIBUTE_HEADER: usize = 4;
const DATA_HEADER: usize = ATTRIBUTE_HEADER;
/// The message type of Data indications (RFC 8656, 17).
const DATA_INDICATION: u16 = 0x0017;

/// Bytes before a received packet: a Data indication with an IPv6 address.
pub const HEADROOM: usize = STUN_HEADER + ATTRIBUTE_HEADER + 20 + DATA_HEADER;

/// Bytes after a received packet: padding to four bytes.
pub const TAILROOM: usize = 3;

/// A received packet.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    end: usize,
}

impl<'a> Packet<'a> {
    /// Takes a buffer that holds a packet of `len` bytes from [`HEADROOM`] on.
    ///
    /// # Panics
    /// The buffer is shorter than [`HEADROOM`], `len` and [`TAILROOM`] together.
    pub fn new(buffer: &'a mut [u8], len: usize) -> Self {
        let end = HEADROOM + len;
        assert!(end + TAILROOM <= buffer.len(), "the buffer has room for padding");
        Self { buffer, end }
    }

    /// The received bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[HEADROOM..self.end]
    }

    /// The received bytes, mutable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[HEADROOM..self.end]
    }

    /// Converts a range of the received bytes to one of the buffer.
    pub(crate) fn range(&self, received: Range<usize>) -> Range<usize> {
        HEADROOM + received.start..HEADROOM + received.end
    }

    /// Writes a ChannelData header before a payload, and its padding if `is_padded`. Returns the range of both.
    pub(crate) fn channel_data(
        &mut self,
        number: ChannelNumber,
        payload: Range<usize>,
        is_padded: bool,
    ) -> Range<usize> {
        let start = payload.start - channel_data::HEADER;
        self.buffer[start..payload.start].copy_from_slice(&channel_data::header(number, payload.len()));
        start..if is_padded { self.pad(&payload) } else { payload.end }
    }

    /// Writes a Data indication around a payload (RFC 8656, 11.3). Returns its range.
    pub(crate) fn data_indication(&mut self, peer: SocketAddr, payload: Range<usize>, random: u128) -> Range<usize> {
        let end = self.pad(&payload);
        let address_len = if peer.is_ipv4() { 8 } else { 20 };
        let start = payload.start - DATA_HEADER - ATTRIBUTE_HEADER - address_len - STUN_HEADER;
        let id = u128::from(MAGIC_COOKIE) << 96 | random >> 32;
        let mut writer = &mut self.buffer[start..payload.start];
        let mut put = |bytes: &[u8]| {
            let (head, rest) = std::mem::take(&mut writer).split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            writer = rest;
        };
        put(&DATA_INDICATION.to_be_bytes());
        put(&len_field(end - start - STUN_HEADER));
        put(&id.to_be_bytes());
        put(&XorPeerAddress::TYPE.value().to_be_bytes());
        put(&len_field(address_len));
        // RFC 8489, 14.2: the high bits of the port and an IPv4 address are combined with the cookie.
        let [port_mask, ip_mask] = [MAGIC_COOKIE >> 16, MAGIC_COOKIE];
        let port = u32::from(peer.port()) ^ port_mask;
        match peer.ip() {
            IpAddr::V4(ip) => {
                put(&(1 << 16 | port).to_be_bytes());
                put(&(u32::from(ip) ^ ip_mask).to_be_bytes());
            }
            IpAddr::V6(ip) => {
                put(&(2 << 16 | port).to_be_bytes());
                put(&(u128::from(ip) ^ id).to_be_bytes());
            }
        }
        put(&Data::TYPE.value().to_be_bytes());
        put(&len_field(payload.len()));
        start..end
    }

    /// Writes zeros after a payload, up to a multiple of four bytes. Returns its new end.
    fn pad(&mut self, payload: &Range<usize>) -> usize {
        let end = payload.end + payload.len().next_multiple_of(4) - payload.len();
        self.buffer[payload.end..end].fill(0);
        end
    }
}

fn len_field(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("no longer than a UDP packet and its header").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stun_types::message::{Message, MessageClass};
    use turn_types::{channel::ChannelData, message::DATA};

    use super::*;

    fn with_packet<T>(payload: &[u8], run: impl FnOnce(Packet<'_>, Range<usize>) -> T) -> (T, Vec<u8>) {
        // The previous content of the buffer must not be sent.
        let mut buffer = vec![0xee; HEADROOM + payload.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + payload.len()].copy_from_slice(payload);
        let result = run(Packet::new(&mut buffer, payload.len()), HEADROOM..HEADROOM + payload.len());
        (result, buffer)
    }

    proptest! {
        // Class 21 of docs/protocol/turn.md: padding is zero.
        #[test]
        fn data_indications_are_those_that_a_parser_reads(
            payload in proptest::collection::vec(1_u8.., 0..40),
            ip: IpAddr,
            port: u16,
            random: u128,
        ) {
            let peer = SocketAddr::new(ip, port);
            let (range, buffer) = with_packet(&payload, |mut packet, range| packet.data_indication(peer, range, random));
            let message = Message::from_bytes(&buffer[range.clone()]).expect("a message");
            prop_assert!(message.has_class(MessageClass::Indication) && message.has_method(DATA));
            let address = message.attribute::<XorPeerAddress>().expect("an address");
            prop_assert_eq!(address.addr(message.transaction_id()), peer);
            let data = message.attribute::<Data<'_>>().expect("data");
            prop_assert_eq!(data.data(), &payload[..]);
            let padding = payload.len().next_multiple_of(4) - payload.len();
            prop_assert!(buffer[range.end - padding..range.end].iter().all(|byte| *byte == 0));
        }

        #[test]
        fn channel_data_is_padded_in_streams_alone(payload in proptest::collection::vec(1_u8.., 0..40), is_padded: bool) {
            let number = ChannelNumber::new(0x4123).expect("in range");
            let (range, buffer) =
                with_packet(&payload, |mut packet, range| packet.channel_data(number, range, is_padded));
            let sent = &buffer[range];
            let parsed = ChannelData::parse(sent).expect("channel data");
            prop_assert_eq!((parsed.id(), parsed.data()), (0x4123, &payload[..]));
            let expected = if is_padded { (4 + payload.len()).next_multiple_of(4) } else { 4 + payload.len() };
            prop_assert_eq!(sent.len(), expected);
            prop_assert!(sent[4 + payload.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
