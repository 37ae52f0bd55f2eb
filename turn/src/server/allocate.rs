//! Allocate (RFC 8656, 7).

use std::{cmp::Reverse, io};

use stun_types::{
    AddressFamily,
    attribute::{AttributeFromRaw, AttributeStaticType, AttributeType, AttributeWrite, ErrorCode, XorMappedAddress},
    message::{Message, TransactionId},
};
use turn_types::attribute::{
    AdditionalAddressFamily, AddressErrorCode, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorRelayedAddress,
};

use super::{NETWORK_REQUESTS_OF_ALLOCATION, RelayId, RelaySockets, Server, authentication::User, check_known};
use crate::{
    allocation::{Allocation, Family, RelayPorts},
    budget::BudgetLevel,
    client::Client,
    credentials::GRACE,
    limits::{DEFAULT_LIFETIME, MAX_BINDS, MAX_LIFETIME},
    ports::Parity,
    response::{self, Refusal},
    source::{Network, Source},
    time::Now,
    traffic::TrafficLimiter,
};

/// UDP, in REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// The known attributes. DONT-FRAGMENT is not one: it applies to a packet, and would need a separate socket for it.
const KNOWN: [AttributeType; 6] = [
    RequestedTransport::TYPE,
    RequestedAddressFamily::TYPE,
    EvenPort::TYPE,
    ReservationToken::TYPE,
    Lifetime::TYPE,
    AdditionalAddressFamily::TYPE,
];

impl Server {
    pub(super) fn allocate(
        &mut self,
        sockets: &mut impl RelaySockets,
        client: Client,
        message: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(existing) = self.table.find(&client).and_then(|id| self.table.get(id)) {
            // A retransmitted request gets the same response.
            if existing.transaction != message.transaction_id() || existing.credential != user.credential {
                return Err(ErrorCode::ALLOCATION_MISMATCH.into());
            }
            let lifetime = existing.expires.since_start().saturating_sub(self.seconds(now).since_start());
            let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
            return Ok(self.respond_allocated(message, user, client, existing.ports, lifetime, existing.missing));
        }
        // All checks come first: once a port is taken, the request must not be refused.
        let wanted = Wanted::parse(message)?;
        let lifetime = lifetime(wanted.lifetime, user, now);
        let (source, network) = (Source::of(client.addr().ip()), Network::of(client.addr().ip()));
        self.check_quotas(user, source, network)?;
        let id = self.table.next_id();
        let mut ports = RelayPorts::default();
        let bind = |server: &mut Self, sockets: &mut _, family| {
            server.bind(sockets, RelayId { allocation: id, family }, wanted.parity)
        };
        *ports.get_mut(wanted.family) = Some(bind(self, sockets, wanted.family)?);
        // If the IPv6 bind fails, the IPv4 allocation is still made (RFC 8656, 7.2).
        let mut missing = None;
        if wanted.is_dual {
            match bind(self, sockets, Family::V6) {
                Ok(port) => ports.v6 = Some(port),
                Err(code) => missing = Some(code),
            }
        }
        let seconds = self.seconds(now);
        let rate = self.limits.allocation_bytes_per_second;
        let traffic = [(); 2].map(|()| TrafficLimiter::new(rate, self.clock.clone()));
        let expires = seconds.plus(lifetime);
        let transaction = message.transaction_id();
        let share = self.table.share(network, || self.total.share());
        let times = [seconds, expires];
        let mut allocation = Allocation::new(client, source, user.credential, transaction, times, traffic, share);
        (allocation.ports, allocation.missing) = (ports, missing);
        let id = self.table.insert(allocation);
        let generation = self.table.generation(id).expect("just inserted");
        self.expiries.push(Reverse((expires, id, generation)));
        self.forget_old_expiries();
        self.counters.allocations_opened += 1;
        // The request itself is counted.
        let further = NETWORK_REQUESTS_OF_ALLOCATION - 1;
        self.network_requests.charge(network, further, seconds);
        Ok(self.respond_allocated(message, user, client, ports, lifetime, missing))
    }

