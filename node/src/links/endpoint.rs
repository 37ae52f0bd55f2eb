//! The QUIC endpoint of a node and the transport parameters of its connections.

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use chappe_common::{keys::SecretKey, link_tls};
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};

use crate::config::FederationSection;

/// The first packets of a connection that is not accepted yet, in bytes: one flight.
const FIRST_FLIGHT: u64 = 8 * 1024;

/// After this silence a link is closed. Two of a thousand members have something to say to each other every twelve
/// minutes or so. A new link for that costs more traffic, and more false alarms where packets are lost, than the 36 KiB
/// that an idle link takes.
const LINK_IDLE: Duration = Duration::from_secs(30 * 60);

/// Binds the UDP socket.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn bind(config: &FederationSection, key: &SecretKey) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(config.listen)?;
    let crypto = link_tls::server_config(key).map_err(io::Error::other)?;
    let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport()))
        .max_incoming(config.max_handshakes)
        .incoming_buffer_size(FIRST_FLIGHT)
        .incoming_buffer_size_total(FIRST_FLIGHT.saturating_mul(config.max_handshakes as u64))
        .migration(false);
    let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no tokio runtime"))?;
    Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)
}

pub(super) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // By default every other packet is acknowledged at once, each time by a packet of its own. Five are half of what a new
    // link may have in flight, and the delay is short, so that nobody waits for an acknowledgement to send on. A packet out
    // of order is acknowledged at once, as by default, so that loss is found as early.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(5))
        .max_ack_delay(Some(Duration::from_millis(2)))
        .reordering_threshold(VarInt::from_u32(1));
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(LINK_IDLE).expect("half an hour is a valid timeout")))
        // Two lanes, and hellos or exchanges.
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        // One lane at 100 Mbit/s over a round trip of 80 ms; four such streams.
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .send_window(4 * 1024 * 1024)
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(64 * 1024))
        .datagram_send_buffer_size(64 * 1024);
    transport
}
