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
