//! A server without sockets, on virtual time, and its clients.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod sockets;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use chappe_turn::{
    allocation::Family,
    client::Client,
    credentials::{CredentialName, CredentialSecret, REALM},
    limits::{Limits, RelayAddress, RelayAddresses},
    packet::{HEADROOM, Packet, TAILROOM},
    peer_filter::{PeerFilter, RelayHost},
    server::{Action, Config, RelayId, RelaySockets, Server},
    time::Now,
};
use stun_types::{
    attribute::{AttributeWrite, ErrorCode, Nonce, Realm, Username},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageIntegrityCredentials, MessageWrite as _,
        MessageWriteExt as _, MessageWriteVec, Method,
    },
};
use turn_types::{
    attribute::{ChannelNumber, Data, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND},
};

/// When the tests begin, in seconds since 1970.
pub(crate) const START: u64 = 1_800_000_000;

/// The relay's address, as peers see it.
pub(crate) const EXTERNAL: [u8; 4] = [9, 9, 9, 9];

/// Ports of the relay.
pub(crate) const PORTS: RangeInclusive<u16> = 50_000..=59_999;

/// The bound relayed addresses.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) bound: HashMap<RelayId, u16>,
    /// Ports that other programs use.
    pub(crate) taken: Vec<u16>,
    /// Whether the machine has no IPv6 address.
    pub(crate) without_v6: bool,
}

