//! Ed25519 key blinding: derives a key pair for each context from one key pair. Linking the derived key to the
//! original requires the context.
//!
//! The scheme is that of onion services of version 3 (Tor's rend-spec-v3, appendix A.2) without clamping, as in
//! draft-irtf-cfrg-signature-key-blinding:
//!
//! ```text
//! h       = SHA-512(context), as a little-endian integer modulo the group's order
//! public  = h · A                                  A is the public key
//! secret  = h · a                                  a is its scalar
//! prefix  = the first 32 bytes of SHA-512("chappe/blinded-prefix/v1\0" ‖ the key's own prefix ‖ h)
//! ```
//!
//! Anyone who knows `A` and the context can compute the blinded public key. It verifies ordinary Ed25519 signatures.
//! Signing requires `a`.

use std::fmt;

use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::{
    VerifyingKey,
    hazmat::{ExpandedSecretKey, raw_sign},
};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroize as _;

use crate::keys::{PublicKey, SIGNATURE_LEN, SecretKey, Signer};

/// The factor by which both halves of a key pair are multiplied.
pub struct BlindingFactor(Scalar);

impl BlindingFactor {
    /// The factor of a context. The caller separates domains and includes the public key that is blinded; otherwise
    /// the factors of two keys would be related.
    pub fn new(context: &[u8]) -> Self {
        Self(Scalar::from_bytes_mod_order_wide(&Sha512::digest(context).into()))
    }
}

impl fmt::Debug for BlindingFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlindingFactor([redacted])")
    }
}

impl Drop for BlindingFactor {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKey {
    /// The blinded public key. Returns `None` if the bytes are not a point, or the point has a component of small
    /// order, which would be visible in a blinded key.
    pub fn blind(&self, factor: &BlindingFactor) -> Option<Self> {
        let point = VerifyingKey::from_bytes(self.as_bytes()).ok()?.to_edwards();
        let usable = point.is_torsion_free() && !point.is_small_order();
        usable.then(|| Self::from_bytes((point * factor.0).compress().to_bytes()))
    }
}

impl SecretKey {
    /// The blinded key pair; its public half is `self.public().blind(factor)`.
    pub fn blind(&self, factor: &BlindingFactor) -> BlindedKey {
        let key = ExpandedSecretKey::from(&self.0.to_bytes());
        let mut digest: [u8; 64] = Sha512::new_with_prefix(b"chappe/blinded-prefix/v1\0")
            .chain_update(key.hash_prefix)
            .chain_update(factor.0.as_bytes())
            .finalize()
            .into();
        let mut hash_prefix = [0; 32];
        hash_prefix.copy_from_slice(&digest[..32]);
        digest.zeroize();
        let blinded = ExpandedSecretKey { scalar: key.scalar * factor.0, hash_prefix };
        let public = VerifyingKey::from(&blinded);
        BlindedKey { key: blinded, public }
    }
}

/// A blinded key pair. Signs like any other. Wiped from memory when dropped, never printed.
pub struct BlindedKey {
    key: ExpandedSecretKey,
    public: VerifyingKey,
}

impl Signer for BlindedKey {
    fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        raw_sign::<Sha512>(&self.key, message, &self.public).to_bytes()
    }
}

impl fmt::Debug for BlindedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlindedKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::{constants::EIGHT_TORSION, edwards::CompressedEdwardsY};

    use super::*;

    fn factor(context: &[u8]) -> BlindingFactor {
        BlindingFactor::new(context)
    }

    #[test]
    fn the_public_key_and_context_suffice_to_verify_and_not_to_sign() {
        let root = SecretKey::from_bytes(&[1; 32]);
        let blinded = root.blind(&factor(b"today"));
        let public = root.public().blind(&factor(b"today")).expect("a usable key");
        assert_eq!(public, blinded.public());
        assert!(public.is_usable());
        let signature = blinded.sign(b"message");
        assert!(public.verify(b"message", &signature));
        assert!(!public.verify(b"other", &signature));
        for other in [root.public(), root.public().blind(&factor(b"tomorrow")).expect("a usable key")] {
            assert!(!other.verify(b"message", &signature));
        }
        // All that the other side knows is public keys and factors: its own key, blinded alike, is another.
        let other = SecretKey::from_bytes(&[2; 32]).blind(&factor(b"today"));
        assert!(!public.verify(b"message", &other.sign(b"message")));
    }

    #[test]
    fn a_key_with_a_component_of_small_order_is_not_blinded() {
        let point = CompressedEdwardsY(*SecretKey::from_bytes(&[1; 32]).public().as_bytes());
        let point = point.decompress().expect("a point");
        for torsion in &EIGHT_TORSION[1..] {
            for bad in [point + torsion, *torsion] {
                let key = PublicKey::from_bytes(bad.compress().to_bytes());
                assert_eq!(key.blind(&factor(b"today")), None);
            }
        }
        assert_eq!(PublicKey::from_bytes([2; 32]).blind(&factor(b"today")), None, "not a point");
    }

    #[test]
    fn a_blinded_key_is_not_printed() {
        let key = SecretKey::from_bytes(&[1; 32]).blind(&factor(b"today"));
        assert_eq!(format!("{key:?} {:?}", factor(b"today")), "BlindedKey([redacted]) BlindingFactor([redacted])");
    }
}