    fn check_quotas(&mut self, user: &User, source: Source, network: Network) -> Result<(), Refusal> {
        if self.budget > BudgetLevel::Open || self.table.len() >= self.limits.allocations {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY.into());
        }
        if self.table.of_credential(&user.credential) >= self.limits.allocations_per_credential
            || self.table.of_source(&source) >= self.limits.allocations_per_source
        {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED.into());
        }
        if self.limits.has_network_share(self.table.of_network(network), self.table.len()) {
            self.counters.network_shares_reached += 1;
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED.into());
        }
        Ok(())
    }

    /// Binds a random port. Returns it, or an error code.
    fn bind(&mut self, sockets: &mut impl RelaySockets, relay: RelayId, parity: Parity) -> Result<u16, u16> {
        let (rng, relaying) = match relay.family {
            Family::V4 => (&mut self.rng, self.v4.as_mut()),
            Family::V6 => (&mut self.rng, self.v6.as_mut()),
        };
        let relaying = relaying.ok_or(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED)?;
        if relaying.external.is_none() {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        for _ in 0..MAX_BINDS {
            let port = relaying.ports.take(parity, rng).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
            match sockets.bind(relay, port) {
                Ok(()) => return Ok(port),
                Err(error) => {
                    relaying.ports.release(port);
                    if error.kind() != io::ErrorKind::AddrInUse {
                        break;
                    }
                }
            }
        }
        Err(ErrorCode::INSUFFICIENT_CAPACITY)
    }

    fn respond_allocated(
        &self,
        message: &Message<'_>,
        user: &User,
        client: Client,
        ports: RelayPorts,
        lifetime: u32,
        missing: Option<u16>,
    ) -> Vec<u8> {
        let id = message.transaction_id();
        let [v4, v6] = [Family::V4, Family::V6].map(|family| self.relayed_address(ports, family, id));
        let lifetime = Lifetime::new(lifetime);
        let mapped = XorMappedAddress::new(client.addr(), id);
        let missing = missing.map(|code| {
            let error = ErrorCode::new(code, "").expect("a code of the list");
            AddressErrorCode::new(AddressFamily::IPV6, error)
        });
        let relayed = [&v4, &v6].into_iter().flatten().map(|address| address as &dyn AttributeWrite);
        let further: [Option<&dyn AttributeWrite>; 3] =
            [Some(&lifetime), Some(&mapped), missing.as_ref().map(|missing| missing as _)];
        let attributes: Vec<_> = relayed.chain(further.into_iter().flatten()).collect();
        response::success(message, &attributes, Some(&user.signer))
    }

    fn relayed_address(&self, ports: RelayPorts, family: Family, id: TransactionId) -> Option<XorRelayedAddress> {
        let external = self.external(family)?;
        Some(XorRelayedAddress::new((external, ports.get(family)?).into(), id))
    }
}

/// The parsed attributes of an Allocate request.
struct Wanted {
    family: Family,
    /// Whether IPv6 is requested in addition to IPv4.
    is_dual: bool,
    parity: Parity,
    /// In seconds.
    lifetime: Option<u32>,
}

impl Wanted {
    fn parse(message: &Message<'_>) -> Result<Self, Refusal> {
        let transport = optional::<RequestedTransport>(message)?.ok_or(ErrorCode::BAD_REQUEST)?;
        if transport.protocol() != UDP {
            return Err(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL.into());
        }
        check_known(message, &KNOWN)?;
        let even = optional::<EvenPort>(message)?;
        let has_token = message.has_attribute(ReservationToken::TYPE);
        let family = family(message, RequestedAddressFamily::TYPE)?;
        let additional = self::family(message, AdditionalAddressFamily::TYPE)?;
        let reserves = even.as_ref().is_some_and(EvenPort::requested);
        let has_family = family.is_some() || additional.is_some();
        if (has_token && (even.is_some() || has_family))
            || (family.is_some() && additional.is_some())
            || (reserves && additional.is_some())
            || additional == Some(Family::V4)
        {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        // Port reservations are not supported: no current client uses them.
        if has_token || reserves {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY.into());
        }
        Ok(Self {
            family: family.unwrap_or(Family::V4),
            is_dual: additional.is_some(),
            parity: if even.is_some() { Parity::Even } else { Parity::Any },
            lifetime: optional::<Lifetime>(message)?.map(|lifetime| lifetime.seconds()),
        })
    }
}

/// Returns an attribute, or `None` if the message does not have it.
pub(super) fn optional<'a, A: AttributeFromRaw<'a> + AttributeStaticType>(
    message: &'a Message<'a>,
) -> Result<Option<A>, Refusal> {
    if !message.has_attribute(A::TYPE) {
        return Ok(None);
    }
    message.attribute::<A>().map(Some).map_err(|_| ErrorCode::BAD_REQUEST.into())
}

/// Returns the address family in an attribute (RFC 8656, 18.6).
pub(super) fn family(message: &Message<'_>, kind: AttributeType) -> Result<Option<Family>, Refusal> {
    let Some(attribute) = message.raw_attribute(kind) else { return Ok(None) };
    match *attribute.value {
        [1, _, _, _] => Ok(Some(Family::V4)),
        [2, _, _, _] => Ok(Some(Family::V6)),
        [_, _, _, _] => Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED.into()),
        _ => Err(ErrorCode::BAD_REQUEST.into()),
    }
}

/// Returns the granted lifetime in seconds. It ends at most [`GRACE`] after the credential expires.
pub(super) fn lifetime(wanted: Option<u32>, user: &User, now: Now) -> u32 {
    let left = user.credential.expiry().saturating_add(GRACE).saturating_sub(now.unix);
    let most = MAX_LIFETIME.min(u32::try_from(left).unwrap_or(u32::MAX));
    wanted.unwrap_or_default().max(DEFAULT_LIFETIME).min(most)
}
