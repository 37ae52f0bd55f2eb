//! Code claims: signed statements by which a client moves its code to another node.

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
    /// The node of the client's connection.
    pub node: NodeId,
    /// Milliseconds since 1970. The newest claim of the same key wins the code.
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
