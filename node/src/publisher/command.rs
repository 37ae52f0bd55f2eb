//! Commands from sessions to the publisher. Messages only.

use std::sync::Arc;

use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Inbox, SignedLease},
};

use crate::{
    placement::Tag,
    wire::{frame::CodeRegistration, ids::SessionId},
};

/// The identity of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Inbox(Inbox),
    Code(PairingCode, SessionId),
}

impl Key {
    pub(super) fn tag(&self) -> Tag {
        match self {
            Self::Inbox(inbox) => Tag::of_inbox(inbox),
            Self::Code(code, _) => Tag::of_code(code),
        }
    }
}

/// A command for the publisher task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Keep this registered lease registered.
    KeepLease {
        lease: Arc<SignedLease>,
        /// Its homes have an older lease of the inbox, and receive this one when that is due.
        is_renewal: bool,
    },
    /// Keep this registered code registered.
    KeepCode(CodeRegistration),
    /// The session has detached the inbox: withdraw its lease up to this `seq`.
    WithdrawLease(Inbox, u64),
    /// The session has dropped its code: withdraw it.
    WithdrawCode(PairingCode, SessionId),
    /// The inbox is attached elsewhere: drop its registration up to this `seq`. The homes know already.
    Forget(Inbox, u64),
    /// A home did not answer: register these again if they are still registered and it is still their home.
    Retry {
        home: NodeId,
        keys: Vec<Key>,
        /// Number of previous attempts.
        tries: usize,
    },
}
