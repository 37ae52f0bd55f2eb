//! Beacons: random values that nobody could predict when the nodes' keys were generated, with the nodes that were
//! eligible by then.
//!
//! A beacon states the term that applies from its time on, and the term before. So the newest beacon is enough: older
//! ones need not be found, and two nodes with the same beacon never disagree.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    roots::Roots,
    signed::{DecodeError, Signable, Signed},
    time::UnixTime,
};

/// The most nodes in one term: as many as a node keeps records of.
pub const MAX_ELIGIBLE: usize = 4096;
/// The longest encoded beacon in bytes: two terms of [`MAX_ELIGIBLE`] keys, and the other fields.
pub const MAX_BEACON: usize = 2 * 32 * MAX_ELIGIBLE + 512;
/// How far ahead of now a beacon may start: long enough to reach every node, and short enough that nobody fixes the
/// placement for years.
pub const MAX_AHEAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The input of placement for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// A random value, drawn after the eligible nodes were fixed.
    pub value: [u8; 32],
    /// The nodes that may be homes: sorted, without duplicates, at least one and at most [`MAX_ELIGIBLE`].
    pub eligible: Vec<NodeId>,
}

impl Term {
    fn is_well_formed(&self) -> bool {
        (1..=MAX_ELIGIBLE).contains(&self.eligible.len()) && self.eligible.is_sorted_by(|a, b| a < b)
    }
}

/// A root's statement of the placement's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The federation.
    pub federation: FederationId,
    /// The root that signs.
    pub root: PublicKey,
    /// The beacon with the highest number applies; 1 or more. Roots use the seconds since 1970, which needs no stored
    /// counter.
    pub number: u64,
    /// When `term` starts.
    pub from: UnixTime,
    /// The term until then, or `None` if the federation had no beacon before.
    pub before: Option<Term>,
    /// The term from then on, until a beacon with a higher number replaces it.
    pub term: Term,
}

/// A signed beacon.
pub type SignedBeacon = Signed<Beacon>;

/// The beacon is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The bytes do not decode or the signature does not verify.
    #[error("not a beacon")]
    Decode(#[from] DecodeError),
    /// The beacon is of another federation.
    #[error("the beacon is of another federation")]
    Federation,
    /// The signer is not a root.
    #[error("the beacon is not signed by a root")]
    Root,
    /// The beacon starts more than [`MAX_AHEAD`] from now.
    #[error("the beacon starts too far ahead; one of the two clocks may be wrong")]
    Future,
}

impl Signable for Beacon {
    const KIND: &'static str = "beacon";
    const MAX_LEN: usize = MAX_BEACON;

    fn signer(&self) -> &PublicKey {
        &self.root
    }

    fn is_well_formed(&self) -> bool {
        self.number >= 1 && self.term.is_well_formed() && self.before.as_ref().is_none_or(Term::is_well_formed)
    }
}

impl Beacon {
    /// Decodes and verifies a beacon of the federation of `roots`.
    ///
    /// # Errors
    /// The bytes are not a valid beacon.
    pub fn decode(bytes: impl Into<Bytes>, roots: &Roots, now: UnixTime) -> Result<SignedBeacon, BeaconError> {
        let beacon = Signed::<Self>::decode(bytes)?;
        beacon.check(roots, now)?;
        Ok(beacon)
    }

    /// Checks the beacon for the federation of `roots` at `now`.
    ///
    /// # Errors
    /// The beacon is not valid.
    pub fn check(&self, roots: &Roots, now: UnixTime) -> Result<(), BeaconError> {
        if self.federation != roots.federation() {
            return Err(BeaconError::Federation);
        }
        if !roots.accepts(&self.root, now) {
            return Err(BeaconError::Root);
        }
        if self.from > now + MAX_AHEAD {
            return Err(BeaconError::Future);
        }
        Ok(())
    }

    /// The term at `now`, or `None` if the federation has no beacon yet.
    pub const fn in_force(&self, now: UnixTime) -> Option<&Term> {
        if now.as_secs() < self.from.as_secs() { self.before.as_ref() } else { Some(&self.term) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::SecretKey, signed::SignError};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn id(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    fn beacon(eligible: Vec<NodeId>) -> Beacon {
        let root = SecretKey::from_bytes(&[1; 32]).public();
        let term = Term { value: [7; 32], eligible };
        Beacon { federation: FederationId::of_roots(&[root]), root, number: 1, from: NOW, before: None, term }
    }

    #[test]
    fn a_beacon_is_valid_in_its_federation_and_not_far_ahead() {
        let (beacon, root) = (beacon(vec![id(1)]), SecretKey::from_bytes(&[1; 32]).public());
        let federation = beacon.federation;
        let roots = Roots::from([root]);
        assert_eq!(beacon.check(&roots, NOW), Ok(()));
        assert_eq!(beacon.check(&Roots::default(), NOW), Err(BeaconError::Federation));
        assert_eq!(beacon.check(&Roots::pinned(Vec::new(), Some(federation)), NOW), Err(BeaconError::Root));
        let week_before = UnixTime::from_secs(NOW.as_secs() - MAX_AHEAD.as_secs());
        assert_eq!(beacon.check(&roots, week_before), Ok(()));
        let earlier = UnixTime::from_secs(week_before.as_secs() - 1);
        assert_eq!(beacon.check(&roots, earlier), Err(BeaconError::Future));
    }

    #[test]
    fn the_eligible_are_sorted_and_bounded() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let sign = |eligible| Signed::sign(beacon(eligible), &key).map(drop);
        assert_eq!(sign(vec![id(1), id(2)]), Ok(()));
        for wrong in [vec![], vec![id(2), id(1)], vec![id(1), id(1)]] {
            assert_eq!(sign(wrong), Err(SignError::Malformed));
        }
        let many = |count: usize| -> Vec<NodeId> {
            let key = |n: usize| {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&n.to_be_bytes());
                PublicKey::from_bytes(key)
            };
            (0..count).map(|n| NodeId::new(key(n))).collect()
        };
        assert_eq!(sign(many(MAX_ELIGIBLE + 1)), Err(SignError::Malformed));
        let mut longest = beacon(many(MAX_ELIGIBLE));
        longest.before = Some(longest.term.clone());
        longest.number = u64::MAX;
        assert!(Signed::sign(longest, &key).is_ok(), "the longest beacon fits its own bound");
    }
}
