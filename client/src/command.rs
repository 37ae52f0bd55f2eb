//! Commands of the app to the client's task, and their results. Only messages: both the task and the app's handles
//! depend on them, so that they need not depend on each other.

use chappe_common::redacted::Redacted;
use tokio::sync::{oneshot, watch};

use crate::{
    call::{CallError, EndReason},
    contact::{Contact, ContactId, PairingId},
    profile::ProfileError,
    protocol::IceServer,
    seal::CallId,
};

/// Capacity of the command queue. If it is full, the app's calls wait.
pub(crate) const COMMANDS: usize = 64;

/// The longest session description in bytes. With its JSON around it, it fits the largest sealed message.
pub const MAX_SDP: usize = 24 * 1024;

/// The status of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// Not answered yet.
    Ringing,
    /// Answered, with the callee's session description.
    Answered(Redacted<String>),
    /// Over.
    Ended(EndReason),
}

/// An action on a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallActionError {
    /// The call's state does not allow this.
    #[error(transparent)]
    State(#[from] CallError),
    /// The queue of the call is full, or a candidate is too long. Nothing was sent. Retry later.
    #[error("the queue of messages is full")]
    Full,
    /// The description is longer than [`MAX_SDP`].
    #[error("the session description is too long")]
    TooLong,
    /// No such contact.
    #[error("there is no such contact")]
    NoContact,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

#[derive(Debug)]
pub(crate) enum CallAction {
    Accept(Redacted<String>),
    Decline,
    HangUp,
    /// Candidates of a round.
    Candidates(u32, Redacted<Vec<String>>),
    /// The answer to the other side's offer of a round.
    AnswerRenegotiation(u32, Redacted<String>),
    Media {
        up: bool,
    },
}

#[derive(Debug)]
pub(crate) struct PlacedCall {
    pub(crate) id: CallId,
    pub(crate) status: watch::Receiver<CallStatus>,
}

/// The request for STUN and TURN servers failed. A retry may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IceServersError {
    /// There is no session with a node, or it ended before the response.
    #[error("not connected")]
    NotConnected,
    /// The node has rejected the request.
    #[error("the node provides no ICE servers now")]
    Refused,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// Inboxes that are being detached: one receiver for each session.
#[derive(Debug)]
pub(crate) struct Detaching(pub(crate) Vec<oneshot::Receiver<()>>);

impl Detaching {
    /// Waits until each node has responded, or will not: at most five seconds.
    pub(crate) async fn finish(self) {
        for response in self.0 {
            // Without a response, the inbox ends with its lease.
            let _ = response.await;
        }
    }
}

pub(crate) enum Command {
    Place {
        contact: ContactId,
        offer: String,
        /// The lost call that this one replaces.
        rejoins: Option<CallId>,
        reply: oneshot::Sender<Result<PlacedCall, CallActionError>>,
    },
    Act {
        call: CallId,
        action: CallAction,
        reply: oneshot::Sender<Result<(), CallActionError>>,
    },
    /// Sends an offer of a further round, and returns its number.
    Renegotiate {
        call: CallId,
        offer: Redacted<String>,
        reply: oneshot::Sender<Result<u32, CallActionError>>,
    },
    /// `stored`: the contact has stored the pairing as well.
    AddContact {
        contact: Contact,
        stored: bool,
        reply: oneshot::Sender<Result<Contact, ProfileError>>,
    },
    /// The contact has stored this pairing.
    ConfirmPairing {
        contact: ContactId,
        pairing: PairingId,
        reply: oneshot::Sender<Result<(), ProfileError>>,
    },
    BlockContact {
        contact: ContactId,
        blocked: bool,
        reply: oneshot::Sender<Result<Detaching, ProfileError>>,
    },
    RemoveContact {
        contact: ContactId,
        reply: oneshot::Sender<Result<Detaching, ProfileError>>,
    },
    Contacts {
        reply: oneshot::Sender<Vec<Contact>>,
    },
    IceServers {
        reply: oneshot::Sender<Result<Vec<IceServer>, IceServersError>>,
    },
}
