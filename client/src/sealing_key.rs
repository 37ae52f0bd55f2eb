//! X25519 key pairs: a profile's identity, a session's key, a call's key. Wiped from memory when dropped, never
//! printed.

use std::fmt;

use hpke::{Deserializable as _, Kem as _, Serializable as _, kem::X25519HkdfSha256};
use rand::CryptoRng;
use zeroize::Zeroizing;

pub(crate) type Kem = X25519HkdfSha256;

/// An X25519 key pair.
#[derive(Clone)]
pub struct SealingKey {
    pub(crate) secret: <Kem as hpke::Kem>::PrivateKey,
    pub(crate) public: <Kem as hpke::Kem>::PublicKey,
}

impl SealingKey {
    /// Generates a key.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    /// The key from 32 secret bytes (RFC 7748; clamped).
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).expect("any 32 bytes are an X25519 key");
        let public = Kem::sk_to_pk(&secret);
        Self { secret, public }
    }

    /// The secret bytes, to be stored in a file that only its owner can read.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes().into())
    }

    /// The shared secret with the other side's public key (RFC 7748). Returns `None` for a key of small order, which
    /// would give everybody the same secret.
    pub fn agree(&self, other: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let secret = x25519_dalek::StaticSecret::from(*self.to_bytes());
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*other));
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes().into()
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey([redacted])")
    }
}
