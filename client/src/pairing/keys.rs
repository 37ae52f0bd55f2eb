//! The keys of one pairing: confirmations, proofs of possession and sealed identities.

use std::borrow::Cow;

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, Nonce, aead::Aead as _};
use chappe_common::keys::PublicKey;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{LABEL, PairingError};
use crate::{
    contact::{PairingSecret, Role},
    contact_name::{MAX_NAME, clean_name},
    cpace,
    sealing_key::SealingKey,
    words,
};

/// Length of `nonce ‖ identity ‖ inbox root key ‖ length of the name ‖ name`, padded so that all sealed identities
/// have the same length. The side's part of the post-quantum key exchange follows.
pub(super) const IDENTITY_LEN: usize = 32 + 32 + 32 + 1 + MAX_NAME;

/// The plaintext that a side seals for the other.
pub(super) struct Identity<'a> {
    /// A's nonce; zeros from B.
    pub(super) nonce: [u8; 32],
    pub(super) identity: [u8; 32],
    pub(super) root: PublicKey,
    pub(super) name: Cow<'a, str>,
    /// A's encapsulation key, or B's ciphertext.
    pub(super) kem: &'a [u8],
}

/// The keys derived from CPace's session key.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub(super) struct Keys(Hkdf<Sha256>);

impl Keys {
    pub(super) fn new(isk: &[u8; 64]) -> Self {
        Self(Hkdf::new(None, isk))
    }

    pub(super) fn expand<const N: usize>(&self, label: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        let info = [LABEL, label, &context.concat()].concat();
        self.0.expand(&info, out.as_mut_slice()).expect("a few bytes are within HKDF's bound");
        out
    }

    fn mac(&self, role: Role, share: &[u8; 32], data: &[u8; 64]) -> Hmac<Sha256> {
        let key = self.expand::<32>(&[b"confirm-", [role.letter()].as_slice()].concat(), &[]);
        let mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.as_slice()).expect("HMAC takes any key");
        mac.chain_update(cpace::lv_cat(&[share, data]))
    }

    pub(super) fn confirm(&self, role: Role, share: &[u8; 32], data: &[u8; 64]) -> [u8; 32] {
        self.mac(role, share, data).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(super) fn check(
        &self,
        role: Role,
        share: &[u8; 32],
        data: &[u8; 64],
        tag: &[u8; 32],
    ) -> Result<(), PairingError> {
        self.mac(role, share, data).verify_slice(tag).map_err(|_| PairingError::WrongSecret)
    }

    fn possession_mac(&self, role: Role, shared: &[u8; 32], identity: &[u8; 32]) -> Hmac<Sha256> {
        let key = self.expand::<32>(&[b"possess-", [role.letter()].as_slice()].concat(), &[shared]);
        let mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.as_slice()).expect("HMAC takes any key");
        mac.chain_update(identity)
    }

    /// A proof that only the holder of `identity`, or of the challenge's secret key, can make.
    pub(super) fn possession(
        &self,
        role: Role,
        identity: &SealingKey,
        challenge: &[u8; 32],
    ) -> Result<[u8; 32], PairingError> {
        let shared = identity.agree(challenge).ok_or(PairingError::Possession)?;
        Ok(self.possession_mac(role, &shared, &identity.public()).finalize().into_bytes().into())
    }

    /// Compares in constant time.
    pub(super) fn check_possession(
        &self,
        role: Role,
        challenge: &SealingKey,
        identity: &[u8; 32],
        tag: &[u8; 32],
    ) -> Result<(), PairingError> {
        let shared = challenge.agree(identity).ok_or(PairingError::Possession)?;
        self.possession_mac(role, &shared, identity).verify_slice(tag).map_err(|_| PairingError::Possession)
    }

    fn cipher(&self, role: Role) -> ChaCha20Poly1305 {
        let key = self.expand::<32>(&[b"seal-", [role.letter()].as_slice()].concat(), &[]);
        ChaCha20Poly1305::new_from_slice(key.as_slice()).expect("the key has 32 bytes")
    }

    /// Each of the two keys seals one message, so the nonce can be zeros.
    pub(super) fn seal<const N: usize>(&self, role: Role, own: &Identity<'_>) -> [u8; N] {
        let name = clean_name(&own.name);
        let mut plain = Zeroizing::new(vec![0; IDENTITY_LEN]);
        plain[..32].copy_from_slice(&own.nonce);
        plain[32..64].copy_from_slice(&own.identity);
        plain[64..96].copy_from_slice(own.root.as_bytes());
        plain[96] = u8::try_from(name.len()).expect("a clean name is at most 64 bytes");
        plain[97..97 + name.len()].copy_from_slice(name.as_bytes());
        plain.extend_from_slice(own.kem);
        let sealed = self.cipher(role).encrypt(&Nonce::default(), plain.as_slice()).expect("a short message");
        sealed.try_into().expect("an identity, the side's part of the key exchange, and a tag")
    }

    /// Opens the other side's identity, after it has proved that it knows the code.
    pub(super) fn open(&self, role: Role, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PairingError> {
        let plain = self.cipher(role).decrypt(&Nonce::default(), sealed);
        plain.map(Zeroizing::new).map_err(|_| PairingError::Identity)
    }

    /// Derives the pairing secret from CPace's key and the shared secret of ML-KEM. An attacker must break both to get
    /// it.
    pub(super) fn pairing_secret(&self, identities: [&[u8; 32]; 2], exchange: &KemExchange<'_>) -> PairingSecret {
        let [a, b] = identities;
        let classical = self.expand::<32>(b"pairing-secret", &[a, b]);
        let hybrid = Hkdf::<Sha256>::new(Some(classical.as_slice()), exchange.shared);
        let mut secret = Zeroizing::new([0; 32]);
        let transcript = [Sha256::digest(exchange.encapsulation_key), Sha256::digest(exchange.ciphertext)].concat();
        let info = [LABEL, b"hybrid", &transcript].concat();
        hybrid.expand(&info, secret.as_mut_slice()).expect("32 bytes are within HKDF's bound");
        PairingSecret::from_bytes(*secret)
    }

    pub(super) fn words(&self, nonce_a: &[u8; 32], nonce_b: &[u8; 32]) -> [&'static str; words::COUNT] {
        words::of_bytes(*self.expand(b"words", &[nonce_a, nonce_b]))
    }
}

/// A completed ML-KEM exchange.
pub(super) struct KemExchange<'a> {
    pub(super) shared: &'a [u8],
    pub(super) encapsulation_key: &'a [u8],
    pub(super) ciphertext: &'a [u8],
}

/// Parses a sealed identity. The other side may be hostile.
pub(super) fn read_identity(plain: &[u8]) -> Option<Identity<'_>> {
    let (plain, kem) = plain.split_first_chunk::<IDENTITY_LEN>()?;
    let part = |at: usize| *plain[at..].first_chunk::<32>().expect("within an identity");
    let name = plain[97..].get(..usize::from(plain[96]))?;
    Some(Identity {
        nonce: part(0),
        identity: part(32),
        root: PublicKey::from_bytes(part(64)),
        name: Cow::Borrowed(std::str::from_utf8(name).ok()?),
        kem,
    })
}
