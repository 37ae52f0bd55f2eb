//! Code claims: «this code is mine, and I am connected to this node», by which a client takes its own code back.

use serde::{Deserialize, Serialize};

use crate::{
    code::PairingCode,
    keys::{NodeId, PublicKey},
    signed::{Signable, Signed},
};

/// A client's claim to a pairing code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeClaim {
    /// The code.
    pub code: PairingCode,
    /// The key under which the code is registered.
    pub key: PublicKey,
    /// The node at which the client is connected.
    pub node: NodeId,
    /// Milliseconds since 1970. The newest claim by the same key wins the code.
    pub seq: u64,
}

impl Signable for CodeClaim {
    const KIND: &'static str = "code-claim";
    const MAX_LEN: usize = 160;

    fn signer(&self) -> &PublicKey {
        &self.key
    }
}

/// A signed code claim.
pub type SignedCodeClaim = Signed<CodeClaim>;
