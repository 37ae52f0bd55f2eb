//! The client's events for its app, and the queue between the two. If the app does not read, the newest events are
//! dropped and counted. Calls are unaffected, because a [`Call`] has its own state.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chappe_common::{
    client::{ErrorCode, RelayKind},
    keys::NodeId,
    redacted::Redacted,
};
use chappe_discovery::{DiscoverError, connection::ConnectionError, race::confirm::Confirmation};
use tokio::sync::mpsc;

use crate::{call::EndReason, contact::ContactId, handle::Call, seal::CallId};

/// Capacity of the event queue: a call with its candidates and steps takes about thirty.
const QUEUE: usize = 256;

/// Why a session with a node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The node did not respond to a ping.
    #[error("the node is silent")]
    Silent,
    /// The node did not attach the inboxes.
    #[error("the node does not attach the inboxes")]
    NotAttached,
    /// The node has announced that it stops.
    #[error("the node is about to stop")]
    GoingAway,
}

/// Why a node has rejected an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboxRejection {
    /// The node knows a newer lease: another device with this profile is connected, or the clock was set back.
    #[error("another device with this profile has it, or this device's clock was set back")]
    Outdated,
    /// The lease is not valid for the node: one of the two clocks is wrong.
    #[error("the node rejects the lease; is the clock right?")]
    Invalid,
    /// The node has no capacity for it now, or cannot reach the homes of the inbox.
    #[error("the node cannot attach it now")]
    Unavailable,
}

/// An event for the app.
#[derive(Debug)]
pub enum Event {
    /// The client is connected, and its contacts can call.
    Connected {
        /// The node.
        node: NodeId,
        /// Its URL.
        url: String,
        /// The region that the node names.
        region: Option<String>,
        /// This machine's address on the connection. Media can usually use it too.
        local_ip: IpAddr,
    },
    /// The session with this node has ended. The client looks for another node by itself.
    Disconnected {
        /// The node.
        node: NodeId,
        /// Why.
        reason: DisconnectReason,
    },
    /// No node was found. The client searches again after a pause.
    SearchFailed {
        /// Why, for each source.
        error: DiscoverError,
        /// The pause before the next search.
        retry_in: Duration,
    },
    /// The background phase of the search has ended, within half a minute after it found the node. If other sources
    /// disagree, the client stays connected: a person has to decide.
    NodeChecked {
        /// The node.
        node: NodeId,
        /// Whether a second source confirms the node.
        confirmation: Confirmation,
    },
    /// The node has attached this contact's inbox, so the contact can call. Sent only for inboxes attached after
    /// [`Event::Connected`]; after a pairing that takes up to three seconds. At [`Event::Connected`] all other
    /// contacts can call, except those of [`Event::InboxRejected`].
    Reachable {
        /// The contact that can call.
        contact: ContactId,
    },
    /// The node has rejected this contact's inbox, so the contact cannot call now. The client retries after a minute.
    /// It stays with the node while any other inbox is attached there.
    InboxRejected {
        /// The contact that cannot call.
        contact: ContactId,
        /// Why.
        reason: InboxRejection,
    },
    /// A contact calls.
    IncomingCall {
        /// The handle, to accept or decline the call.
        call: Call,
        /// The caller.
        contact: ContactId,
        /// The caller's name.
        name: Redacted<String>,
        /// The caller's session description.
        offer: Redacted<String>,
    },
    /// The contact's client has lost the call `old`, as by a reload, and replaces it by a new one. Accept it at once: it
    /// does not ring. The end of the old call, with [`EndReason::Rejoined`], is reported before.
    CallRejoined {
        /// The handle of the new call.
        call: Call,
        /// The call that it replaces.
        old: CallId,
        /// The contact.
        contact: ContactId,
        /// The caller's session description.
        offer: Redacted<String>,
    },
    /// The offer was delivered to the contact's client.
    Ringing {
        /// The call.
        call: CallId,
    },
    /// An attempt to deliver the offer has failed. The client retries for ten seconds.
    NotReached {
        /// The call.
        call: CallId,
        /// The node's error code, or `None` without a response.
        code: Option<ErrorCode>,
    },
    /// The contact has answered.
    CallAnswered {
        /// The call.
        call: CallId,
        /// The callee's session description.
        answer: Redacted<String>,
    },
    /// Candidates of the other side. They may come before the description of their round, as after a change of nodes.
    Candidates {
        /// The call.
        call: CallId,
        /// Their round: 0 for the call's own descriptions, and otherwise that of a renegotiation.
        round: u32,
        /// The candidates, as the other side's app passed them in.
        candidates: Redacted<Vec<String>>,
    },
    /// The other side renegotiates, for example to restart ICE. Reply by [`Call::answer_renegotiation`].
    Renegotiation {
        /// The call.
        call: CallId,
        /// The round, for the answer and its candidates.
        round: u32,
        /// The other side's session description.
        offer: Redacted<String>,
        /// An own offer is pending and no longer counts: roll it back before setting this one.
        roll_back: bool,
    },
    /// The other side has answered the offer of [`Call::renegotiate`].
    RenegotiationAnswered {
        /// The call.
        call: CallId,
        /// The round of the offer.
        round: u32,
        /// The other side's session description.
        answer: Redacted<String>,
    },
    /// The other side did not answer the offer of [`Call::renegotiate`] within 30 s, although it was repeated. Roll it
    /// back. The call continues, and the app may renegotiate again.
    RenegotiationUnanswered {
        /// The call.
        call: CallId,
        /// The round of the offer.
        round: u32,
    },
    /// An offer of the other side was dropped: it was the 21st within a minute, or its round is more than 16 ahead. The
    /// other side repeats its offer, so one that was only too early is accepted later.
    RenegotiationRefused {
        /// The call.
        call: CallId,
        /// The round of the offer.
        round: u32,
    },
    /// The time for gathering candidates is over: proceed with those so far.
    StopGathering {
        /// The call.
        call: CallId,
    },
    /// A call is over.
    CallEnded {
        /// The call.
        call: CallId,
        /// Why.
        reason: EndReason,
    },
    /// A step of a message on its way, for a timeline.
    Step(Step),
    /// This many events were dropped because the app did not read.
    Lagged(u64),
}

