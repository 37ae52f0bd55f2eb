//! Leases: «this inbox is at this node until T», and the proof with which a session claims one.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    keys::{NodeId, PublicKey, SIGNATURE_LEN, SecretKey},
    signed::{Signable, Signed, signing_input},
    time::UnixTime,
};

/// The longest that a lease may last from when it is attached. It bounds for how long a node that hides the end of a
/// session can keep an inbox pointing at itself.
pub const MAX_LEASE: Duration = Duration::from_secs(3600);

/// An inbox: a public key under which a client can be reached by one contact, in one direction, for one day.
///
/// It is an address that only its two owners know, so it is never printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inbox(PublicKey);

impl Inbox {
    /// The inbox of a key.
    pub const fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// The key that the inbox is.
    pub const fn key(&self) -> &PublicKey {
        &self.0
    }

    /// Reads the base64url text of the client protocol.
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

    /// The same, as bytes on the stack.
    pub fn base64url_bytes(&self) -> [u8; 43] {
        self.0.base64url_bytes()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox([redacted])")
    }
}

/// Where an inbox is, said by the inbox's own key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The inbox.
    pub inbox: Inbox,
    /// The node at which its owner is connected.
    pub node: NodeId,
    /// The X25519 public key to which offers are sealed; the owner forgets its other half when the session ends.
    pub session_key: [u8; 32],
    /// The newest wins. Clients use milliseconds since 1970, which needs no stored counter.
    pub seq: u64,
    /// From when on it counts no more; at most [`MAX_LEASE`] ahead.
    pub expires_at: UnixTime,
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

/// What an inbox key signs to attach a lease to one session: the nonce that the node gave this session, and the hash
/// of the lease. A copied lease attaches nothing, and a proof is worth nothing in another session.
fn attach_input(nonce: &[u8; 32], lease: &SignedLease) -> Vec<u8> {
    let mut body = [0; 64];
    body[..32].copy_from_slice(nonce);
    body[32..].copy_from_slice(&Sha256::digest(lease.as_bytes()));
    signing_input("attach", &body)
}

/// Makes the proof with which the session that was given `nonce` attaches `lease`.
pub fn prove_attach(key: &SecretKey, nonce: &[u8; 32], lease: &SignedLease) -> [u8; SIGNATURE_LEN] {
    key.sign(&attach_input(nonce, lease))
}

/// Whether `proof` attaches `lease` to the session that was given `nonce`.
pub fn verify_attach(nonce: &[u8; 32], lease: &SignedLease, proof: &[u8; SIGNATURE_LEN]) -> bool {
    lease.inbox.key().verify(&attach_input(nonce, lease), proof)
}
