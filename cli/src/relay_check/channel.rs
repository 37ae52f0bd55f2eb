//! A connection to a STUN server over one transport.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chappe_client::IceServer;
use chappe_discovery::reach::ReachError;
use chappe_turn::framing;
use rustls::{ClientConfig, pki_types::ServerName};
use stun_types::message::TransactionId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    RelayError, Transport,
    message::{self, Answer, Challenge, Request},
};

/// How long a response is awaited after each send over UDP. RFC 8489, 6.2.1 begins with 500 ms.
const RESENDS: [Duration; 3] = [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];

/// How long a connection, and a response over it, may take.
const STREAM_WAIT: Duration = Duration::from_secs(5);

/// Maximum length of a received packet.
const MAX_PACKET: usize = 2048;

/// Requests with a new nonce, after a 438.
const SIGNED_TRIES: usize = 2;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

enum Socket {
    Datagrams(UdpSocket),
    Bytes { stream: Box<dyn Stream>, received: Vec<u8> },
}

/// A connection to a STUN server.
pub(super) struct Channel {
    socket: Socket,
    transport: Transport,
    challenge: Challenge,
}

impl Channel {
    /// Connects. Over UDP, no packet is sent.
    pub(super) async fn open(
        transport: Transport,
        host: &str,
        addr: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, RelayError> {
        let opened = timeout(STREAM_WAIT, connect(transport, host, addr, tls)).await;
        let socket = opened.unwrap_or(Err(ReachError::Timeout.into()))?;
        Ok(Self { socket, transport, challenge: Challenge::default() })
    }

    /// Sends a packet, whose length is a multiple of four.
    pub(super) async fn send(&mut self, packet: &[u8]) -> Result<(), RelayError> {
        let sent = match &mut self.socket {
            Socket::Datagrams(socket) => socket.send(packet).await.map(drop),
            Socket::Bytes { stream, .. } => stream.write_all(packet).await,
        };
        sent.map_err(|error| RelayError::of_io(&error))
    }

    /// Receives a packet. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, RelayError> {
        match &mut self.socket {
            Socket::Datagrams(socket) => {
                let mut packet = vec![0; MAX_PACKET];
                let len = socket.recv(&mut packet).await.map_err(|error| RelayError::of_io(&error))?;
                packet.truncate(len);
                Ok(packet)
            }
            Socket::Bytes { stream, received } => loop {
                if let Some((header, _)) = received.split_first_chunk() {
                    let frame = framing::frame(*header).map_err(|_| RelayError::NotARelay)?;
                    if frame.padded > MAX_PACKET {
                        return Err(RelayError::NotARelay);
                    }
                    if received.len() >= frame.padded {
                        let mut packet: Vec<_> = received.drain(..frame.padded).collect();
                        packet.truncate(frame.packet);
                        return Ok(packet);
                    }
                }
                match stream.read_buf(received).await {
                    Ok(0) => return Err(ReachError::Reset.into()),
                    Ok(_) => {}
                    Err(error) => return Err(RelayError::of_io(&error)),
                }
            },
        }
    }

    /// Sends a request, and receives its response.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Answer, RelayError> {
        let id = TransactionId::generate();
        let packet = request.write(id, None).ok_or(RelayError::NotARelay)?;
        self.exchange(id, &packet).await
    }

    /// Sends a signed request, and receives its response. If the nonce is old, repeats the request with the new one.
    pub(super) async fn ask_signed(&mut self, request: &Request, server: &IceServer) -> Result<Answer, RelayError> {
        let mut answer = Answer::default();
        for _ in 0..SIGNED_TRIES {
            let id = TransactionId::generate();
            let packet = request.write(id, Some((server, &self.challenge))).ok_or(RelayError::NotARelay)?;
            answer = self.exchange(id, &packet).await?;
            if answer.code != Some(438) {
                break;
            }
            self.remember(answer.clone());
        }
        Ok(answer)
    }

    /// Uses the realm and nonce of a response for the next signed requests.
    pub(super) fn remember(&mut self, answer: Answer) {
        if let Some(challenge) = answer.challenge {
            self.challenge = challenge;
        }
    }

    async fn exchange(&mut self, id: TransactionId, packet: &[u8]) -> Result<Answer, RelayError> {
        let waits = match self.transport {
            Transport::Udp => &RESENDS[..],
            Transport::Tcp | Transport::Tls => &[STREAM_WAIT],
        };
        for wait in waits {
            self.send(packet).await?;
            let answered = async {
                loop {
                    if let Some(answer) = message::answer_of(&self.receive().await?, id) {
                        return Ok(answer);
                    }
                }
            };
            if let Ok(result) = timeout(*wait, answered).await {
                return result;
            }
        }
        Err(RelayError::NoAnswer(self.transport))
    }
}

async fn connect(
    transport: Transport,
    host: &str,
    addr: SocketAddr,
    tls: &Arc<ClientConfig>,
) -> Result<Socket, RelayError> {
    let of_io = |error: std::io::Error| RelayError::of_io(&error);
    if transport == Transport::Udp {
        let any: SocketAddr = if addr.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any).await.map_err(of_io)?;
        socket.connect(addr).await.map_err(of_io)?;
        return Ok(Socket::Datagrams(socket));
    }
    let stream = TcpStream::connect(addr).await.map_err(of_io)?;
    // The exchange also works if this fails.
    let _ = stream.set_nodelay(true);
    let stream: Box<dyn Stream> = if transport == Transport::Tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ReachError::Tls)?;
        let connecting = TlsConnector::from(tls.clone()).connect(name, stream);
        Box::new(connecting.await.map_err(|error| RelayError::Reach(ReachError::of_error(&error)))?)
    } else {
        Box::new(stream)
    };
    Ok(Socket::Bytes { stream, received: Vec::new() })
}
