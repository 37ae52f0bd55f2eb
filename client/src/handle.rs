//! The app's handle of one call. Dropping it does not end the call.

use chappe_common::redacted::Redacted;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    call::EndReason,
    command::{CallAction, CallActionError, CallStatus, Command, MAX_SDP},
    contact::ContactId,
    seal::CallId,
};

/// A call, placed or received. Clones are handles of the same call.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) id: CallId,
    pub(crate) contact: ContactId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<CallStatus>,
}

impl Call {
    /// The call's id.
    pub const fn id(&self) -> CallId {
        self.id
    }

    /// The contact on the other side.
    pub const fn contact(&self) -> ContactId {
        self.contact
    }

    /// The current status.
    pub fn status(&self) -> CallStatus {
        self.status.borrow().clone()
    }

    /// Waits until the call is answered. Returns the callee's session description.
    ///
    /// # Errors
    /// The call has ended.
    pub async fn answered(&self) -> Result<String, EndReason> {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| *status != CallStatus::Ringing).await;
        match reached.map(|status| status.clone()) {
            Ok(CallStatus::Answered(answer)) => Ok(answer.into_inner()),
            Ok(CallStatus::Ended(reason)) => Err(reason),
            Ok(CallStatus::Ringing) | Err(_) => Err(EndReason::Shutdown),
        }
    }

    /// Waits until the call is over. Returns why.
    pub async fn ended(&self) -> EndReason {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| matches!(status, CallStatus::Ended(_))).await;
        match reached.map(|status| status.clone()) {
            Ok(CallStatus::Ended(reason)) => reason,
            _ => EndReason::Shutdown,
        }
    }

    /// Accepts an incoming call with this session description.
    ///
    /// # Errors
    /// The call no longer rings, or the description is longer than [`MAX_SDP`].
    pub async fn accept(&self, answer_sdp: impl Into<String>) -> Result<(), CallActionError> {
        self.act(CallAction::Accept(checked(answer_sdp.into())?)).await
    }

    /// Declines an incoming call.
    ///
    /// # Errors
    /// The call no longer rings.
    pub async fn decline(&self) -> Result<(), CallActionError> {
        self.act(CallAction::Decline).await
    }

    /// Ends the call.
    ///
    /// # Errors
    /// The call is over already.
    pub async fn hang_up(&self) -> Result<(), CallActionError> {
        self.act(CallAction::HangUp).await
    }

    /// Sends ICE candidates of the call's first descriptions to the other side: at most 64 at a time, 16 KiB in all.
    ///
    /// # Errors
    /// The call is over, or its queue is full.
    pub async fn send_candidates(
        &self,
        candidates: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<(), CallActionError> {
        self.send_candidates_of(0, candidates).await
    }

    /// Sends ICE candidates of a round of [`Self::renegotiate`], within the bounds of [`Self::send_candidates`]. Those
    /// of a round that is over are dropped without an error.
    ///
    /// # Errors
    /// The call is over, or its queue is full.
    pub async fn send_candidates_of(
        &self,
        round: u32,
        candidates: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<(), CallActionError> {
        let candidates = candidates.into_iter().map(Into::into).collect();
        self.act(CallAction::Candidates(round, Redacted::new(candidates))).await
    }

    /// Sends an offer that renegotiates the call, for example to restart ICE. Returns the number of its round, for
    /// [`Self::send_candidates_of`]. One of these events follows: [`Event::RenegotiationAnswered`],
    /// [`Event::Renegotiation`] with `roll_back` if the other side's offer counts instead,
    /// [`Event::RenegotiationUnanswered`], or the end of the call.
    ///
    /// # Errors
    /// The call is not answered, or over; an own offer is pending; the queue is full, or the description is longer than
    /// [`MAX_SDP`].
    ///
    /// [`Event::RenegotiationAnswered`]: crate::Event::RenegotiationAnswered
    /// [`Event::Renegotiation`]: crate::Event::Renegotiation
    /// [`Event::RenegotiationUnanswered`]: crate::Event::RenegotiationUnanswered
    pub async fn renegotiate(&self, offer_sdp: impl Into<String>) -> Result<u32, CallActionError> {
        let offer = checked(offer_sdp.into())?;
        let (reply, round) = oneshot::channel();
        let command = Command::Renegotiate { call: self.id, offer, reply };
        self.commands.send(command).await.map_err(|_| CallActionError::Stopped)?;
        round.await.map_err(|_| CallActionError::Stopped)?
    }

    /// Answers the offer of [`Event::Renegotiation`].
    ///
    /// # Errors
    /// The round was answered, or a newer one has begun; the call is over; the queue is full, or the description is
    /// longer than [`MAX_SDP`].
    ///
    /// [`Event::Renegotiation`]: crate::Event::Renegotiation
    pub async fn answer_renegotiation(&self, round: u32, answer_sdp: impl Into<String>) -> Result<(), CallActionError> {
        self.act(CallAction::AnswerRenegotiation(round, checked(answer_sdp.into())?)).await
    }

    /// Reports that media is connected or reconnected.
    ///
    /// # Errors
    /// The call is not answered, or over.
    pub async fn media_up(&self) -> Result<(), CallActionError> {
        self.act(CallAction::Media { up: true }).await
    }

    /// Reports that media was lost. Unless it reconnects, the call ends after [`crate::call::RECONNECT`].
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

/// A description within [`MAX_SDP`].
fn checked(sdp: String) -> Result<Redacted<String>, CallActionError> {
    if sdp.len() > MAX_SDP {
        return Err(CallActionError::TooLong);
    }
    Ok(Redacted::new(sdp))
}
