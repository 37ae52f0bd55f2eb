//! The server's state machine. Its input is packets, closed connections and the time; its output is packets to send.

mod allocate;
mod authentication;
mod ending;
mod permissions;
mod refresh;
mod relaying;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Instant,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use stun_types::{
    attribute::{Attribute as _, AttributeStaticType as _, AttributeType, Fingerprint, Software, XorMappedAddress},
    message::{BINDING, Message, MessageClass},
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use self::authentication::Unauthenticated;
use crate::{
    allocation::Family,
    attributes,
    budget::BudgetLevel,
    channel_data,
    client::Client,
    counters::{Counters, DropReason},
    credentials::CredentialSecret,
    limits::{Limits, RelayAddress, RelayAddresses},
    nonce::NonceKey,
    packet::Packet,
    peer_filter::PeerFilter,
    ports::Ports,
    response::{self, Refusal},
    source::Source,
    source_limiter::SourceLimiter,
    table::{AllocationId, Table},
    time::{Now, Seconds},
    traffic::{PacketClock, TotalLimiter},
};

/// Signed requests per second of a source, in addition to those of its allocations. Each new allocation takes one.
const REQUESTS_PER_SECOND: u16 = 100;

/// Signed requests per second of a network, in addition to those of its allocations.
const NETWORK_REQUESTS_PER_SECOND: u16 = 1000;

/// How many of these a new allocation takes. With its own requests and the Refresh that ends it, an allocation costs about
/// 100 µs, so a network takes 4 % of the relay's thread at most.
pub(super) const NETWORK_REQUESTS_OF_ALLOCATION: u16 = 3;

/// Signed requests per second that an allocation may send whatever its neighbours send. Further ones count for its source
/// and network. A call starts with about ten for each allocation, and then needs one a minute.
const ALLOCATION_REQUESTS_PER_SECOND: u16 = 10;

/// Binding responses per unverified source and second, and the same number of challenges (400, 401, 438). A client that
/// allocates needs two for each of its transports and addresses.
const ANSWERS_PER_SECOND: u16 = 10;

/// Binding responses and challenges per second for the TCP and TLS connections of a source. Its address is not forged, so
/// the limit protects only the relay's time: it is far above the needs of many clients behind one address.
const STREAM_ANSWERS_PER_SECOND: u16 = 100;

/// Identifies a relayed address of an allocation, and the socket that the driver has bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The allocation.
    pub allocation: AllocationId,
    /// The family of the address.
    pub family: Family,
}

/// The sockets of relayed addresses. The driver owns them.
pub trait RelaySockets {
    /// Binds a socket. Does not wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if another program uses the port. The server then tries another port.
    fn bind(&mut self, relay: RelayId, port: u16) -> io::Result<()>;

    /// Closes a socket.
    fn close(&mut self, relay: RelayId);
}

/// What the driver must do after a packet was handled. Ranges index the packet's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing. The packet was dropped, or needs no answer.
    Nothing,
    /// Send this to the client that sent the packet.
    Respond(Vec<u8>),
    /// Send a part of the buffer to a peer, from a relayed address.
    ToPeer {
        /// The relayed address.
        relay: RelayId,
        /// The peer.
        peer: SocketAddr,
        /// The payload.
        data: Range<usize>,
    },
    /// Send a part of the buffer to a client.
    ToClient {
        /// The client.
        client: Client,
        /// The payload with its new header.
        data: Range<usize>,
    },
}

/// The settings of a server.
#[derive(Debug)]
pub struct Config {
    /// The bounds.
    pub limits: Limits,
    /// The relay's addresses.
    pub addresses: RelayAddresses,
    /// The secret from which passwords are derived.
    pub secret: CredentialSecret,
    /// The peer addresses that packets may be sent to.
    pub filter: PeerFilter,
    /// Addresses of the server's own UDP sockets. A packet from one of them, or from its port at the external address, is
    /// forged.
    pub listening: Vec<SocketAddr>,
    /// Seed of the random ports and the nonce key: random bytes from the system.
    pub seed: [u8; 32],
}

/// A STUN and TURN server without I/O.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    secret: CredentialSecret,
    filter: PeerFilter,
    /// Increases with each change of the filter.
    filter_version: u32,
    listening: Vec<SocketAddr>,
    v4: Option<Relaying>,
    v6: Option<Relaying>,
    nonces: NonceKey,
    rng: StdRng,
    start: Instant,
    clock: PacketClock,
    /// Binding requests and challenges have separate limits: a flood of one kind in a client's name must not use up the
    /// client's limit of the other kind.
    bindings: SourceLimiter,
    challenges: SourceLimiter,
    /// Both kinds of answer over streams. Forged datagrams must not use them up.
    stream_answers: SourceLimiter,
    /// Signed requests over UDP of clients without an allocation, before their nonce is checked.
    unproven: SourceLimiter,
    /// Signed requests with a nonce that was made for the client, except those that count for an allocation.
    requests: SourceLimiter,
    /// The same requests, by network.
    network_requests: SourceLimiter,
    total: TotalLimiter,
    table: Table,
    /// When to check whether an allocation has expired, with its generation. A refresh does not change its entry.
    expiries: BinaryHeap<Reverse<(Seconds, AllocationId, u32)>>,
    budget: BudgetLevel,
    counters: Counters,
}

