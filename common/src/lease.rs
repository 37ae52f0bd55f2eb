//! Leases: signed statements that an inbox is attached at a node until a time, and the proof that attaches one.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    keys::{NodeId, PublicKey, SIGNATURE_LEN, Signer},
    signed::{Signable, Signed, signing_input},
    time::UnixTime,
};

/// The longest lifetime of a lease from when it is attached. It bounds how long a node can hide the end of a session.
pub const MAX_LEASE: Duration = Duration::from_secs(3600);

/// An inbox: a public key at which one contact can reach a client, in one direction, for one day. Only its owner can
/// sign for it. Only the owner and the contact can tell whose it is, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inbox(PublicKey);

impl Inbox {
    /// The inbox with this key.
    pub const fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// The inbox's key.
    pub const fn key(&self) -> &PublicKey {
        &self.0
    }

    /// Parses the base64url text of the client protocol.
    ///
    /// # Errors
    /// The text is not the base64url of 32 bytes.
    pub fn from_base64url(text: &str) -> Result<Self, crate::keys::ParseKeyError> {
        text.parse().map(Self)
    }

    /// The base64url text of the client protocol. Not for logs.
    pub fn to_base64url(&self) -> String {
        self.0.to_base64url()
    }

    /// The base64url text as bytes, without an allocation. Not for logs.
    pub fn base64url_bytes(&self) -> [u8; 43] {
        self.0.base64url_bytes()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox([redacted])")
    }
}

/// The token for sending to an inbox: 16 secret bytes that its owner and the contact derive from their pairing. Nodes
/// require it for lookups and delivery. A lease contains only its hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessToken([u8; 16]);

impl AccessToken {
    /// The token from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The hash in a lease: the first 16 bytes of `SHA-256("chappe/access/v1\0" ‖ token)`.
    pub fn hash(&self) -> AccessHash {
        let digest = Sha256::new_with_prefix(b"chappe/access/v1\0").chain_update(self.0).finalize();
        AccessHash(*digest.first_chunk().expect("a digest has 32 bytes"))
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken([redacted])")
    }
}

/// The hash of an [`AccessToken`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessHash([u8; 16]);

impl fmt::Debug for AccessHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessHash([redacted])")
    }
}

/// The length of an address as text.
pub const ADDRESS_TEXT_LEN: usize = 64;

/// A contact's address: its inbox, and the access token. Without the token, nodes do not confirm that the inbox
/// exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The inbox.
    pub inbox: Inbox,
    /// The token.
    pub token: AccessToken,
}

impl Address {
    /// Parses the base64url text of the client protocol: 48 bytes, the inbox and the token.
    ///
    /// # Errors
    /// The text is not the base64url of 48 bytes.
    pub fn from_base64url(text: &str) -> Result<Self, crate::keys::ParseKeyError> {
        let mut bytes = [0; 48];
        // The length is checked first, so that the decoder never gets more than fits.
        if text.len() != ADDRESS_TEXT_LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(48) {
            return Err(crate::keys::ParseKeyError);
        }
        let (inbox, token) = bytes.split_first_chunk::<32>().expect("48 bytes are more than 32");
        let token = AccessToken(token.try_into().expect("16 bytes are left"));
        Ok(Self { inbox: Inbox::new(PublicKey::from_bytes(*inbox)), token })
    }

    /// The base64url text of the client protocol. Not for logs.
    pub fn to_base64url(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..32].copy_from_slice(self.inbox.key().as_bytes());
        bytes[32..].copy_from_slice(&self.token.0);
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address([redacted])")
    }
}

/// The location of an inbox, signed by the inbox's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The inbox.
    pub inbox: Inbox,
    /// The node where the inbox is attached.
    pub node: NodeId,
    /// The X25519 public key that offers are sealed to. Each lease has its own. The owner deletes the secret key when
    /// the lease expires or the session ends.
    pub session_key: [u8; 32],
    /// The hash of the access token.
    pub access: AccessHash,
    /// The lease with the highest number wins. Clients use milliseconds since 1970, minus a random time of up to 30 s.
    pub seq: u64,
    /// When it expires; at most [`MAX_LEASE`] ahead.
    pub expires_at: UnixTime,
}

impl Lease {
    /// Whether `address` has this lease's inbox and its token.
    pub fn admits(&self, address: &Address) -> bool {
        self.inbox == address.inbox && self.access == address.token.hash()
    }
}

impl Signable for Lease {
    const KIND: &'static str = "lease";
    const MAX_LEN: usize = 192;

    fn signer(&self) -> &PublicKey {
        self.inbox.key()
    }
}

/// A signed lease.
pub type SignedLease = Signed<Lease>;

/// The bytes that an inbox key signs to attach a lease to one session: the node's nonce of the session, and the hash
/// of the lease. Neither a copied lease nor a copied proof is valid in another session.
fn attach_input(nonce: &[u8; 32], lease: &SignedLease) -> Vec<u8> {
    let mut body = [0; 64];
    body[..32].copy_from_slice(nonce);
    body[32..].copy_from_slice(&Sha256::digest(lease.as_bytes()));
    signing_input("attach", &body)
}

/// Signs the proof that attaches `lease` to the session with this nonce.
pub fn prove_attach(key: &impl Signer, nonce: &[u8; 32], lease: &SignedLease) -> [u8; SIGNATURE_LEN] {
    key.sign(&attach_input(nonce, lease))
}

/// Whether `proof` attaches `lease` to the session with this nonce.
pub fn verify_attach(nonce: &[u8; 32], lease: &SignedLease, proof: &[u8; SIGNATURE_LEN]) -> bool {
    lease.inbox.key().verify(&attach_input(nonce, lease), proof)
}
