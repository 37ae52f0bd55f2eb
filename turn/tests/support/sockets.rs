//! A running relay, and its clients over UDP and TCP.

use std::{
    any::Any,
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chappe_turn::{
    credentials::{CredentialName, CredentialSecret},
    limits::{Limits, RelayAddress, RelayAddresses},
    peer_filter::PeerFilter,
    runtime::{NewStream, Relay, RelayConfig, Snapshot},
    server::Config,
};
use ipnet::IpNet;
use stun_types::{
    attribute::{AttributeWrite, Nonce},
    message::{Message, TransactionId},
};
use turn_types::{
    attribute::{ChannelNumber, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND},
};

use super::{User, code, plain, signed, signed_as};

/// How long a condition may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A relay on loopback. Its peers may be on loopback too.
pub(crate) fn start() -> (Relay, SocketAddr) {
    start_at(Ipv4Addr::LOCALHOST.into(), vec!["127.0.0.0/8".parse().expect("a network")])
}

/// A relay at an address, with these networks allowed as peers.
pub(crate) fn start_at(ip: IpAddr, allowed: Vec<IpNet>) -> (Relay, SocketAddr) {
    let relay = start_at_all(&[ip], &[ip], allowed);
    let addr = relay.addrs()[0];
    (relay, addr)
}

/// A relay at an address of each family, which peers reach at these external addresses, with these networks allowed as peers.
pub(crate) fn start_at_all(ips: &[IpAddr], externals: &[IpAddr], allowed: Vec<IpNet>) -> Relay {
    let listen: Vec<_> = ips.iter().map(|ip| (*ip, 0).into()).collect();
    spawn(&listen, Vec::new(), externals, allowed).expect("a relay")
}

/// A relay at these addresses, or at sockets that were bound before.
pub(crate) fn spawn(
    listen: &[SocketAddr],
    passed: Vec<UdpSocket>,
    externals: &[IpAddr],
    allowed: Vec<IpNet>,
) -> io::Result<Relay> {
    let address = |is_family: fn(&IpAddr) -> bool| {
        let external = externals.iter().copied().find(is_family)?;
        Some(RelayAddress { external: Some(external), ports: 20_000..=29_999 })
    };
    Relay::spawn(RelayConfig {
        listen: listen.to_vec(),
        passed,
        relay_bind: listen.iter().map(SocketAddr::ip).collect(),
        server: Config {
            limits: Limits { allocation_bytes_per_second: 100_000_000, ..Limits::default() },
            addresses: RelayAddresses { v4: address(IpAddr::is_ipv4), v6: address(IpAddr::is_ipv6) },
            secret: CredentialSecret::new(b"secret"),
            filter: PeerFilter { allowed, denied: Vec::new(), relay_hosts: HashMap::new() },
            listening: Vec::new(),
            seed: rand::random(),
        },
    })
}

pub(crate) fn user() -> User {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let name = CredentialName::new(now + 600, rand::random()).to_string();
    User { password: CredentialSecret::new(b"secret").password(&name), name }
}

/// Waits until the relay's snapshot meets a condition.
pub(crate) fn eventually(relay: &Relay, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = relay.snapshot();
        if holds(&snapshot) {
            return snapshot;
        }
        assert!(Instant::now() < deadline, "{what}: {snapshot:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A client's transport.
pub(crate) trait Transport {
    fn request(&mut self, request: &[u8]) -> Vec<u8>;
}

impl Transport for UdpSocket {
    fn request(&mut self, request: &[u8]) -> Vec<u8> {
        self.send(request).expect("it is sent");
        let mut answer = [0; 2048];
        let len = self.recv(&mut answer).expect("an answer");
        answer[..len].to_vec()
    }
}

impl Transport for TcpStream {
    fn request(&mut self, request: &[u8]) -> Vec<u8> {
        self.write_all(request).expect("it is written");
        let mut answer = vec![0; 20];
        self.read_exact(&mut answer).expect("an answer");
        answer.resize(20 + usize::from(u16::from_be_bytes([answer[2], answer[3]])), 0);
        self.read_exact(&mut answer[20..]).expect("its rest");
        answer
    }
}

pub(crate) fn udp(addr: SocketAddr) -> UdpSocket {
    udp_from(Ipv4Addr::LOCALHOST.into(), addr)
}

pub(crate) fn udp_from(ip: IpAddr, addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.connect(addr).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

/// A TCP connection on loopback: the client's end, and the other with the client's address.
pub(crate) fn connection() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    socket2::SockRef::from(&stream).set_recv_buffer_size(64 << 10).expect("a size");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let (socket, addr) = listener.accept().expect("a connection");
    (stream, socket, addr)
}

/// A TCP connection that was handed to the relay. The flag is set when the relay has dropped it.
pub(crate) fn tcp(relay: &Relay) -> (TcpStream, Arc<AtomicBool>) {
    let (stream, socket, addr) = connection();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard: Box<dyn Any + Send> = Box::new(SetOnDrop(dropped.clone()));
    relay.add_stream(NewStream { socket, addr, tls: None, received: Vec::new(), guard }).expect("it is taken");
    (stream, dropped)
}

pub(crate) struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An allocation with its user and relayed address.
pub(crate) fn allocate(transport: &mut impl Transport) -> (User, String, SocketAddr) {
    let (user, nonce, addrs) = allocate_with(transport, &[]);
    (user, nonce, addrs[0])
}

/// An allocation by a request with further attributes, with its user and relayed addresses.
pub(crate) fn allocate_with(
    transport: &mut impl Transport,
    further: &[&dyn AttributeWrite],
) -> (User, String, Vec<SocketAddr>) {
    let user = user();
    let transport_attribute = RequestedTransport::new(17);
    let challenge = transport.request(&plain(ALLOCATE, &[&transport_attribute]));
    let message = Message::from_bytes(&challenge).expect("a message");
    let nonce = message.attribute::<Nonce>().expect("a nonce").nonce().to_owned();
    let attributes: Vec<&dyn AttributeWrite> =
        std::iter::once(&transport_attribute as _).chain(further.iter().copied()).collect();
    let answer = transport.request(&signed(ALLOCATE, &attributes, &user, &nonce));
    let message = Message::from_bytes(&answer).expect("a message");
    let addrs: Vec<_> = (0..2)
        .filter_map(|index| message.nth_attribute::<XorRelayedAddress>(index).ok())
        .map(|address| address.addr(message.transaction_id()))
        .collect();
    assert!(!addrs.is_empty(), "refused with {}", code(&answer));
    (user, nonce, addrs)
}

pub(crate) fn bind(transport: &mut impl Transport, (user, nonce): (&User, &str), number: u16, peer: SocketAddr) {
    let id = TransactionId::generate();
    let (number, peer) = (ChannelNumber::new(number), XorPeerAddress::new(peer, id));
    let attributes: [&dyn AttributeWrite; 2] = [&number, &peer];
    assert_eq!(code(&transport.request(&signed_as(id, CHANNEL_BIND, &attributes, user, nonce))), 0);
}