/// The kinds of response to an unverified source. Each has its own rate over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binding,
    /// 400, 401 or 438.
    Challenge,
}

/// The relayed addresses of one family.
#[derive(Debug)]
struct Relaying {
    external: Option<IpAddr>,
    ports: Ports,
}

impl Server {
    /// Makes a server without allocations.
    pub fn new(config: Config, now: Instant) -> Self {
        let Config { limits, addresses, secret, filter, listening, seed } = config;
        let mut rng = StdRng::from_seed(seed);
        let nonces = NonceKey::new(rng.random());
        let clock = PacketClock::default();
        let relaying = |address: Option<RelayAddress>| {
            address.map(|address| Relaying { external: address.external, ports: Ports::new(address.ports) })
        };
        Self {
            total: TotalLimiter::new(limits.total_bytes_per_second, clock.clone()),
            bindings: SourceLimiter::new(ANSWERS_PER_SECOND, Seconds::between(now, now)),
            challenges: SourceLimiter::new(ANSWERS_PER_SECOND, Seconds::between(now, now)),
            stream_answers: SourceLimiter::new(STREAM_ANSWERS_PER_SECOND, Seconds::between(now, now)),
            unproven: SourceLimiter::new(REQUESTS_PER_SECOND, Seconds::between(now, now)),
            requests: SourceLimiter::new(REQUESTS_PER_SECOND, Seconds::between(now, now)),
            network_requests: SourceLimiter::new(NETWORK_REQUESTS_PER_SECOND, Seconds::between(now, now)),
            limits,
            secret,
            filter,
            filter_version: 0,
            listening,
            v4: relaying(addresses.v4),
            v6: relaying(addresses.v6),
            nonces,
            rng,
            start: now,
            clock,
            table: Table::default(),
            expiries: BinaryHeap::new(),
            budget: BudgetLevel::Open,
            counters: Counters::default(),
        }
    }

    /// Handles a packet of a client.
    pub fn handle_client(
        &mut self,
        sockets: &mut impl RelaySockets,
        client: Client,
        packet: Packet<'_>,
        now: Now,
    ) -> Action {
        self.set_clock(now);
        if let Client::Udp { addr, .. } = client
            && !self.is_possible_source(addr)
        {
            return self.drop(DropReason::ImpossibleSource);
        }
        match packet.bytes().first() {
            Some(first) if channel_data::is_channel_data(*first) => self.relay_channel_data(client, packet, now),
            _ => self.handle_message(sockets, client, packet, now),
        }
    }

    fn handle_message(
        &mut self,
        sockets: &mut impl RelaySockets,
        client: Client,
        mut packet: Packet<'_>,
        now: Now,
    ) -> Action {
        let received = packet.bytes().len();
        let Some(Ok(message)) = attributes::truncate_after_integrity(packet.bytes_mut()).map(Message::from_bytes)
        else {
            return self.drop(DropReason::Malformed);
        };
        match (message.class(), message.method()) {
            (MessageClass::Indication, SEND) => {
                let found = self.find_sent(client, &message);
                match found {
                    Ok((id, peer, data)) => self.relay_to_peer(id, peer, data, packet, now),
                    Err(reason) => self.drop(reason),
                }
            }
            // A Binding indication keeps the client's NAT mapping alive. It needs no response.
            (MessageClass::Indication, BINDING) => Action::Nothing,
            (MessageClass::Request, BINDING) => {
                if !self.may_answer(client, Kind::Binding, now) {
                    return self.drop(DropReason::AnswerRate);
                }
                let answer = self.answer_binding(&message, client);
                self.answer_unverified(client, received, answer)
            }
            (MessageClass::Request, _) => self.handle_request(sockets, client, &message, received, now),
            _ => self.drop(DropReason::Malformed),
        }
    }

    fn answer_binding(&mut self, message: &Message<'_>, client: Client) -> Vec<u8> {
        if let Err(refusal) = check_known(message, &[]) {
            self.counters.count_error(refusal.code());
            return response::error(message, &refusal, None);
        }
        self.counters.bindings += 1;
        let mapped = XorMappedAddress::new(client.addr(), message.transaction_id());
        response::success(message, &[&mapped], None)
    }

    fn handle_request(
        &mut self,
        sockets: &mut impl RelaySockets,
        client: Client,
        message: &Message<'_>,
        received: usize,
        now: Now,
    ) -> Action {
        let user = match self.authenticate(client, message, now) {
            Ok(user) => user,
            Err(Unauthenticated::Refused(answer)) => return self.answer_unverified(client, received, answer),
            Err(Unauthenticated::TooMany) => return self.drop(DropReason::AnswerRate),
            Err(Unauthenticated::TooManySigned(reason)) => return self.drop(reason),
        };
        let result = match message.method() {
            ALLOCATE => self.allocate(sockets, client, message, &user, now),
            REFRESH => self.refresh(sockets, client, message, &user, now),
            CREATE_PERMISSION => self.create_permission(client, message, &user, now),
            CHANNEL_BIND => self.bind_channel(client, message, &user, now),
            _ => Err(Refusal::Code(400)),
        };
        Action::Respond(result.unwrap_or_else(|refusal| {
            self.counters.count_error(refusal.code());
            response::error(message, &refusal, Some(&user.signer))
        }))
    }

