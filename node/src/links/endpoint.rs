//! The QUIC endpoint of a node and the transport parameters of its connections.

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use chappe_common::{keys::SecretKey, link_tls};
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};

use crate::config::FederationSection;

/// Bytes buffered for a connection that is not accepted yet: one flight.
const FIRST_FLIGHT: u64 = 8 * 1024;

/// Idle time after which a link is closed. In a federation of a thousand, two members exchange a packet about every
/// twelve minutes. Keeping an idle link takes 36 KiB. Opening a new one each time would cost more traffic, and more
/// false alarms where packets are lost.
const LINK_IDLE: Duration = Duration::from_secs(30 * 60);

/// Creates the endpoint on a bound socket. Returns its settings for incoming connections with it.
///
/// # Errors
/// Returns an error if the system refuses to use the socket.
pub(crate) fn on(
    socket: UdpSocket,
    config: &FederationSection,
    key: &SecretKey,
) -> io::Result<(Endpoint, ServerConfig)> {
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
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(server.clone()), socket, runtime)?;
    Ok((endpoint, server))
}

pub(super) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // By default, every second packet is acknowledged at once, in a packet of its own. Five packets are half of a new
    // link's initial window, and the delay is short, so no sender waits for an acknowledgement. A packet out of order
    // is acknowledged at once, as by default, so loss is detected as early.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(5))
        .max_ack_delay(Some(Duration::from_millis(2)))
        .reordering_threshold(VarInt::from_u32(1));
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(LINK_IDLE).expect("half an hour is a valid timeout")))
        // Unidirectional: the two lanes. Bidirectional: hellos and exchanges.
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
