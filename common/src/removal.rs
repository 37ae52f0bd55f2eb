//! Removals: statements of a federation's operator that keep a node out of directories.
//!
//! A node that leaves sends a leave itself. A removal is for a node that does not, or that must not return for a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    record::MAX_CLOCK_SKEW,
    signed::Signable,
    time::UnixTime,
};

/// The longest duration of a removal. Registries store each one until it ends. If the node is still unwanted then,
/// sign another.
pub const MAX_REMOVAL: Duration = Duration::from_secs(366 * 24 * 3600);

/// A statement that a node is listed in no directory until a time. Signed by a root, or by the online key for its own
/// registry. A later removal replaces an earlier one: one that ends at once revokes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRemoval {
    /// The federation.
    pub federation: FederationId,
    /// The key that signs.
    pub signer: PublicKey,
    /// The node.
    pub node: NodeId,
    /// When it was signed. A later removal replaces an earlier one.
    pub issued_at: UnixTime,
    /// When it ends; at most [`MAX_REMOVAL`] after `issued_at`.
    pub until: UnixTime,
}

/// A verified removal is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemovalError {
    /// The removal is of another federation.
    #[error("it is of another federation")]
    Federation,
    /// The signer may not remove nodes.
    #[error("it is signed by a key that may not remove nodes")]
    Signer,
    /// The removal was issued in the future.
    #[error("it was issued in the future; one of the two clocks is wrong")]
    Future,
    /// The removal was issued more than [`MAX_REMOVAL`] ago.
    #[error("it was issued too long ago")]
    Old,
}

impl Signable for NodeRemoval {
    const KIND: &'static str = "node-removal";
    const MAX_LEN: usize = 192;

    fn signer(&self) -> &PublicKey {
        &self.signer
    }

    fn is_well_formed(&self) -> bool {
        self.until <= self.issued_at + MAX_REMOVAL
    }
}

impl NodeRemoval {
    /// Checks the removal at `now` in `federation`. `signers` are the keys that may remove nodes.
    ///
    /// # Errors
    /// The removal is not accepted.
    pub fn check(&self, federation: FederationId, signers: &[PublicKey], now: UnixTime) -> Result<(), RemovalError> {
        if self.federation != federation {
            return Err(RemovalError::Federation);
        }
        if !signers.contains(&self.signer) {
            return Err(RemovalError::Signer);
        }
        if self.issued_at > now + MAX_CLOCK_SKEW {
            return Err(RemovalError::Future);
        }
        if self.issued_at + MAX_REMOVAL <= now {
            return Err(RemovalError::Old);
        }
        Ok(())
    }

    /// Whether the removal applies at `now`.
    pub fn counts(&self, now: UnixTime) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys::SecretKey,
        signed::{SignError, Signed},
    };

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn removal(lasts: Duration) -> NodeRemoval {
        NodeRemoval {
            federation: FederationId::of_roots(&[key(1).public()]),
            signer: key(1).public(),
            node: key(2).node_id(),
            issued_at: NOW,
            until: NOW + lasts,
        }
    }

    #[test]
    fn a_removal_counts_for_its_federation_by_its_signers_and_for_its_time() {
        let removal = removal(Duration::from_secs(60));
        let (federation, roots) = (removal.federation, [key(1).public()]);
        assert_eq!(removal.check(federation, &roots, NOW), Ok(()));
        assert_eq!(removal.check(FederationId::of_roots(&[]), &roots, NOW), Err(RemovalError::Federation));
        assert_eq!(removal.check(federation, &[key(2).public()], NOW), Err(RemovalError::Signer));
        let before = UnixTime::from_secs(NOW.as_secs() - 121);
        assert_eq!(removal.check(federation, &roots, before), Err(RemovalError::Future));
        assert_eq!(removal.check(federation, &roots, NOW + MAX_REMOVAL), Err(RemovalError::Old));
        assert!(removal.counts(NOW) && !removal.counts(NOW + Duration::from_secs(60)));
    }

    #[test]
    fn a_removal_has_an_end() {
        assert!(Signed::sign(removal(MAX_REMOVAL), &key(1)).is_ok());
        let endless = removal(MAX_REMOVAL + Duration::from_secs(1));
        assert_eq!(Signed::sign(endless, &key(1)).err(), Some(SignError::Malformed));
    }
}
