//! A member's identity in the SWIM library.

use chappe_common::keys::NodeId;
use serde::{Deserialize, Serialize};

/// A node's key and epoch. Addresses come only from its signed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberId {
    /// The node's key.
    pub node: NodeId,
    /// The epoch of the run, which the node raises at each start.
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
