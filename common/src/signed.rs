//! Signed notes: the one way in which a value gets a signature and loses it again.
//!
//! Encoded form: `postcard(value) ‖ signature (64 bytes)`. The signature is over `b"chappe/<kind>/v1\0" ‖
//! postcard(value)`, so a note of one kind never passes as one of another. The bytes are kept as they came: what is
//! forwarded is exactly what was signed.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{PublicKey, SIGNATURE_LEN, Signer};

/// A value that its owner signs.
pub trait Signable: Serialize + DeserializeOwned {
    /// The word in the signature's context: `chappe/<kind>/v1`.
    const KIND: &'static str;
    /// The longest encoded form in bytes, signature included. Anything longer is refused unread.
    const MAX_LEN: usize;

    /// The key that must have signed this value; it is part of the value.
    fn signer(&self) -> &PublicKey;

    /// Whether the fields hold what their docs promise, apart from the signature and from time.
    fn is_well_formed(&self) -> bool {
        true
    }
}

/// Why bytes are no signed note of the expected kind. Nothing has changed when one of these is returned, and the same
/// bytes will never pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the kind allows, or too short to hold a signature.
    #[error("the length of a signed note is out of bounds")]
    Length,
    /// Not exactly one value of the expected shape.
    #[error("not one well-formed value")]
    Malformed,
    /// The signature is not the signer's.
    #[error("the signature does not verify")]
    Signature,
}

/// Why a value cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The encoded form would be longer than the kind allows.
    #[error("the encoded value is too long")]
    TooLong,
    /// A field is out of its bounds, or names another signer than the key at hand.
    #[error("a field of the value is out of bounds")]
    Malformed,
}

/// A value together with the signature that was checked over it.
///
/// To hold one is proof that the signature verified: there is no other way to make it.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    bytes: Bytes,
}

impl<T: Signable> Signed<T> {
    /// Signs `value` with `key`, which has to be the value's own signer.
    ///
    /// # Errors
    /// The value is out of its bounds or names another signer.
    pub fn sign(value: T, key: &impl Signer) -> Result<Self, SignError> {
        if *value.signer() != key.public() {
            return Err(SignError::Malformed);
        }
        let mut bytes = body(&value)?;
        let signature = key.sign(&signing_input(T::KIND, &bytes));
        bytes.extend_from_slice(&signature);
        Ok(Self { value, bytes: bytes.into() })
    }

    /// Decodes and verifies.
    ///
    /// # Errors
    /// Says which of length, shape and signature was wrong, in the order of what they cost to check.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        Unverified::decode(bytes)?.verify()
    }
}

/// A value in its signed form whose signature has not been checked: anybody may have written it. For whoever can judge by the
/// value whether the signature, which costs a thousand times as much, has to be looked at.
pub struct Unverified<T>(Signed<T>);

impl<T: Signable> Unverified<T> {
    /// Decodes.
    ///
    /// # Errors
    /// Says which of length and shape was wrong.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        let (value, ..) = parts::<T>(&bytes)?;
        Ok(Self(Signed { value, bytes }))
    }

    /// What somebody says.
    pub const fn value(&self) -> &T {
        &self.0.value
    }

    /// Whether this is the very same note as one that was verified.
    pub fn is(&self, known: &Signed<T>) -> bool {
        self.0.bytes == known.bytes
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// It is not the signer's.
    pub fn verify(self) -> Result<Signed<T>, DecodeError> {
        let Some((body, signature)) = self.0.bytes.split_last_chunk() else { return Err(DecodeError::Length) };
        if self.0.value.signer().verify(&signing_input(T::KIND, body), signature) {
            Ok(self.0)
        } else {
            Err(DecodeError::Signature)
        }
    }
}

impl<T> Signed<T> {
    /// The encoded form: the value and its signature, as they were signed.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Gives up the signature.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.value).finish()
    }
}

/// What is signed of a value, where it is within its bounds.
pub(crate) fn body<T: Signable>(value: &T) -> Result<Vec<u8>, SignError> {
    if !value.is_well_formed() {
        return Err(SignError::Malformed);
    }
    let body = postcard::to_allocvec(value).map_err(|_| SignError::Malformed)?;
    if body.len() + SIGNATURE_LEN > T::MAX_LEN { Err(SignError::TooLong) } else { Ok(body) }
}

/// The value of an encoded form, its bytes, and the signature, which is still to be checked.
pub(crate) fn parts<T: Signable>(bytes: &[u8]) -> Result<(T, &[u8], &[u8; SIGNATURE_LEN]), DecodeError> {
    if bytes.len() > T::MAX_LEN {
        return Err(DecodeError::Length);
    }
    let (body, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(DecodeError::Length)?;
    let (value, rest) = postcard::take_from_bytes::<T>(body).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() || !value.is_well_formed() {
        return Err(DecodeError::Malformed);
    }
    Ok((value, body, signature))
}

/// `b"chappe/<kind>/v1\0" ‖ body`.
pub(crate) fn signing_input(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(kind.len() + body.len() + 11);
    input.extend_from_slice(b"chappe/");
    input.extend_from_slice(kind.as_bytes());
    input.extend_from_slice(b"/v1\0");
    input.extend_from_slice(body);
    input
}
