//! What sessions tell the publisher. Messages only.

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

/// What is kept registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An inbox.
    Inbox(Inbox),
    /// A code of a session.
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

/// What the sessions tell the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// The session has registered this lease; keep it so.
    KeepLease {
        /// The lease.
        lease: Arc<SignedLease>,
        /// Its homes know an earlier one of the inbox, and hear of this one when that is registered again.
        is_renewal: bool,
    },
    /// The session has registered this code; keep it so.
    KeepCode(CodeRegistration),
    /// The session has detached the inbox: take its lease of up to this `seq` back.
    WithdrawLease(Inbox, u64),
    /// The session has given its code back: take it back.
    WithdrawCode(PairingCode, SessionId),
    /// The inbox is attached elsewhere: keep its lease of up to this `seq` no more. The homes know already.
    Forget(Inbox, u64),
    /// A home has not answered for these: put them again where they are still kept, and it still is their home.
    PutAgain {
        /// The home.
        home: NodeId,
        /// What it did not answer.
        keys: Vec<Key>,
        /// How often it was asked before.
        tries: usize,
    },
}
