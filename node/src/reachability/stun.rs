//! A STUN Binding (RFC 8489) as a client, which finds out whether a relay answers.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use chappe_common::reachability::Outcome;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UdpSocket,
    time::{Instant, timeout, timeout_at},
};

/// A Binding request, and a success response to one, in front of their length.
const REQUEST: [u8; 2] = [0, 1];
const SUCCESS: [u8; 2] = [1, 1];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The length of a header, which is a whole Binding request.
const HEADER: usize = 20;
/// Sends over UDP, and the time between them.
const SENDS: usize = 3;
const RESEND: Duration = Duration::from_millis(500);
/// How long the last of them, or a stream, waits for a response.
const WAIT: Duration = Duration::from_secs(1);

/// A Binding request with a random transaction id. `None` if the system has no random bytes.
fn request() -> Option<[u8; HEADER]> {
    let mut request = [0; HEADER];
    request[..2].copy_from_slice(&REQUEST);
    request[4..8].copy_from_slice(&COOKIE);
    getrandom::fill(&mut request[8..]).ok()?;
    Some(request)
}

/// Whether a packet is the success response to a request.
fn answers(packet: &[u8], request: &[u8; HEADER]) -> bool {
    packet.len() >= HEADER && packet[..2] == SUCCESS && packet[4..HEADER] == request[4..]
}

/// Tries a relay over UDP, from a socket of its own.
pub(super) async fn over_udp(addr: SocketAddr) -> Outcome {
    let any: SocketAddr =
        if addr.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let Some(request) = request() else { return Outcome::NotTried };
    let Ok(socket) = UdpSocket::bind(any).await else { return Outcome::NotTried };
    if socket.connect(addr).await.is_err() {
        return Outcome::NotTried;
    }
    let mut packet = [0; 512];
    for send in 1..=SENDS {
        // A refusal may be that of an earlier packet.
        if let Err(error) = socket.send(&request).await
            && error.kind() != std::io::ErrorKind::ConnectionRefused
        {
            return Outcome::NotTried;
        }
        let until = Instant::now() + if send == SENDS { WAIT } else { RESEND };
        loop {
            match timeout_at(until, socket.recv(&mut packet)).await {
                Ok(Ok(len)) if answers(&packet[..len], &request) => return Outcome::Works,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Outcome::Refused,
                Ok(Err(_)) => return Outcome::Unreachable,
                Err(_) => break,
            }
        }
    }
    Outcome::NoAnswer
}

/// Tries a relay over an open stream.
pub(super) async fn over_stream(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Outcome {
    let Some(request) = request() else { return Outcome::NotTried };
    let exchange = async {
        let mut header = [0; HEADER];
        stream.write_all(&request).await.ok()?;
        stream.flush().await.ok()?;
        stream.read_exact(&mut header).await.ok()?;
        Some(header)
    };
    match timeout(WAIT, exchange).await {
        Ok(Some(header)) if answers(&header, &request) => Outcome::Works,
        Ok(Some(_)) => Outcome::WrongService,
        Ok(None) => Outcome::Reset,
        Err(_) => Outcome::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the second request, after a packet that is no answer.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let addr = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut request = [0; HEADER];
            for _ in 0..2 {
                let (_, from) = socket.recv_from(&mut request).await.expect("a request");
                socket.send_to(b"no answer", from).await.expect("a packet");
                let mut other = request;
                other[..2].copy_from_slice(&SUCCESS);
                other[HEADER - 1] ^= 1;
                socket.send_to(&other, from).await.expect("a packet");
            }
            let (_, from) = socket.recv_from(&mut request).await.expect("a request");
            request[..2].copy_from_slice(&SUCCESS);
            socket.send_to(&request, from).await.expect("a packet");
        });
        addr
    }

    #[tokio::test]
    async fn only_the_response_to_the_request_counts_and_a_lost_packet_is_sent_again() {
        assert_eq!(over_udp(server().await).await, Outcome::Works);
        let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        assert_eq!(over_udp(silent.local_addr().expect("an address")).await, Outcome::NoAnswer);
    }

    #[tokio::test]
    async fn a_stream_of_another_service_is_told_apart() {
        for (answer, expected) in [(&b"HTTP/1.1 400 Bad Request"[..], Outcome::WrongService), (b"", Outcome::Reset)] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let serve = async {
                theirs.read_exact(&mut [0; HEADER]).await.expect("a request");
                theirs.write_all(answer).await.expect("a stream");
                drop(theirs);
            };
            assert_eq!(tokio::join!(over_stream(ours), serve).0, expected);
        }
    }
}
