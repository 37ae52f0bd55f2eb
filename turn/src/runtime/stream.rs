//! One TCP or TLS connection of a client.

use std::{
    any::Any,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::NewStream;
use crate::{client::Client, framing};

/// Maximum bytes queued for a client that doesn't read: half a second of video. Older packets are useless to a call.
const MAX_UNSENT: usize = 64 << 10;

/// Maximum packets queued for such a client over TLS. Each becomes a record, which takes more memory than a short packet.
const MAX_QUEUED: usize = 512;

/// How long a client may read nothing while bytes are queued for it.
const MAX_STALL: Duration = Duration::from_secs(10);

/// How long a connection may stay without an allocation.
const MAX_UNALLOCATED: Duration = Duration::from_secs(30);

pub(super) struct Stream {
    pub(super) socket: TcpStream,
    pub(super) client: Client,
    tls: Option<Box<rustls::ServerConnection>>,
    /// The start of an incomplete packet. If `has_rest`, complete packets for the next turn come before it.
    pub(super) partial: Vec<u8>,
    /// Whether there may be complete packets that were received in an earlier turn.
    pub(super) has_rest: bool,
    /// Whether it is in the list of connections with packets for the next turns.
    pub(super) is_ready: bool,
    /// Bytes to send, from `sent` on. The first packet may be partly sent, the others are complete.
    output: Vec<u8>,
    sent: usize,
    /// Packets in the queue of a TLS connection. They leave it together, when they are encrypted.
    queued: usize,
    /// When the socket's send buffer became full, if it has accepted no bytes since.
    stalled: Option<Instant>,
    opened: Instant,
    /// Whether the epoll reports when the socket becomes writable.
    pub(super) awaits_writable: bool,
    _guard: Box<dyn Any + Send>,
}

/// The connection has ended, or breaks the protocol.
#[derive(Debug)]
pub(super) struct Ended;

impl Stream {
    pub(super) fn new(id: u32, new: NewStream, now: Instant) -> io::Result<Self> {
        let NewStream { socket, addr, mut tls, received, guard } = new;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        if let Some(tls) = &mut tls {
            // `MAX_UNSENT` bounds the queue. A limit of the session could accept a part of a packet.
            tls.set_buffer_limit(None);
        }
        Ok(Self {
            socket,
            client: Client::Stream { id, addr },
            tls,
            partial: received,
            has_rest: false,
            is_ready: false,
            queued: 0,
            output: Vec::new(),
            sent: 0,
            stalled: None,
            opened: now,
            awaits_writable: false,
            _guard: guard,
        })
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Receives from the socket of a TLS connection, and decrypts. Does nothing on a TCP connection.
    pub(super) fn receive_tls(&mut self) -> Result<(), Ended> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        match tls.read_tls(&mut self.socket) {
            Ok(0) => return Err(Ended),
            Ok(_) => {}
            Err(error) if is_transient(&error) => {}
            Err(_) => return Err(Ended),
        }
        tls.process_new_packets().map_err(|_| Ended)?;
        Ok(())
    }

    /// Reads decrypted bytes, or from the socket of a TCP connection. Returns 0 if no bytes are available.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Ended> {
        let read = match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => tls.reader().read(buffer),
        };
        match read {
            Ok(0) => Err(Ended),
            Ok(len) => Ok(len),
            Err(error) if is_transient(&error) => Ok(0),
            Err(_) => Err(Ended),
        }
    }

    /// Queues a packet. Returns `false` if the queue is full: the packet is not queued.
    pub(super) fn queue(&mut self, packet: &[u8]) -> bool {
        if self.output.len() - self.sent + packet.len() > MAX_UNSENT || self.queued >= MAX_QUEUED {
            return false;
        }
        self.queued += usize::from(self.tls.is_some());
        self.output.extend_from_slice(packet);
        true
    }

    /// Sends until the socket's send buffer is full. Returns whether bytes are left.
    pub(super) fn flush(&mut self, now: Instant) -> Result<bool, Ended> {
        loop {
            let written = match &mut self.tls {
                None if self.sent == self.output.len() => break,
                None => self.socket.write(&self.output[self.sent..]),
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.socket),
                Some(_) if self.sent == self.output.len() => break,
                Some(tls) => {
                    // Encrypt only after the last records are sent, so that at most twice the bound is in memory.
                    encrypt(tls, &self.output[self.sent..]).map_err(|_| Ended)?;
                    self.output.clear();
                    (self.sent, self.queued) = (0, 0);
                    continue;
                }
            };
            match written {
                Ok(0) => return Err(Ended),
                Ok(len) => {
                    self.stalled = None;
                    if self.tls.is_none() {
                        self.sent += len;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled.get_or_insert(now);
                    self.compact();
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Ended),
            }
        }
        self.output.clear();
        (self.sent, self.queued) = (0, 0);
        Ok(false)
    }

    /// Removes the sent bytes from the queue.
    fn compact(&mut self) {
        self.output.drain(..self.sent);
        self.sent = 0;
    }

    /// Whether the connection must be closed: its client doesn't read, or has not allocated.
    pub(super) fn is_overdue(&self, has_allocation: bool, now: Instant) -> bool {
        self.stalled.is_some_and(|since| now.saturating_duration_since(since) > MAX_STALL)
            || (!has_allocation && now.saturating_duration_since(self.opened) > MAX_UNALLOCATED)
    }
}

