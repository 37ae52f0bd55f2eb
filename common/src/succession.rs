//! Successions: another root key takes the place of an old one. The federation keeps its id.
//!
//! Two keys sign a succession. The old root signs only who follows it, with no time, so it can do that in advance. The new
//! root signs that statement again, with the time until which the old root is still accepted. So the new root can end the
//! old one earlier, and a thief of the old root cannot prolong it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{PublicKey, SIGNATURE_LEN, SecretKey},
    signed::{DecodeError, SignError, Signable, Signed},
    time::UnixTime,
};

/// The longest time for which an old root is accepted beside its successor: enough for those who update once a year.
pub const MAX_OVERLAP: Duration = Duration::from_secs(366 * 24 * 3600);
/// The prefix of a TXT record with a succession.
const PREFIX: &str = "chappe1s=";

/// The old root's part: which key follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSuccessor {
    /// The federation.
    pub federation: FederationId,
    /// The root that signs.
    pub old: PublicKey,
    /// The root that follows it.
    pub new: PublicKey,
}

impl Signable for RootSuccessor {
    const KIND: &'static str = "root-successor";
    const MAX_LEN: usize = 144;

    fn signer(&self) -> &PublicKey {
        &self.old
    }

    fn is_well_formed(&self) -> bool {
        self.old != self.new
    }
}

/// The whole statement, as the new root signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSuccession {
    /// What the old root has signed.
    pub successor: RootSuccessor,
    /// The old root's signature, in two halves.
    signature: [[u8; 32]; 2],
    /// When the new root signed. Of two statements about the same two roots, the later one applies.
    pub issued_at: UnixTime,
    /// Until when the old root is accepted; at most [`MAX_OVERLAP`] after `issued_at`.
    pub old_until: UnixTime,
}

impl Signable for RootSuccession {
    const KIND: &'static str = "root-succession";
    const MAX_LEN: usize = 232;

    fn signer(&self) -> &PublicKey {
        &self.successor.new
    }

    fn is_well_formed(&self) -> bool {
        self.successor.is_well_formed()
            && self.issued_at <= self.old_until
            && self.old_until <= self.issued_at + MAX_OVERLAP
    }
}

/// A succession with both signatures verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSuccession(Signed<RootSuccession>);

impl SignedSuccession {
    /// Signs with the new root what the old root has signed.
    ///
    /// # Errors
    /// `new` is not the successor, or the times are out of bounds.
    pub fn sign(
        successor: &Signed<RootSuccessor>,
        new: &SecretKey,
        issued_at: UnixTime,
        old_until: UnixTime,
    ) -> Result<Self, SignError> {
        let (_, signature) = successor.as_bytes().split_last_chunk::<SIGNATURE_LEN>().ok_or(SignError::Malformed)?;
        let (first, second) = signature.split_at(32);
        let half = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| SignError::Malformed);
        let signature = [half(first)?, half(second)?];
        let value = RootSuccession { successor: (**successor).clone(), signature, issued_at, old_until };
        Signed::sign(value, new).map(Self)
    }

    /// Decodes a succession and verifies both signatures.
    ///
    /// # Errors
    /// The length, the shape or a signature is wrong.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let statement = Self(Signed::decode(bytes)?);
        statement.verify_old().map(|_| statement)
    }

    /// The part that the old root has signed.
    ///
    /// # Panics
    /// Never: the signature was verified.
    pub fn successor(&self) -> Signed<RootSuccessor> {
        self.verify_old().expect("the signature was verified")
    }

    fn verify_old(&self) -> Result<Signed<RootSuccessor>, DecodeError> {
        let mut bytes = postcard::to_allocvec(&self.0.successor).map_err(|_| DecodeError::Malformed)?;
        bytes.extend_from_slice(self.0.signature.as_flattened());
        Signed::decode(bytes)
    }

    /// The encoded form, byte for byte as signed.
    pub const fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// The federation.
    pub fn federation(&self) -> FederationId {
        self.0.successor.federation
    }

    /// The root that is replaced.
    pub fn old(&self) -> PublicKey {
        self.0.successor.old
    }

    /// The root that takes its place.
    pub fn new_root(&self) -> PublicKey {
        self.0.successor.new
    }

    /// When the new root signed.
    pub fn issued_at(&self) -> UnixTime {
        self.0.issued_at
    }

    /// Until when the old root is accepted.
    pub fn old_until(&self) -> UnixTime {
        self.0.old_until
    }

    /// The text of a TXT record.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.as_bytes()))
    }

    /// Parses a TXT record, with its strings joined. Returns `None` if the record is for something else.
    ///
    /// # Errors
    /// The succession is not valid.
    pub fn from_text(text: &[u8]) -> Option<Result<Self, DecodeError>> {
        let encoded = text.strip_prefix(PREFIX.as_bytes())?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed);
        Some(bytes.and_then(Self::decode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn successor(old: u8, new: u8) -> Signed<RootSuccessor> {
        let (old, new) = (key(old), key(new));
        let federation = FederationId::of_roots(&[old.public()]);
        Signed::sign(RootSuccessor { federation, old: old.public(), new: new.public() }, &old).expect("a successor")
    }

    #[test]
    fn both_roots_sign_and_the_times_are_bounded() {
        let statement =
            SignedSuccession::sign(&successor(1, 2), &key(2), NOW, NOW + MAX_OVERLAP).expect("a succession");
        assert_eq!(SignedSuccession::decode(statement.as_bytes().clone()), Ok(statement.clone()));
        assert_eq!(statement.successor(), successor(1, 2));
        assert_eq!(SignedSuccession::from_text(statement.to_text().as_bytes()), Some(Ok(statement)));
        assert_eq!(SignedSuccession::from_text(b"chappe1r=AAAA"), None);

        let sign = |key: &SecretKey, until| SignedSuccession::sign(&successor(1, 2), key, NOW, until).err();
        assert_eq!(sign(&key(1), NOW), Some(SignError::Malformed), "the old root does not sign for the new one");
        let second = Duration::from_secs(1);
        assert_eq!(sign(&key(2), NOW + MAX_OVERLAP + second), Some(SignError::Malformed));
        assert_eq!(sign(&key(2), UnixTime::from_secs(NOW.as_secs() - 1)), Some(SignError::Malformed));
    }

    #[test]
    fn a_statement_without_the_old_root_s_signature_is_refused() {
        // The new root takes the signature of another statement, or swaps the two keys.
        let forge = |old: u8, new: u8| {
            let by_another = successor(3, 2);
            let mut value = (*SignedSuccession::sign(&by_another, &key(2), NOW, NOW).expect("a succession").0).clone();
            value.successor = RootSuccessor {
                federation: FederationId::of_roots(&[key(1).public()]),
                old: key(old).public(),
                new: key(new).public(),
            };
            Signed::sign(value, &key(new)).expect("a statement").as_bytes().clone()
        };
        for (old, new) in [(1, 2), (2, 1)] {
            assert_eq!(SignedSuccession::decode(forge(old, new)), Err(DecodeError::Signature));
        }
    }
}
