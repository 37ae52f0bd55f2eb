//! The targets of the fuzzer and of the mutation tests: packets of a client, and the bytes of a connection.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    credentials::CredentialSecret,
    framing,
    limits::{Limits, RelayAddress, RelayAddresses},
    packet::{HEADROOM, Packet, TAILROOM},
    peer_filter::PeerFilter,
    response,
    server::{Action, Config, RelayId, RelaySockets, Server},
    time::Now,
};

/// Sockets whose binds always succeed.
pub(crate) struct NoSockets;

impl RelaySockets for NoSockets {
    fn bind(&mut self, _: RelayId, _: u16) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _: RelayId) {}
}

/// A server with IPv4 addresses.
pub(crate) fn server(now: Now) -> Server {
    let address = RelayAddress { external: Some([192, 0, 2, 1].into()), ports: 50_000..=50_999 };
    let config = Config {
        limits: Limits::default(),
        addresses: RelayAddresses { v4: Some(address), v6: None },
        secret: CredentialSecret::new(b"secret"),
        filter: PeerFilter::default(),
        listening: Vec::new(),
        seed: [7; 32],
    };
    Server::new(config, now.monotonic)
}

/// A packet of an unverified client: it gets at most a small response, and makes no allocation.
pub const PACKET: (&str, fn(&[u8]) -> bool) = ("turn_packet", |packet| {
    let now = Now { monotonic: Instant::now(), unix: 1_800_000_000 };
    let mut server = server(now);
    let client = Client::Udp { socket: 0, addr: ([198, 51, 100, 7], 4000).into() };
    let mut buffer = vec![0; HEADROOM + packet.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    let action = server.handle_client(&mut NoSockets, client, Packet::new(&mut buffer, packet.len()), now);
    assert_eq!(server.allocations(), 0, "nobody has signed it");
    server.handle_timeout(&mut NoSockets, Now { monotonic: now.monotonic + Duration::from_secs(1), ..now });
    match action {
        Action::Nothing => false,
        Action::Respond(answer) => {
            assert!(response::is_answerable(&client, packet.len(), answer.len()));
            true
        }
        Action::ToPeer { .. } | Action::ToClient { .. } => panic!("nobody has an allocation"),
    }
});

/// The bytes of a connection: consecutive packets.
pub const STREAM: (&str, fn(&[u8]) -> bool) = ("turn_stream", |stream| {
    let mut rest = stream;
    let mut packets = 0;
    while let Some((header, _)) = rest.split_first_chunk() {
        let Ok(frame) = framing::frame(*header) else { return false };
        assert!(frame.packet <= frame.padded && frame.padded <= frame.packet + 3 && frame.padded.is_multiple_of(4));
        let Some(next) = rest.get(frame.padded..) else { break };
        rest = next;
        packets += 1;
    }
    packets > 0
});

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42transaction!";
    const ALLOCATE: [u8; 28] = *b"\x00\x03\x00\x08\x21\x12\xa4\x42transaction!\x00\x19\x00\x04\x11\x00\x00\x00";

    /// An Allocate with USERNAME, REALM, NONCE and MESSAGE-INTEGRITY, all of them wrong.
    fn signed() -> Vec<u8> {
        let mut message = ALLOCATE.to_vec();
        for (kind, value) in
            [(6, &b"1800000600:0000000000000001"[..]), (0x14, b"turn"), (0x15, b"AAAAAAAAAAAAAAAA"), (8, &[9; 20])]
        {
            message.extend([0, kind, 0, u8::try_from(value.len()).expect("short")]);
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message[3] = u8::try_from(message.len() - 20).expect("short");
        message
    }

    #[test]
    fn mutated_packets_get_small_answers_or_none() {
        chappe_mutations::run(PACKET, &[BINDING.to_vec(), ALLOCATE.to_vec(), signed()]);
    }

    #[test]
    fn mutated_streams_are_split_or_refused() {
        let data = b"\x40\x00\x00\x05hello\x00\x00\x00".to_vec();
        chappe_mutations::run(STREAM, &[BINDING.to_vec(), data.clone(), [&data[..], &signed(), &data].concat()]);
    }
}
