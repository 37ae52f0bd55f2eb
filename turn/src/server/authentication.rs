//! Authentication by the long-term credential mechanism (RFC 8489, 9.2), with credentials that are not stored.

use stun_types::{
    attribute::{
        AttributeStaticType as _, AttributeType, ErrorCode, MessageIntegrity, MessageIntegritySha256, Nonce, Realm,
        Username,
    },
    message::Message,
};
use turn_types::message::ALLOCATE;

use super::Server;
use crate::{
    client::Client,
    credentials::{CredentialName, GRACE, REALM},
    response::{self, Refusal, Signer},
    time::Now,
};

/// The attributes of authentication.
pub(super) const ATTRIBUTES: [AttributeType; 5] =
    [Username::TYPE, Realm::TYPE, Nonce::TYPE, MessageIntegrity::TYPE, MessageIntegritySha256::TYPE];

/// Who has signed a request.
#[derive(Debug)]
pub(super) struct User {
    pub(super) credential: CredentialName,
    pub(super) signer: Signer,
}

impl Server {
    /// Verifies who has signed a request. Returns the answer if nobody has who may.
    pub(super) fn authenticate(&mut self, client: Client, message: &Message<'_>, now: Now) -> Result<User, Vec<u8>> {
        if !message.has_attribute(MessageIntegrity::TYPE) && !message.has_attribute(MessageIntegritySha256::TYPE) {
            return Err(self.challenge(message, ErrorCode::UNAUTHORIZED, client, now));
        }
        let (Ok(username), Ok(realm), Ok(nonce)) =
            (message.attribute::<Username>(), message.attribute::<Realm>(), message.attribute::<Nonce>())
        else {
            self.counters.count_error(ErrorCode::BAD_REQUEST);
            return Err(response::error(message, &Refusal::Code(ErrorCode::BAD_REQUEST), None));
        };
        if !self.nonces.is_valid(nonce.nonce(), &client, now) {
            return Err(self.challenge(message, ErrorCode::STALE_NONCE, client, now));
        }
        let user = || {
            let credential = CredentialName::parse(username.username())?;
            // What was allocated in time can be refreshed a little longer.
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
            None => Err(self.challenge(message, ErrorCode::UNAUTHORIZED, client, now)),
        }
    }

    fn challenge(&mut self, message: &Message<'_>, code: u16, client: Client, now: Now) -> Vec<u8> {
        self.counters.count_error(code);
        response::challenge(message, code, &self.nonces.nonce(&client, now))
    }
}
