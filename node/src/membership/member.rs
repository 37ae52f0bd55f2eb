//! A member's identity as the membership library knows it.

use chappe_common::keys::NodeId;
use serde::{Deserialize, Serialize};

/// A node's key and epoch. Addresses come from its signed record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberId {
    /// The key.
    pub node: NodeId,
    /// Raised when the node restarts, or has to refute that it is down.
    pub epoch: u64,
}

impl foca::Identity for MemberId {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { node: self.node, epoch: self.epoch + 1 })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.epoch > adversary.epoch
    }
}
