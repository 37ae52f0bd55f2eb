//! Ids of federations.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::keys::PublicKey;

/// A federation's id: the first 16 bytes of SHA-256 over its root keys, sorted.
///
/// Pinning the id pins the roots: finding a second set of keys with the same id costs 2^128 work. 16 bytes instead of
/// 32 keep a node record small enough for DNS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FederationId([u8; 16]);

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a federation id: 32 hexadecimal digits are expected")]
pub struct ParseFederationIdError;

impl FederationId {
    /// The id of the federation with these root keys, in any order.
    pub fn of_roots(roots: &[PublicKey]) -> Self {
        let mut sorted = roots.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut hash = Sha256::new_with_prefix(b"chappe/federation/v1\0");
        for root in &sorted {
            hash.update(root.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FederationId({self})")
    }
}

impl FromStr for FederationId {
    type Err = ParseFederationIdError;

    fn from_str(text: &str) -> Result<Self, ParseFederationIdError> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| ParseFederationIdError)?;
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_the_roots_and_not_on_their_order() {
        let (a, b) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        assert_eq!(FederationId::of_roots(&[a, b]), FederationId::of_roots(&[b, a, b]));
        assert_ne!(FederationId::of_roots(&[a]), FederationId::of_roots(&[b]));
        let id = FederationId::of_roots(&[a]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
