//! Ed25519 keys, and the ids made from them.
//!
//! Owns the text forms of keys. `signed` defines what a key may sign.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// The text is not the base64 of 32 bytes, or the bytes are not a usable Ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: 32 bytes in base64 are expected")]
pub struct ParseKeyError;

/// An Ed25519 public key.
///
/// Holds any 32 bytes, because decoding must not cost a point decompression. Verifying a signature checks the key, and
/// rejects weak ones.
///
/// Serialized as base64url text in readable formats, and as 32 bytes in others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is valid for `message`: RFC 8032 with the strict rules, which reject weak keys and
    /// malleable signatures.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok())
    }

    /// Whether the bytes are a point of large order, as in every honestly generated key.
    pub fn is_usable(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| !key.is_weak())
    }

    /// The base64url form without padding.
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The base64url form as bytes, without an allocation.
    pub fn base64url_bytes(&self) -> [u8; 43] {
        let mut text = [0; 43];
        URL_SAFE_NO_PAD.encode_slice(self.0, &mut text).expect("32 bytes are 43 characters");
        text
    }

    /// The standard base64 form.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The first eight characters of the base64url form, for logs.
    pub fn short(&self) -> String {
        let mut text = self.to_base64url();
        text.truncate(8);
        text
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseKeyError)?;
        Ok(Self(bytes.try_into().map_err(|_| ParseKeyError)?))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            Deserialize::deserialize(deserializer).map(Self)
        }
    }
}

/// A node's id: its public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(PublicKey);

impl NodeId {
    /// The id of a key.
    pub const fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// The node's key.
    pub const fn key(&self) -> &PublicKey {
        &self.0
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The first eight characters, for logs.
    pub fn short(&self) -> String {
        self.0.short()
    }

    /// The form in the client protocol: `ed25519:` and standard base64.
    pub fn to_server_id(&self) -> String {
        format!("ed25519:{}", self.0.to_base64())
    }

    /// Parses the form in the client protocol.
    ///
    /// # Errors
    /// The text is not `ed25519:` and the standard base64 of 32 bytes.
    pub fn from_server_id(text: &str) -> Result<Self, ParseKeyError> {
        let encoded = text.strip_prefix("ed25519:").ok_or(ParseKeyError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| ParseKeyError)?;
        Ok(Self(PublicKey(bytes.try_into().map_err(|_| ParseKeyError)?)))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        text.parse().map(Self)
    }
}

/// A key that can sign.
pub trait Signer {
    /// The public key.
    fn public(&self) -> PublicKey;

    /// Signs raw bytes. Use `signed` or `proof` for protocol messages: they separate domains.
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN];
}

/// An Ed25519 secret key; wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(pub(crate) SigningKey);

impl SecretKey {
    /// Generates a key from the operating system's random source.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self::from_bytes(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032).
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed, to be stored in a file that only its owner can read.
    pub fn to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        Signer::public(self)
    }

    /// The public key as a node id.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.public())
    }

    /// Signs raw bytes. Use `signed` or `proof` for protocol messages: they separate domains.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        Signer::sign(self, message)
    }
}

impl Signer for SecretKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        ed25519_dalek::Signer::sign(&self.0, message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_both_of_its_texts() {
        let id = SecretKey::from_bytes(&[7; 32]).node_id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(NodeId::from_server_id(&id.to_server_id()), Ok(id));
        assert_eq!("short".parse::<NodeId>(), Err(ParseKeyError));
        assert_eq!(NodeId::from_server_id(&id.to_string()), Err(ParseKeyError));
    }

    #[test]
    fn a_weak_key_verifies_nothing() {
        // The identity point: with it, a signature of zeros passes the lax rules for every message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!PublicKey::from_bytes(identity).verify(b"anything", &signature));
        assert!(!PublicKey::from_bytes(identity).is_usable());
    }

    #[test]
    fn a_secret_key_is_not_printed() {
        let printed = format!("{:?}", SecretKey::from_bytes(&[7; 32]));
        assert!(!printed.contains(&hex::encode([7; 32])));
        assert!(printed.starts_with("SecretKey(of "));
    }
}
