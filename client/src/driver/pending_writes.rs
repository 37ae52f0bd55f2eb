//! Facts from contacts' messages that the profile does not have on disk yet. One message sets at most one of each, and
//! the driver writes after every message.

use chappe_common::endpoint::NodeEndpoint;

use crate::contact::{ContactId, PairingId};

#[derive(Default)]
pub(super) struct PendingWrites {
    /// A pairing that its contact has used.
    pub(super) confirmation: Option<(ContactId, PairingId)>,
    /// Nodes that a contact sent.
    pub(super) referral: Option<(ContactId, Vec<NodeEndpoint>)>,
}