/// A step of a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: Instant,
    /// The call, if the step belongs to one.
    pub call: Option<CallId>,
    /// The client's node.
    pub node: NodeId,
    /// What.
    pub kind: StepKind,
}

/// The kind of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// The node has attached this many inboxes.
    Attached {
        /// Number of inboxes.
        inboxes: usize,
    },
    /// The node was asked for the contact's lease.
    Resolving,
    /// The node has returned the contact's lease.
    Resolved {
        /// The contact's node.
        peer_node: NodeId,
    },
    /// A sealed message was sent to the node.
    Sent(RelayKind),
    /// The contact's node has delivered the message to the contact's client.
    Delivered(RelayKind),
    /// The message was not delivered. The client retries.
    Failed(RelayKind, Option<ErrorCode>),
    /// A sealed message of the contact was received and opened.
    Received(RelayKind),
}

#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl EventSender {
    pub(crate) fn send(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The app's end of the queue.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// Waits for the next event. Returns `None` once the client has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 { Some(Event::Lagged(lost)) } else { self.queue.recv().await }
    }
}

impl futures_util::Stream for Events {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 { std::task::Poll::Ready(Some(Event::Lagged(lost))) } else { self.queue.poll_recv(context) }
    }
}

pub(crate) fn queue() -> (EventSender, Events) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    (EventSender { queue: sender, lost: lost.clone() }, Events { queue: receiver, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_app_that_does_not_read_learns_how_many_events_it_missed() {
        let (sender, mut events) = queue();
        let event = || Event::Ringing { call: CallId::from_bytes([1; 16]) };
        for _ in 0..QUEUE + 3 {
            sender.send(event());
        }
        assert!(matches!(events.next().await, Some(Event::Lagged(3))));
        assert!(matches!(events.next().await, Some(Event::Ringing { .. })));
        drop(sender);
        let mut left = 0;
        while events.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, QUEUE - 1);
    }
}
