//! The keys of one pairing: who proves what to whom with them, and what they seal.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, Nonce, aead::Aead as _};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{LABEL, Myself, PairingError};
use crate::{
    contact::{MAX_NAME, PairingSecret, Role, clean_name},
    cpace,
    sealing_key::SealingKey,
    words,
};

/// nonce ‖ identity ‖ length of the name ‖ name, padded: every sealed identity has the same length.
pub(super) const IDENTITY_LEN: usize = 32 + 32 + 1 + MAX_NAME;

/// What comes out of CPace.
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

    /// In constant time.
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

    /// What only the holder of `identity`, or of the challenge's secret, can make.
    pub(super) fn possession(
        &self,
        role: Role,
        identity: &SealingKey,
        challenge: &[u8; 32],
    ) -> Result<[u8; 32], PairingError> {
        let shared = identity.agree(challenge).ok_or(PairingError::Possession)?;
        Ok(self.possession_mac(role, &shared, &identity.public()).finalize().into_bytes().into())
    }

    /// In constant time.
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
    pub(super) fn seal(&self, role: Role, nonce: &[u8; 32], myself: Myself<'_>) -> [u8; IDENTITY_LEN + 16] {
        let name = clean_name(myself.name);
        let mut plain = Zeroizing::new([0; IDENTITY_LEN]);
        plain[..32].copy_from_slice(nonce);
        plain[32..64].copy_from_slice(&myself.identity.public());
        plain[64] = u8::try_from(name.len()).expect("a clean name is at most 64 bytes");
        plain[65..65 + name.len()].copy_from_slice(name.as_bytes());
        let sealed = self.cipher(role).encrypt(&Nonce::default(), plain.as_slice()).expect("a short message");
        sealed.try_into().expect("the tag has 16 bytes")
    }

    pub(super) fn open(&self, role: Role, sealed: &[u8]) -> Result<([u8; 32], [u8; 32], String), PairingError> {
        let plain = self.cipher(role).decrypt(&Nonce::default(), sealed).map_err(|_| PairingError::Identity)?;
        read_identity(&plain).ok_or(PairingError::Identity)
    }

    pub(super) fn pairing_secret(&self, identity_a: &[u8; 32], identity_b: &[u8; 32]) -> PairingSecret {
        PairingSecret::from_bytes(*self.expand(b"pairing-secret", &[identity_a, identity_b]))
    }

    pub(super) fn words(&self, nonce_a: &[u8; 32], nonce_b: &[u8; 32]) -> [&'static str; words::COUNT] {
        words::of_bytes(*self.expand(b"words", &[nonce_a, nonce_b]))
    }
}

/// Nonce, identity and name of what was sealed. The other side, which wrote it, may be hostile.
pub(super) fn read_identity(plain: &[u8]) -> Option<([u8; 32], [u8; 32], String)> {
    let plain: &[u8; IDENTITY_LEN] = plain.try_into().ok()?;
    let (mut nonce, mut identity) = ([0; 32], [0; 32]);
    nonce.copy_from_slice(&plain[..32]);
    identity.copy_from_slice(&plain[32..64]);
    let name = plain[65..].get(..usize::from(plain[64]))?;
    Some((nonce, identity, std::str::from_utf8(name).ok()?.to_owned()))
}
