//! Revocations: a root's word that an online key signs nothing that counts any more, before its delegation ends.
//!
//! A revocation has no end, and it is taken whatever the clock says: a delegation could be played back as long as any
//! client's clock is wrong. What bounds them is that only a root signs one, and that [`MAX_REVOCATIONS`] are kept.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::PublicKey,
    signed::{DecodeError, Signable, Signed},
    time::UnixTime,
};

/// The most revocations that are kept and served. A delegation lasts for 90 days: this is a stolen key every other day.
pub const MAX_REVOCATIONS: usize = 64;
/// The longest encoded list of revocations in bytes.
pub const MAX_REVOCATION_LIST: usize = MAX_REVOCATIONS * (2 + KeyRevocation::MAX_LEN);
/// What a TXT record with a revocation begins with.
const PREFIX: &str = "chappe1r=";

/// «What this online key signs counts for nothing», signed by one of the roots.
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

/// Why a revocation counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// The bytes are no revocation that verifies, or no list of them.
    #[error("not a revocation")]
    Decode(#[from] DecodeError),
    /// It is of another federation.
    #[error("the revocation is of another federation")]
    Federation,
    /// Its signer is no root.
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
        // The root's own key can't be taken back by itself: whoever has it could take back anything.
        self.root != self.key
    }
}

impl KeyRevocation {
    /// Whether the revocation counts for whoever pins these roots.
    ///
    /// # Errors
    /// Says why it doesn't.
    pub fn check(&self, roots: &[PublicKey]) -> Result<(), RevocationError> {
        if self.federation != FederationId::of_roots(roots) {
            return Err(RevocationError::Federation);
        }
        if roots.contains(&self.root) { Ok(()) } else { Err(RevocationError::Root) }
    }

    /// Decodes and verifies one.
    ///
    /// # Errors
    /// Says why the bytes count for nothing.
    pub fn decode(bytes: impl Into<Bytes>, roots: &[PublicKey]) -> Result<SignedRevocation, RevocationError> {
        let note = Signed::<Self>::decode(bytes)?;
        note.check(roots)?;
        Ok(note)
    }
}

/// The text of a TXT record.
pub fn to_text(note: &SignedRevocation) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(note.as_bytes()))
}

/// Reads a TXT record, its strings put together. `None` where it is a record for something else.
///
/// # Errors
/// Says why the revocation counts for nothing.
pub fn from_text(text: &[u8], roots: &[PublicKey]) -> Option<Result<SignedRevocation, RevocationError>> {
    let encoded = text.strip_prefix(PREFIX.as_bytes())?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed.into());
    Some(bytes.and_then(|bytes| KeyRevocation::decode(bytes, roots)))
}

/// The revocations that somebody knows, one for each key, verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(Vec<SignedRevocation>);

impl Revocations {
    /// Whether the key has been revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.iter().any(|note| note.key == *key)
    }

    /// Adds one; whether its key was not revoked so far. Where there are too many, the oldest is forgotten.
    pub fn add(&mut self, note: SignedRevocation) -> bool {
        if self.revokes(&note.key) {
            return false;
        }
        let at = self.0.partition_point(|known| known.issued_at <= note.issued_at);
        self.0.insert(at, note);
        if self.0.len() > MAX_REVOCATIONS {
            self.0.remove(0);
        }
        true
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &SignedRevocation> {
        self.0.iter()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded form: each with its length as two bytes, little endian, in front.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for note in &self.0 {
            let len = u16::try_from(note.as_bytes().len()).expect("a revocation is at most 192 bytes");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(note.as_bytes());
        }
        bytes
    }

    /// Decodes a list. What doesn't count for these roots is passed over: it says nothing of the others.
    ///
    /// # Errors
    /// It is longer than a list can be, or cut off.
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
            if let Ok(note) = KeyRevocation::decode(bytes.split_to(len), roots) {
                all.add(note);
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
    fn a_root_revokes_a_key_of_its_federation_and_nobody_else_does() {
        let roots = [key(1).public()];
        let note = revocation(&key(1), &key(2), 5);
        assert_eq!(KeyRevocation::decode(note.as_bytes().clone(), &roots), Ok(note.clone()));
        let theirs = revocation(&key(3), &key(2), 5);
        assert_eq!(KeyRevocation::decode(theirs.as_bytes().clone(), &roots), Err(RevocationError::Root));
        let other = [key(3).public()];
        assert_eq!(KeyRevocation::decode(note.as_bytes().clone(), &other), Err(RevocationError::Federation));
        let own = KeyRevocation { key: key(1).public(), ..(*note).clone() };
        assert_eq!(Signed::sign(own, &key(1)).err(), Some(SignError::Malformed));
        let text = to_text(&note);
        assert_eq!(from_text(text.as_bytes(), &roots), Some(Ok(note)));
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
