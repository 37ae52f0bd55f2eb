//! Signed statements. The only way to sign a value, and the only way to get it back out.
//!
//! Encoded form: `postcard(value) ‖ signature (64 bytes)`. The signature is over `b"chappe/<kind>/v1\0" ‖
//! postcard(value)`, so a statement of one kind is never valid as another. The bytes are kept as received: exactly the
//! signed bytes are forwarded.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{PublicKey, SIGNATURE_LEN, Signer};

/// A value that can be signed.
pub trait Signable: Serialize + DeserializeOwned {
    /// The kind in the signature's context: `chappe/<kind>/v1`.
    const KIND: &'static str;
    /// The longest encoded form in bytes, signature included. Longer input is rejected before it is parsed.
    const MAX_LEN: usize;

    /// The key that has to sign this value. It is part of the value.
    fn signer(&self) -> &PublicKey;

    /// Whether the fields are within their documented bounds. Checks neither the signature nor the time.
    fn is_well_formed(&self) -> bool {
        true
    }
}

/// The bytes are not a signed statement of the expected kind. Nothing has changed. Retrying the same bytes cannot
/// succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are longer than the kind allows, or too short for a signature.
    #[error("the length of a signed statement is out of bounds")]
    Length,
    /// The bytes are not exactly one value of the expected shape.
    #[error("not one well-formed value")]
    Malformed,
    /// The signature is not valid for the signer's key.
    #[error("the signature does not verify")]
    Signature,
}

/// The value cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The encoded form would be longer than the kind allows.
    #[error("the encoded value is too long")]
    TooLong,
    /// A field is out of bounds, or names another signer than the key.
    #[error("a field of the value is out of bounds")]
    Malformed,
}

/// A value with its verified signature.
///
/// A value of this type proves that the signature was verified: there is no other way to create it.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    bytes: Bytes,
}

impl<T: Signable> Signed<T> {
    /// Signs `value` with `key`, which has to be the value's signer.
    ///
    /// # Errors
    /// The value is too long or out of bounds, or names another signer.
    pub fn sign(value: T, key: &impl Signer) -> Result<Self, SignError> {
        if *value.signer() != key.public() {
            return Err(SignError::Malformed);
        }
        let mut bytes = body(&value)?;
        let signature = key.sign(&signing_input(T::KIND, &bytes));
        bytes.extend_from_slice(&signature);
        Ok(Self { value, bytes: bytes.into() })
    }

    /// Decodes the bytes and verifies the signature.
    ///
    /// # Errors
    /// The length, the shape or the signature is wrong. They are checked in this order, the cheapest first.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        Unverified::decode(bytes)?.verify()
    }
}

/// A decoded value whose signature is not verified yet: anybody may have written it. Use it to decide from the value
/// whether to verify, which costs a thousand times as much.
pub struct Unverified<T>(Signed<T>);

impl<T: Signable> Unverified<T> {
    /// Decodes the bytes without verifying the signature.
    ///
    /// # Errors
    /// The length or the shape is wrong.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        let (value, ..) = parts::<T>(&bytes)?;
        Ok(Self(Signed { value, bytes }))
    }

    /// The unverified value.
    pub const fn value(&self) -> &T {
        &self.0.value
    }

    /// Whether the bytes are the same as those of a verified statement.
    pub fn is(&self, known: &Signed<T>) -> bool {
        self.0.bytes == known.bytes
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// The signature is not valid for the signer's key.
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
    /// The encoded form: the value and its signature, byte for byte as signed.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the value without its signature.
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

/// Encodes a value that is within its bounds.
pub(crate) fn body<T: Signable>(value: &T) -> Result<Vec<u8>, SignError> {
    if !value.is_well_formed() {
        return Err(SignError::Malformed);
    }
    let body = postcard::to_allocvec(value).map_err(|_| SignError::Malformed)?;
    if body.len() + SIGNATURE_LEN > T::MAX_LEN { Err(SignError::TooLong) } else { Ok(body) }
}

/// Splits an encoded form into the value, its bytes, and the signature, which is not verified yet.
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
