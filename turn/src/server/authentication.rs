//! Authentication by the long-term credential mechanism (RFC 8489, 9.2). Passwords are computed, not stored.

use stun_types::{
    attribute::{
        AttributeStaticType as _, AttributeType, ErrorCode, MessageIntegrity, MessageIntegritySha256, Nonce, Realm,
        Username,
    },
    message::Message,
};
use turn_types::message::ALLOCATE;

use super::{ALLOCATION_REQUESTS_PER_SECOND, Kind, Server};
use crate::{
    client::Client,
    counters::DropReason,
    credentials::{CredentialName, GRACE, REALM},
    nonce::NonceState,
    response::{self, Refusal, Signer},
    source::{Network, Source},
    time::Now,
};

/// The attributes of authentication.
pub(super) const ATTRIBUTES: [AttributeType; 5] =
    [Username::TYPE, Realm::TYPE, Nonce::TYPE, MessageIntegrity::TYPE, MessageIntegritySha256::TYPE];

/// The credential that signed a request, and the signer for its response.
#[derive(Debug)]
pub(super) struct User {
    pub(super) credential: CredentialName,
    pub(super) signer: Signer,
}

/// Why a request is not handled.
#[derive(Debug)]
pub(super) enum Unauthenticated {
    /// The error response. A 401 or 438 has the realm and nonce that the client needs to sign its next request.
    Refused(Vec<u8>),
    /// The source has used up its challenges of this second.
    TooMany,
    /// The source or its network has used up its signed requests of this second.
    TooManySigned(DropReason),
}

impl Server {
    /// Verifies the signature of a request.
    ///
    /// A client with an old nonce gets a 438 without the rate limit of challenges: it has received the nonce at its address,
    /// so the address is not forged. With that limit, forged packets could keep the client from refreshing its allocation.
    ///
    /// Rates are checked before the MACs that they limit: over UDP without an allocation, before the nonce's; with a nonce
    /// of the client, which nobody else has, before the signature's. Clients with an allocation have a rate each, so others
    /// in their network can't keep them from refreshing it.
    pub(super) fn authenticate(
        &mut self,
        client: Client,
        message: &Message<'_>,
        now: Now,
    ) -> Result<User, Unauthenticated> {
        if !message.has_attribute(MessageIntegrity::TYPE) && !message.has_attribute(MessageIntegritySha256::TYPE) {
            return self.refuse(message, ErrorCode::UNAUTHORIZED, client, now);
        }
        let (Ok(username), Ok(realm), Ok(nonce)) =
            (message.attribute::<Username>(), message.attribute::<Realm>(), message.attribute::<Nonce>())
        else {
            return self.refuse(message, ErrorCode::BAD_REQUEST, client, now);
        };
        let (source, seconds) = (Source::of(client.addr().ip()), self.seconds(now));
        // The source of a stream is not forged: forged datagrams must not use up its requests.
        let allocation = self.table.find(&client);
        let may_be_forged = !client.is_stream() && allocation.is_none();
        if may_be_forged && !self.unproven.allows(source, seconds) {
            return Err(Unauthenticated::TooManySigned(DropReason::RequestRate));
        }
        let state = self.nonces.check(nonce.nonce(), &client, now);
        if state == NonceState::Foreign {
            return self.refuse(message, ErrorCode::STALE_NONCE, client, now);
        }
        let of_allocation = allocation
            .and_then(|id| self.table.get_mut(id))
            .is_some_and(|allocation| allocation.requests.allows(ALLOCATION_REQUESTS_PER_SECOND, seconds));
        if !of_allocation {
            if !self.requests.allows(source, seconds) {
                return Err(Unauthenticated::TooManySigned(DropReason::RequestRate));
            }
            if !self.network_requests.allows(Network::of(client.addr().ip()), seconds) {
                return Err(Unauthenticated::TooManySigned(DropReason::NetworkRequestRate));
            }
        }
        if state == NonceState::Old {
            return Err(self.challenge(message, ErrorCode::STALE_NONCE, client, now));
        }
        let user = || {
            let credential = CredentialName::parse(username.username())?;
            // An existing allocation can be refreshed until `GRACE` after the credential expires.
            let grace = if message.has_method(ALLOCATE) { 0 } else { GRACE };
            if realm.realm() != REALM || credential.expiry().saturating_add(grace) <= now.unix {
                return None;
            }
            let credentials = self.secret.credentials(credential);
            let algorithm = message.validate_integrity(&credentials).ok()?;
            Some(User { credential, signer: Signer { credentials, algorithm } })
        };
        match user() {
            Some(user) => Ok(user),
            None => self.refuse(message, ErrorCode::UNAUTHORIZED, client, now),
        }
    }

    /// Refuses a request without a nonce of its client, unless the source has used up its challenges of this second.
    fn refuse<T>(&mut self, message: &Message<'_>, code: u16, client: Client, now: Now) -> Result<T, Unauthenticated> {
        if !self.may_answer(client, Kind::Challenge, now) {
            return Err(Unauthenticated::TooMany);
        }
        Err(self.challenge(message, code, client, now))
    }

    fn challenge(&mut self, message: &Message<'_>, code: u16, client: Client, now: Now) -> Unauthenticated {
        self.counters.count_error(code);
        Unauthenticated::Refused(if code == ErrorCode::BAD_REQUEST {
            response::error(message, &Refusal::Code(code), None)
        } else {
            response::challenge(message, code, &self.nonces.nonce(&client, now))
        })
    }
}
