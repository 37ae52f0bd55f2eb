//! A member's signed word that another does not answer.
//!
//! It is a hint where to look: whoever hears it probes the accused itself. Signed, so that it can be passed on by
//! anybody and is held against nobody but its author.

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::{Signable, Signed},
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

/// «I don't reach this member.»
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// The federation.
    pub federation: FederationId,
    /// Who says so, and signs.
    pub accuser: NodeId,
    /// Whom it doesn't reach.
    pub accused: NodeId,
    /// The accused's epoch.
    pub epoch: u64,
    /// When it was signed. A later one of the same accuser and accused replaces an earlier.
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

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::sync::LazyLock;

    use chappe_common::keys::SecretKey;

    use super::*;

    /// A member's word that another doesn't answer.
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

    /// An accusation: what was signed, or none.
    pub const ACCUSATION: (&str, fn(&[u8]) -> bool) = ("accusation", |bytes| {
        let read = Signed::<Accusation>::decode(bytes.to_vec());
        assert!(read.is_err() || read.as_ref() == Ok(&*VALID), "a changed accusation is taken");
        if let Ok((said, rest)) = postcard::take_from_bytes::<Accusation>(bytes) {
            let again = postcard::to_allocvec(&said).expect("owned values encode");
            assert!(again.len() <= bytes.len() - rest.len());
            assert_eq!(postcard::from_bytes(&again), Ok(said));
        }
        read.is_ok()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_accuses_itself() {
        let accusation = Accusation { accused: fuzzed::VALID.accuser, ..Accusation::clone(&fuzzed::VALID) };
        assert!(!accusation.is_well_formed());
    }

    #[test]
    fn mutated_accusations_are_refused_without_the_key() {
        chappe_mutations::run(fuzzed::ACCUSATION, &[fuzzed::VALID.as_bytes()]);
    }
}
