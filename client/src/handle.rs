//! An app's hold on one call. Dropping it leaves the call as it is; hanging up is a decision.

use chappe_common::redacted::Redacted;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    call::EndReason,
    command::{CallAction, CallActionError, CallStatus, Command, MAX_SDP},
    contact::ContactId,
    seal::CallId,
};

/// One call, placed or received.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) id: CallId,
    pub(crate) contact: ContactId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<CallStatus>,
}

impl Call {
    /// The call's name.
    pub const fn id(&self) -> CallId {
        self.id
    }

    /// Whom it is with.
    pub const fn contact(&self) -> ContactId {
        self.contact
    }

    /// How far it is.
    pub fn status(&self) -> CallStatus {
        self.status.borrow().clone()
    }

    /// Waits until the other side has answered, and gives its session description.
    ///
    /// # Errors
    /// The call has ended without an answer, or after it.
    pub async fn answered(&self) -> Result<String, EndReason> {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| *status != CallStatus::Ringing).await;
        match reached.map(|status| status.clone()) {
            Ok(CallStatus::Answered(answer)) => Ok(answer.into_inner()),
            Ok(CallStatus::Ended(reason)) => Err(reason),
            Ok(CallStatus::Ringing) | Err(_) => Err(EndReason::Shutdown),
        }
    }

    /// Waits until the call is over, and says why it is.
    pub async fn ended(&self) -> EndReason {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| matches!(status, CallStatus::Ended(_))).await;
        match reached.map(|status| status.clone()) {
            Ok(CallStatus::Ended(reason)) => reason,
            _ => EndReason::Shutdown,
        }
    }

    /// Takes an incoming call with this session description.
    ///
    /// # Errors
    /// The call doesn't ring any more, or the description is too long.
    pub async fn accept(&self, answer_sdp: impl Into<String>) -> Result<(), CallActionError> {
        let answer = answer_sdp.into();
        if answer.len() > MAX_SDP {
            return Err(CallActionError::TooLong);
        }
        self.act(CallAction::Accept(Redacted::new(answer))).await
    }

    /// Declines an incoming call.
    ///
    /// # Errors
    /// The call doesn't ring any more.
    pub async fn decline(&self) -> Result<(), CallActionError> {
        self.act(CallAction::Decline).await
    }

    /// Ends the call.
    ///
    /// # Errors
    /// It is over already.
    pub async fn hang_up(&self) -> Result<(), CallActionError> {
        self.act(CallAction::HangUp).await
    }

    /// Sends candidates to the other side; at most 64 at a time, 16 KiB together.
    ///
    /// # Errors
    /// The call is over, or too much is waiting to be sent.
    pub async fn send_candidates(
        &self,
        candidates: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<(), CallActionError> {
        let candidates = candidates.into_iter().map(Into::into).collect();
        self.act(CallAction::Candidates(Redacted::new(candidates))).await
    }

    /// Says that media flows, or flows again.
    ///
    /// # Errors
    /// The call is not answered, or over.
    pub async fn media_up(&self) -> Result<(), CallActionError> {
        self.act(CallAction::Media { up: true }).await
    }

    /// Says that media has stopped. Unless it comes back, the call ends after [`crate::call::RECONNECT`].
    ///
    /// # Errors
    /// The call is not answered, or over.
    pub async fn media_down(&self) -> Result<(), CallActionError> {
        self.act(CallAction::Media { up: false }).await
    }

    async fn act(&self, action: CallAction) -> Result<(), CallActionError> {
        let (reply, done) = oneshot::channel();
        let command = Command::Act { call: self.id, action, reply };
        self.commands.send(command).await.map_err(|_| CallActionError::Stopped)?;
        done.await.map_err(|_| CallActionError::Stopped)?
    }
}
