//! A member's signed statement that another member does not answer.
//!
//! It is only a hint: each node that receives it probes the accused itself. It is signed, so that any member can
//! forward it, and only its author is responsible for it.

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::{Signable, Signed},
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

/// The statement that a member does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// The federation of both members.
    pub federation: FederationId,
    /// The member that signs the accusation.
    pub accuser: NodeId,
    /// The member that does not answer.
    pub accused: NodeId,
    /// The accused's epoch.
    pub epoch: u64,
    /// When it was signed. A later accusation replaces an earlier one with the same accuser and accused.
    pub at: UnixTime,
}

/// An accusation with its signature.
pub type SignedAccusation = Signed<Accusation>;

impl Signable for Accusation {
    const KIND: &'static str = "accusation";
    const MAX_LEN: usize = 192;

    fn signer(&self) -> &PublicKey {
        self.accuser.key()
    }

    fn is_well_formed(&self) -> bool {
        self.accuser != self.accused
    }
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::sync::LazyLock;

    use chappe_common::keys::SecretKey;

    use super::*;

    /// A valid accusation.
    pub(crate) static VALID: LazyLock<SignedAccusation> = LazyLock::new(|| {
        let accuser = SecretKey::from_bytes(&[1; 32]);
        let accusation = Accusation {
            federation: FederationId::of_roots(&[]),
            accuser: accuser.node_id(),
            accused: SecretKey::from_bytes(&[2; 32]).node_id(),
            epoch: 300,
            at: UnixTime::from_secs(1_800_000_000),
        };
        Signed::sign(accusation, &accuser).expect("an accusation")
    });

    /// Accusations: only [`VALID`] decodes.
    pub const ACCUSATION: (&str, fn(&[u8]) -> bool) = ("accusation", |bytes| {
        let read = Signed::<Accusation>::decode(bytes.to_vec());
        assert!(read.is_err() || read.as_ref() == Ok(&*VALID), "a changed accusation verifies");
        if let Ok((accusation, rest)) = postcard::take_from_bytes::<Accusation>(bytes) {
            let again = postcard::to_allocvec(&accusation).expect("owned values encode");
            assert!(again.len() <= bytes.len() - rest.len());
            assert_eq!(postcard::from_bytes(&again), Ok(accusation));
        }
        read.is_ok()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_accusation_is_refused() {
        let accusation = Accusation { accused: fuzzed::VALID.accuser, ..Accusation::clone(&fuzzed::VALID) };
        assert!(!accusation.is_well_formed());
    }

    #[test]
    fn mutated_accusations_are_refused_without_the_key() {
        chappe_mutations::run(fuzzed::ACCUSATION, &[fuzzed::VALID.as_bytes()]);
    }
}