impl RelaySockets for Sockets {
    fn bind(&mut self, relay: RelayId, port: u16) -> io::Result<()> {
        if self.taken.contains(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if self.without_v6 && relay.family == Family::V6 {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let is_same = |(other, taken): (&RelayId, &u16)| other.family == relay.family && *taken == port;
        assert!(!self.bound.iter().any(is_same), "port {port} was given twice");
        assert_eq!(self.bound.insert(relay, port), None, "bound twice");
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        self.bound.remove(&relay).expect("it was bound");
    }
}

/// The server's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Nothing,
    Answer(Vec<u8>),
    Peer { relay: RelayId, peer: SocketAddr, data: Vec<u8> },
    Client { client: Client, data: Vec<u8> },
}

/// A credential with its nonce.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) sockets: Sockets,
    pub(crate) secret: CredentialSecret,
    start: Instant,
    now: Duration,
    users: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::at(limits, Some(EXTERNAL.into()), PORTS)
    }

    /// With other ports of allocations.
    pub(crate) fn with_ports(ports: RangeInclusive<u16>) -> Self {
        Self::at(Limits::default(), Some(EXTERNAL.into()), ports)
    }

    /// The external address of IPv4 is not known yet.
    pub(crate) fn without_external() -> Self {
        Self::at(Limits::default(), None, PORTS)
    }

    fn at(limits: Limits, external: Option<IpAddr>, ports: RangeInclusive<u16>) -> Self {
        let secret = CredentialSecret::new(b"secret");
        let start = Instant::now();
        let host = RelayHost { relay_ports: ports.clone(), services: vec![50_007] };
        let config = Config {
            limits,
            addresses: RelayAddresses {
                v4: Some(RelayAddress { external, ports: ports.clone() }),
                v6: Some(RelayAddress { external: Some("2a00::9".parse().expect("an address")), ports }),
            },
            secret: secret.clone(),
            filter: PeerFilter {
                relay_hosts: HashMap::from([
                    (EXTERNAL.into(), host.clone()),
                    ("2a00::9".parse().expect("an address"), host),
                ]),
                ..PeerFilter::default()
            },
            listening: vec![SocketAddr::from((EXTERNAL, 3478))],
            seed: [3; 32],
        };
        let server = Server::new(config, start);
        Self { server, sockets: Sockets::default(), secret, start, now: Duration::ZERO, users: 0 }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: self.start + self.now, unix: START + self.now.as_secs() }
    }

    /// Advances the time, and handles the timeouts on the way.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let now = self.now();
        self.server.handle_timeout(&mut self.sockets, now);
    }

    /// A credential of the usual lifetime.
    pub(crate) fn user(&mut self) -> User {
        self.user_until(self.now().unix + 3600)
    }

    pub(crate) fn user_until(&mut self, expiry: u64) -> User {
        self.users += 1;
        let name = CredentialName::new(expiry, self.users).to_string();
        User { password: self.secret.password(&name), name }
    }

    /// Handles a packet of a client.
    pub(crate) fn handle(&mut self, client: Client, bytes: &[u8]) -> Sent {
        let now = self.now();
        let mut buffer = vec![0xee; HEADROOM + bytes.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let packet = Packet::new(&mut buffer, bytes.len());
        let action = self.server.handle_client(&mut self.sockets, client, packet, now);
        sent(action, &buffer)
    }

    /// Handles a packet of a peer.
    pub(crate) fn handle_peer(&mut self, relay: RelayId, peer: SocketAddr, bytes: &[u8]) -> Sent {
        let now = self.now();
        let mut buffer = vec![0xee; HEADROOM + bytes.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let action = self.server.handle_peer(relay, peer, Packet::new(&mut buffer, bytes.len()), now);
        sent(action, &buffer)
    }

    /// Gets a nonce, and sends a signed request. Returns the answer.
    pub(crate) fn request(
        &mut self,
        client: Client,
        user: &User,
        method: Method,
        attributes: &[&dyn AttributeWrite],
    ) -> Vec<u8> {
        let nonce = self.nonce(client);
        let request = signed(method, attributes, user, &nonce);
        match self.handle(client, &request) {
            Sent::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// Returns a nonce for a client, from a 401. A source gets at most ten a second.
    pub(crate) fn nonce(&mut self, client: Client) -> String {
        self.now += Duration::from_millis(120);
        let probe = plain(ALLOCATE, &[&RequestedTransport::new(17)]);
        let Sent::Answer(answer) = self.handle(client, &probe) else { panic!("no answer") };
        let message = Message::from_bytes(&answer).expect("a message");
        assert_eq!(code(&answer), 401);
        message.attribute::<Nonce>().expect("a nonce").nonce().to_owned()
    }

    /// Allocates. Returns the relayed address.
    pub(crate) fn allocate(&mut self, client: Client, user: &User) -> SocketAddr {
        let answer = self.request(client, user, ALLOCATE, &[&RequestedTransport::new(17)]);
        relayed(&answer).unwrap_or_else(|| panic!("refused with {}", code(&answer)))
    }

    /// Sends a CreatePermission. Returns 0 or an error code.
    pub(crate) fn permit(&mut self, client: Client, user: &User, peers: &[SocketAddr]) -> u16 {
        let peers: Vec<_> = peers.iter().map(|peer| move |id| XorPeerAddress::new(*peer, id)).collect();
        let nonce = self.nonce(client);
        let id = stun_types::message::TransactionId::generate();
        let peers: Vec<_> = peers.iter().map(|peer| peer(id)).collect();
        let attributes: Vec<_> = peers.iter().map(|peer| peer as &dyn AttributeWrite).collect();
        self.code(client, &signed_as(id, CREATE_PERMISSION, &attributes, user, &nonce))
    }

    /// Sends a ChannelBind. Returns 0 or an error code.
    pub(crate) fn bind(&mut self, client: Client, user: &User, number: u16, peer: SocketAddr) -> u16 {
        let nonce = self.nonce(client);
        let id = stun_types::message::TransactionId::generate();
        let (number, peer) = (ChannelNumber::new(number), XorPeerAddress::new(peer, id));
        self.code(client, &signed_as(id, CHANNEL_BIND, &[&number, &peer], user, &nonce))
    }

    /// Sends a Refresh. Returns 0 or an error code.
    pub(crate) fn refresh(&mut self, client: Client, user: &User, lifetime: u32) -> u16 {
        code(&self.request(client, user, REFRESH, &[&Lifetime::new(lifetime)]))
    }

    fn code(&mut self, client: Client, request: &[u8]) -> u16 {
        match self.handle(client, request) {
            Sent::Answer(answer) => code(&answer),
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// An allocation with its client and user.
pub(crate) fn allocated(world: &mut World) -> (Client, User, SocketAddr) {
    let (client, user) = (udp(1000), world.user());
    let relayed = world.allocate(client, &user);
    (client, user, relayed)
}

fn sent(action: Action, buffer: &[u8]) -> Sent {
    match action {
        Action::Nothing => Sent::Nothing,
        Action::Respond(answer) => Sent::Answer(answer),
        Action::ToPeer { relay, peer, data } => Sent::Peer { relay, peer, data: buffer[data].to_vec() },
        Action::ToClient { client, data } => Sent::Client { client, data: buffer[data].to_vec() },
    }
}

/// A client over UDP.
pub(crate) fn udp(port: u16) -> Client {
    Client::Udp { socket: 0, addr: SocketAddr::from(([88, 1, 2, 3], port)) }
}

/// A client over UDP from a given address.
pub(crate) fn udp_of(ip: impl Into<IpAddr>, port: u16) -> Client {
    Client::Udp { socket: 0, addr: SocketAddr::new(ip.into(), port) }
}

/// A client over TCP, of the same address as the clients over UDP.
pub(crate) fn stream(id: u32) -> Client {
    Client::Stream { id, addr: SocketAddr::from(([88, 1, 2, 3], 5000)) }
}

/// A peer on the internet.
pub(crate) fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([8, 8, 4, 4], port))
}

pub(crate) fn plain(method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
    let mut writer = Message::builder_request(method, MessageWriteVec::new());
    for attribute in attributes {
        writer.add_attribute(*attribute).expect("it fits");
    }
    writer.finish()
}

pub(crate) fn indication(
    method: Method,
    attributes: &[&dyn AttributeWrite],
    id: stun_types::message::TransactionId,
) -> Vec<u8> {
    let kind =
        stun_types::message::MessageType::from_class_method(stun_types::message::MessageClass::Indication, method);
    let mut writer = Message::builder(kind, id, MessageWriteVec::new());
    for attribute in attributes {
        writer.add_attribute(*attribute).expect("it fits");
    }
    writer.finish()
}

/// A Send indication.
pub(crate) fn send(peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let id = stun_types::message::TransactionId::generate();
    indication(SEND, &[&XorPeerAddress::new(peer, id), &Data::new(data)], id)
}

pub(crate) fn credentials(user: &User) -> MessageIntegrityCredentials {
    LongTermKeyCredentials::new(user.name.clone(), user.password.clone(), REALM.to_owned()).into()
}

pub(crate) fn signed(method: Method, attributes: &[&dyn AttributeWrite], user: &User, nonce: &str) -> Vec<u8> {
    signed_as(stun_types::message::TransactionId::generate(), method, attributes, user, nonce)
}

pub(crate) fn signed_as(
    id: stun_types::message::TransactionId,
    method: Method,
    attributes: &[&dyn AttributeWrite],
    user: &User,
    nonce: &str,
) -> Vec<u8> {
    let kind = stun_types::message::MessageType::from_class_method(stun_types::message::MessageClass::Request, method);
    let mut writer = Message::builder(kind, id, MessageWriteVec::new());
    for attribute in attributes {
        writer.add_attribute(*attribute).expect("it fits");
    }
    writer.add_attribute(&Username::new(&user.name).expect("short")).expect("it fits");
    writer.add_attribute(&Realm::new(REALM).expect("short")).expect("it fits");
    writer.add_attribute(&Nonce::new(nonce).expect("short")).expect("it fits");
    writer.add_message_integrity(&credentials(user), IntegrityAlgorithm::Sha1).expect("it fits");
    writer.finish()
}

/// The error code of an answer, or 0.
pub(crate) fn code(answer: &[u8]) -> u16 {
    let message = Message::from_bytes(answer).expect("a message");
    message.attribute::<ErrorCode>().map_or(0, |error| error.code())
}

/// The relayed address of an answer.
pub(crate) fn relayed(answer: &[u8]) -> Option<SocketAddr> {
    let message = Message::from_bytes(answer).expect("a message");
    message.attribute::<XorRelayedAddress>().ok().map(|address| address.addr(message.transaction_id()))
}

/// Encodes a ChannelData message.
pub(crate) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("short");
    [&number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}