    /// Responds to a source that may be forged, if the response is small enough.
    fn answer_unverified(&mut self, client: Client, received: usize, answer: Vec<u8>) -> Action {
        if !response::is_answerable(&client, received, answer.len()) {
            return self.drop(DropReason::Amplification);
        }
        Action::Respond(answer)
    }

    /// Whether an unauthenticated source may get another response in this second.
    fn may_answer(&mut self, client: Client, kind: Kind, now: Now) -> bool {
        let seconds = self.seconds(now);
        let limiter = match kind {
            _ if client.is_stream() => &mut self.stream_answers,
            Kind::Binding => &mut self.bindings,
            Kind::Challenge => &mut self.challenges,
        };
        limiter.allows(Source::of(client.addr().ip()), seconds)
    }

    /// Replaces the peer filter. Each allocation loses the channels and permissions that the new filter refuses before it is used
    /// again: to check those of thousands of allocations at once would delay packets.
    pub fn set_filter(&mut self, filter: PeerFilter) {
        if filter != self.filter {
            self.filter = filter;
            self.filter_version = self.filter_version.wrapping_add(1);
        }
    }

    /// Applies the filter to an allocation, if the filter has changed since that was done. Must come before each use of the
    /// allocation's channels and permissions.
    fn apply_filter(&mut self, id: AllocationId) {
        let version = self.filter_version;
        if let Some(allocation) = self.table.get_mut(id)
            && allocation.filter_version != version
        {
            allocation.remove_refused_peers(&self.filter);
            allocation.filter_version = version;
        }
    }

    /// Sets what the budget allows. If it is spent, all allocations end.
    pub fn set_budget(&mut self, sockets: &mut impl RelaySockets, level: BudgetLevel) {
        self.budget = level;
        if level == BudgetLevel::Spent {
            for id in self.table.ids() {
                self.end(sockets, id);
            }
        }
    }

    /// The level that was set last.
    pub const fn budget(&self) -> BudgetLevel {
        self.budget
    }

    /// Sets the external address of its family. If it changes, the allocations of that family end: peers no longer reach
    /// them.
    pub fn set_external(&mut self, sockets: &mut impl RelaySockets, ip: IpAddr) {
        let family = Family::of(&ip);
        let Some(relaying) = self.relaying_mut(family) else { return };
        if relaying.external.replace(ip) == Some(ip) {
            return;
        }
        for id in self.table.ids() {
            if self.table.get(id).is_some_and(|allocation| allocation.ports.get(family).is_some()) {
                self.end(sockets, id);
            }
        }
    }

    /// Whether a client has an allocation.
    pub fn has_allocation(&self, client: &Client) -> bool {
        self.table.find(client).is_some()
    }

    /// The number of allocations.
    pub fn allocations(&self) -> usize {
        self.table.len()
    }

    /// The counts since the start.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a real client can have this source address.
    fn is_possible_source(&self, addr: SocketAddr) -> bool {
        let is_host = match addr.ip() {
            IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        // The response to a packet from one of these addresses would come back to this server.
        let is_own = |own: &SocketAddr| {
            let external = self.external(Family::of(&own.ip())).unwrap_or(own.ip());
            own.port() == addr.port() && (own.ip() == addr.ip() || external == addr.ip())
        };
        is_host && addr.port() != 0 && !self.listening.iter().any(is_own)
    }

    /// The address of a family as peers see it.
    fn external(&self, family: Family) -> Option<IpAddr> {
        self.relaying(family)?.external
    }

    const fn relaying(&self, family: Family) -> Option<&Relaying> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    const fn relaying_mut(&mut self, family: Family) -> Option<&mut Relaying> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    fn set_clock(&self, now: Now) {
        self.clock.set(now.monotonic.saturating_duration_since(self.start));
    }

    fn seconds(&self, now: Now) -> Seconds {
        Seconds::between(self.start, now.monotonic)
    }

    fn drop(&mut self, reason: DropReason) -> Action {
        self.counters.count_drop(reason);
        Action::Nothing
    }
}

/// Refuses a message with an unknown comprehension-required attribute.
fn check_known(message: &Message<'_>, known: &[AttributeType]) -> Result<(), Refusal> {
    let types = message.iter_attributes().map(|(_, attribute)| attribute.get_type());
    let is_unknown = |kind: &AttributeType| {
        kind.comprehension_required()
            && !known.contains(kind)
            && ![Software::TYPE, Fingerprint::TYPE].contains(kind)
            && !authentication::ATTRIBUTES.contains(kind)
    };
    let unknown: Vec<_> = types.filter(is_unknown).collect();
    if unknown.is_empty() { Ok(()) } else { Err(Refusal::Unknown(unknown)) }
}