/// Encrypts each packet as a separate TLS record: coturn's client expects one packet in each record.
fn encrypt(tls: &mut rustls::ServerConnection, mut packets: &[u8]) -> io::Result<()> {
    while let Some((header, _)) = packets.split_first_chunk() {
        let len = framing::frame(*header).map_or(packets.len(), |frame| frame.padded.min(packets.len()));
        let (packet, rest) = packets.split_at(len);
        tls.writer().write_all(packet)?;
        packets = rest;
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener},
        sync::Arc,
        thread,
    };

    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
        pki_types::PrivateKeyDer,
    };

    use super::*;

    /// A connection on loopback with small buffers, and its client's end.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        socket2::SockRef::from(&client).set_recv_buffer_size(16 << 10).expect("a size");
        socket2::SockRef::from(&socket).set_send_buffer_size(16 << 10).expect("a size");
        (socket, client)
    }

    fn stream(socket: TcpStream, tls: Option<Box<ServerConnection>>, now: Instant) -> Stream {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let new = NewStream { socket, addr, tls, received: Vec::new(), guard: Box::new(()) };
        Stream::new(0, new, now).expect("a socket")
    }

    /// A TLS session after its handshake, and its client.
    fn session(socket: &mut TcpStream, client: TcpStream) -> (Box<ServerConnection>, impl io::Read + use<>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let of_client = ClientConfig::builder_with_provider(provider.clone());
        let of_client = of_client.with_safe_default_protocol_versions().expect("versions");
        let of_client = of_client.with_root_certificates(roots).with_no_client_auth();
        let of_server = ServerConfig::builder_with_provider(provider);
        let of_server = of_server.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let of_server = of_server.with_single_cert(vec![certificate], key).expect("a certificate");
        let name = "localhost".try_into().expect("a name");
        let shaking = thread::spawn(move || {
            let session = ClientConnection::new(Arc::new(of_client), name).expect("a session");
            let mut client = StreamOwned::new(session, client);
            client.conn.complete_io(&mut client.sock).expect("a handshake");
            client
        });
        let mut server = ServerConnection::new(Arc::new(of_server)).expect("a session");
        server.complete_io(socket).expect("a handshake");
        (Box::new(server), shaking.join().expect("a handshake"))
    }

    #[test]
    fn a_client_that_reads_steadily_and_never_all_gets_more_packets_than_the_bound_of_tls() {
        let ((socket, mut client), now) = (connection(), Instant::now());
        let mut stream = stream(socket, None, now);
        // Fill the buffers of the system.
        let packet = [1; 100];
        while !stream.flush(now).expect("it is open") {
            (0..100).for_each(|_| assert!(stream.queue(&packet)));
        }
        for number in 0..4 * MAX_QUEUED {
            client.read_exact(&mut [0; 100]).expect("a packet");
            assert!(stream.queue(&packet), "packet {number}");
            stream.flush(now).expect("it is open");
        }
        assert!(stream.output.len() > stream.sent, "it never read all");
    }

    #[test]
    fn the_queue_of_a_client_that_does_not_read_is_bounded_in_bytes_and_over_tls_in_packets() {
        let ((mut socket, client), now) = (connection(), Instant::now());
        let (tls, mut client) = session(&mut socket, client);
        let mut over_tls = stream(socket, Some(tls), now);
        for _ in 0..2 {
            assert_eq!((0..10_000).filter(|_| over_tls.queue(&[0x40, 0, 0, 0])).count(), MAX_QUEUED);
            for _ in 0..MAX_QUEUED {
                over_tls.flush(now).expect("it is open");
                client.read_exact(&mut [0; 4]).expect("a packet");
            }
            assert!(!over_tls.flush(now).expect("it is open"), "all are read");
        }
        let (socket, _client) = connection();
        let mut over_tcp = stream(socket, None, now);
        assert_eq!((0..100_000).filter(|_| over_tcp.queue(&[0x40, 0, 0, 0])).count(), MAX_UNSENT / 4);
        assert!(!over_tcp.queue(&[1; 1000]), "it does not fit");
    }

    #[test]
    fn a_connection_without_an_allocation_or_whose_client_does_not_read_is_closed_in_time() {
        let ((socket, _client), opened) = (connection(), Instant::now());
        let mut stream = stream(socket, None, opened);
        let after = |seconds| opened + Duration::from_secs(seconds);
        assert!(!stream.is_overdue(false, after(30)) && stream.is_overdue(false, after(31)));
        assert!(!stream.is_overdue(true, after(3600)), "it has an allocation");
        while !stream.flush(after(100)).expect("it is open") {
            assert!(stream.queue(&[1; 1000]));
        }
        assert!(!stream.is_overdue(true, after(110)) && stream.is_overdue(true, after(111)));
    }
}
