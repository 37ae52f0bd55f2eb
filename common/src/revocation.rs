//! Revocations: a root's statement that everything an online key signs is invalid, before its delegation ends.
//!
//! A revocation never expires. Only roots can sign one, and at most [`MAX_REVOCATIONS`] are kept. The signature of a root
//! that has ended counts only if it was learned before that.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::PublicKey,
    record::MAX_CLOCK_SKEW,
    roots::Roots,
    signed::{DecodeError, Signable, Signed},
    time::UnixTime,
};

/// The most revocations that are kept and served: with delegations of 90 days, a stolen key every other day.
pub const MAX_REVOCATIONS: usize = 64;
/// The longest encoded list of revocations in bytes.
pub const MAX_REVOCATION_LIST: usize = MAX_REVOCATIONS * (2 + KeyRevocation::MAX_LEN);
/// The prefix of a TXT record with a revocation.
const PREFIX: &str = "chappe1r=";

/// A statement that nothing signed by this online key is valid, signed by a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevocation {
    /// The federation.
    pub federation: FederationId,
    /// The root that signs.
    pub root: PublicKey,
    /// The online key.
    pub key: PublicKey,
    /// When it was signed.
    pub issued_at: UnixTime,
}

/// A signed revocation.
pub type SignedRevocation = Signed<KeyRevocation>;

/// The revocation is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// The revocation is of another federation.
    #[error("the revocation is of another federation")]
    Federation,
    /// The signer is not a root.
    #[error("the revocation is not signed by a root")]
    Root,
    /// The revocation was issued in the future: one of the two clocks is wrong.
    #[error("the revocation was issued in the future; one of the two clocks is wrong")]
    Future,
}

impl Signable for KeyRevocation {
    const KIND: &'static str = "key-revocation";
    const MAX_LEN: usize = 192;

    fn signer(&self) -> &PublicKey {
        &self.root
    }

    fn is_well_formed(&self) -> bool {
        // A root cannot revoke itself: a thief of the key could do the same.
        self.root != self.key
    }
}

impl KeyRevocation {
    /// Checks the revocation against the roots at `now`.
    ///
    /// # Errors
    /// The revocation is not valid.
    pub fn check(&self, roots: &Roots, now: UnixTime) -> Result<(), RevocationError> {
        if self.federation != roots.federation() {
            return Err(RevocationError::Federation);
        }
        if !roots.accepts(&self.root, now) {
            return Err(RevocationError::Root);
        }
        // The oldest make room, so a thief of a root could fill the list for ever with dates that lie ahead.
        if self.issued_at > now + MAX_CLOCK_SKEW {
            return Err(RevocationError::Future);
        }
        Ok(())
    }

    /// Parses a TXT record, with its strings joined, and verifies the signature. Returns `None` if the record is for
    /// something else.
    ///
    /// # Errors
    /// The bytes are not a revocation.
    pub fn from_text(text: &[u8]) -> Option<Result<SignedRevocation, DecodeError>> {
        let encoded = text.strip_prefix(PREFIX.as_bytes())?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed);
        Some(bytes.and_then(Signed::decode))
    }
}

/// The text of a TXT record.
pub fn to_text(revocation: &SignedRevocation) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(revocation.as_bytes()))
}

/// Verified revocations, one for each key and root: a reader may know only one of two roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(Vec<SignedRevocation>);

impl Revocations {
    /// Whether the key is revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.iter().any(|revocation| revocation.key == *key)
    }

    /// Adds a revocation. Returns whether it is new, and kept: at [`MAX_REVOCATIONS`] the oldest is dropped.
    pub fn add(&mut self, revocation: SignedRevocation) -> bool {
        if self.0.iter().any(|known| known.key == revocation.key && known.root == revocation.root) {
            return false;
        }
        let at = self.0.partition_point(|known| known.issued_at <= revocation.issued_at);
        if at == 0 && self.0.len() == MAX_REVOCATIONS {
            return false;
        }
        self.0.insert(at, revocation);
        if self.0.len() > MAX_REVOCATIONS {
            self.0.remove(0);
        }
        true
    }

    /// The revocations, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &SignedRevocation> {
        self.0.iter()
    }

    /// Whether the list is empty.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::SecretKey, signed::SignError};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn revocation(root: &SecretKey, of: &SecretKey, at: u64) -> SignedRevocation {
        let federation = FederationId::of_roots(&[key(1).public()]);
        let issued_at = UnixTime::from_secs(at);
        Signed::sign(KeyRevocation { federation, root: root.public(), key: of.public(), issued_at }, root)
            .expect("a revocation")
    }

    #[test]
    fn only_a_root_of_the_federation_revokes_a_key() {
        let now = UnixTime::from_secs(9);
        let roots = Roots::from([key(1).public()]);
        let valid = revocation(&key(1), &key(2), 5);
        assert_eq!(valid.check(&roots, now), Ok(()));
        assert_eq!(revocation(&key(3), &key(2), 5).check(&roots, now), Err(RevocationError::Root));
        assert_eq!(valid.check(&[key(3).public()].into(), now), Err(RevocationError::Federation));
        let ahead = revocation(&key(1), &key(2), u64::MAX);
        assert_eq!(ahead.check(&roots, now), Err(RevocationError::Future));
        let own = KeyRevocation { key: key(1).public(), ..(*valid).clone() };
        assert_eq!(Signed::sign(own, &key(1)).err(), Some(SignError::Malformed));
        let text = to_text(&valid);
        assert_eq!(KeyRevocation::from_text(text.as_bytes()), Some(Ok(valid)));
        assert_eq!(KeyRevocation::from_text(b"chappe1=AAAA"), None);
        assert!(KeyRevocation::from_text(b"chappe1r=AAAA").is_some_and(|read| read.is_err()));
    }

    #[test]
    fn the_oldest_revocations_make_room() {
        let mut all = Revocations::default();
        for seed in 2..100 {
            assert!(all.add(revocation(&key(1), &key(seed), u64::from(seed))));
        }
        assert!(!all.add(revocation(&key(1), &key(99), 1000)), "it is known");
        assert_eq!(all.iter().count(), MAX_REVOCATIONS);
        assert!(all.revokes(&key(99).public()) && !all.revokes(&key(2).public()));
        assert!(!all.add(revocation(&key(1), &key(2), 2)), "it would be the oldest");
    }
}
