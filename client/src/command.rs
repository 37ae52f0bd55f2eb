//! What an app asks of the client's task, and what it is told in return. Messages only: the task and the app's handles
//! both know them, and not each other.

use chappe_common::redacted::Redacted;
use tokio::sync::{oneshot, watch};

use crate::{
    call::{CallError, EndReason},
    contact::{Contact, ContactId, PairingId},
    profile::ProfileError,
    protocol::IceServer,
    seal::CallId,
};

/// Commands that may wait for the client's task; an app with more waits itself.
pub(crate) const COMMANDS: usize = 64;

/// The longest session description in bytes: with its JSON around it, it fits the largest sealed message.
pub const MAX_SDP: usize = 24 * 1024;

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// Not answered so far.
    Ringing,
    /// Answered, with the callee's session description.
    Answered(Redacted<String>),
    /// Over.
    Ended(EndReason),
}

/// What was asked of a call was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallActionError {
    /// The call is not at the point where this can be done.
    #[error(transparent)]
    State(#[from] CallError),
    /// Too much is waiting to be sent already, or a candidate is too long. Nothing of it was taken.
    #[error("too much is waiting to be sent")]
    Full,
    /// Longer than [`MAX_SDP`].
    #[error("the session description is too long")]
    TooLong,
    /// No such contact.
    #[error("there is no such contact")]
    NoContact,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// What an app asks of one call.
#[derive(Debug)]
pub(crate) enum CallAction {
    Accept(Redacted<String>),
    Decline,
    HangUp,
    Candidates(Redacted<Vec<String>>),
    Media { up: bool },
}

/// A call that was placed.
#[derive(Debug)]
pub(crate) struct PlacedCall {
    pub(crate) id: CallId,
    pub(crate) status: watch::Receiver<CallStatus>,
}

/// No STUN and TURN servers were given. Worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IceServersError {
    /// There is no session with a node right now, or it was lost before the answer.
    #[error("not connected")]
    NotConnected,
    /// The node refused.
    #[error("the node gives no ICE servers now")]
    Refused,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// What the app asks of the client's task.
pub(crate) enum Command {
    Place {
        contact: ContactId,
        offer: String,
        reply: oneshot::Sender<Result<PlacedCall, CallActionError>>,
    },
    Act {
        call: CallId,
        action: CallAction,
        reply: oneshot::Sender<Result<(), CallActionError>>,
    },
    /// `stored`: the contact is known to have stored the pairing as well.
    AddContact {
        contact: Contact,
        stored: bool,
        reply: oneshot::Sender<Result<Contact, ProfileError>>,
    },
    /// The contact is known to have stored this pairing.
    ConfirmPairing {
        contact: ContactId,
        pairing: PairingId,
        reply: oneshot::Sender<Result<(), ProfileError>>,
    },
    BlockContact {
        contact: ContactId,
        blocked: bool,
        reply: oneshot::Sender<Result<(), ProfileError>>,
    },
    RemoveContact {
        contact: ContactId,
        reply: oneshot::Sender<Result<(), ProfileError>>,
    },
    Contacts {
        reply: oneshot::Sender<Vec<Contact>>,
    },
    IceServers {
        reply: oneshot::Sender<Result<Vec<IceServer>, IceServersError>>,
    },
}
