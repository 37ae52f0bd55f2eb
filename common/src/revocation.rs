//! Revocations: a root's statement that everything an online key signs is invalid, before its delegation ends.
//!
//! A revocation never expires and is accepted whatever the clock: otherwise a delegation could be replayed while a
//! client's clock is wrong. Only roots can sign one, and at most [`MAX_REVOCATIONS`] are kept.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::PublicKey,
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
    /// The bytes are not a revocation, or not a list of them.
    #[error("not a revocation")]
    Decode(#[from] DecodeError),
    /// The revocation is of another federation.
    #[error("the revocation is of another federation")]
    Federation,
    /// The signer is not a root.
    #[error("the revocation is not signed by a root")]
    Root,
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
    /// Checks the revocation against the pinned roots.
    ///
    /// # Errors
    /// The revocation is not valid.
    pub fn check(&self, roots: &[PublicKey]) -> Result<(), RevocationError> {
        if self.federation != FederationId::of_roots(roots) {
            return Err(RevocationError::Federation);
        }
        if roots.contains(&self.root) { Ok(()) } else { Err(RevocationError::Root) }
    }

    /// Decodes and verifies a revocation.
    ///
    /// # Errors
    /// The bytes are not a valid revocation.
    pub fn decode(bytes: impl Into<Bytes>, roots: &[PublicKey]) -> Result<SignedRevocation, RevocationError> {
        let revocation = Signed::<Self>::decode(bytes)?;
        revocation.check(roots)?;
        Ok(revocation)
    }
}

/// The text of a TXT record.
pub fn to_text(revocation: &SignedRevocation) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(revocation.as_bytes()))
}

/// Parses a TXT record, with its strings joined. Returns `None` if the record is for something else.
///
/// # Errors
/// The revocation is not valid.
pub fn from_text(text: &[u8], roots: &[PublicKey]) -> Option<Result<SignedRevocation, RevocationError>> {
    let encoded = text.strip_prefix(PREFIX.as_bytes())?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed.into());
    Some(bytes.and_then(|bytes| KeyRevocation::decode(bytes, roots)))
}

/// Verified revocations, one for each key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(Vec<SignedRevocation>);

impl Revocations {
    /// Whether the key is revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.iter().any(|revocation| revocation.key == *key)
    }

    /// Adds a revocation. Returns whether its key was not revoked before. At [`MAX_REVOCATIONS`] the oldest is
    /// dropped.
    pub fn add(&mut self, revocation: SignedRevocation) -> bool {
        if self.revokes(&revocation.key) {
            return false;
        }
        let at = self.0.partition_point(|known| known.issued_at <= revocation.issued_at);
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

    /// Encodes the list: each revocation with its length in front, as two bytes, little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for revocation in &self.0 {
            let len = u16::try_from(revocation.as_bytes().len()).expect("a revocation is at most 192 bytes");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(revocation.as_bytes());
        }
        bytes
    }

    /// Decodes a list. Skips revocations that are not valid for these roots.
    ///
    /// # Errors
    /// The list is too long, or truncated.
    pub fn decode(bytes: impl Into<Bytes>, roots: &[PublicKey]) -> Result<Self, RevocationError> {
        let mut bytes = bytes.into();
        if bytes.len() > MAX_REVOCATION_LIST {
            return Err(DecodeError::Length.into());
        }
        let mut all = Self::default();
        while !bytes.is_empty() {
            let len = usize::from(u16::from_le_bytes(*bytes.first_chunk().ok_or(DecodeError::Length)?));
            let _ = bytes.split_to(2);
            if len > bytes.len() {
                return Err(DecodeError::Length.into());
            }
            if let Ok(revocation) = KeyRevocation::decode(bytes.split_to(len), roots) {
                all.add(revocation);
            }
        }
        Ok(all)
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
        let roots = [key(1).public()];
        let valid = revocation(&key(1), &key(2), 5);
        assert_eq!(KeyRevocation::decode(valid.as_bytes().clone(), &roots), Ok(valid.clone()));
        let theirs = revocation(&key(3), &key(2), 5);
        assert_eq!(KeyRevocation::decode(theirs.as_bytes().clone(), &roots), Err(RevocationError::Root));
        let other = [key(3).public()];
        assert_eq!(KeyRevocation::decode(valid.as_bytes().clone(), &other), Err(RevocationError::Federation));
        let own = KeyRevocation { key: key(1).public(), ..(*valid).clone() };
        assert_eq!(Signed::sign(own, &key(1)).err(), Some(SignError::Malformed));
        let text = to_text(&valid);
        assert_eq!(from_text(text.as_bytes(), &roots), Some(Ok(valid)));
        assert_eq!(from_text(b"chappe1=AAAA", &roots), None);
        assert!(from_text(b"chappe1r=AAAA", &roots).is_some_and(|read| read.is_err()));
    }

    #[test]
    fn a_list_reads_as_it_was_written_and_is_bounded() {
        let roots = [key(1).public()];
        let mut all = Revocations::default();
        for seed in 2..100 {
            assert!(all.add(revocation(&key(1), &key(seed), u64::from(seed))));
        }
        assert!(!all.add(revocation(&key(1), &key(99), 1000)), "it is known");
        assert_eq!(all.iter().count(), MAX_REVOCATIONS);
        assert!(all.revokes(&key(99).public()) && !all.revokes(&key(2).public()), "the oldest make room");
        let bytes = all.encode();
        assert_eq!(Revocations::decode(bytes.clone(), &roots), Ok(all));
        assert!(Revocations::decode(bytes[..bytes.len() - 1].to_vec(), &roots).is_err());
        let stranger = [key(50).public()];
        assert!(Revocations::decode(bytes, &stranger).expect("a list").is_empty(), "another federation's");
        assert!(Revocations::decode(vec![0; MAX_REVOCATION_LIST + 1], &roots).is_err());
    }
}
