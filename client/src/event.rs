//! What a client tells its app. Owns the queue between the two and its rule: an app that doesn't read loses the newest
//! events and is told how many; calls go on, since a [`Call`] has its own state.

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

/// How many events wait for the app: a call with its candidates and every step takes about thirty.
const QUEUE: usize = 256;

/// Why a session with a node is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The node said nothing for too long.
    #[error("the node is silent")]
    Silent,
    /// The node did not attach the inboxes.
    #[error("the node does not take the inboxes")]
    NotAttached,
    /// The node had announced that it stops, and another one has taken over.
    #[error("the node is about to stop")]
    GoingAway,
}

/// Why a node has not attached an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboxRejection {
    /// A newer lease is known: another device with this profile is connected, or the clock was set back.
    #[error("another device with this profile has it, or this device's clock was set back")]
    Outdated,
    /// The lease is not valid to the node: this device's clock is wrong, or the node's.
    #[error("the node does not take the lease; is the clock right?")]
    Invalid,
    /// The node has no room or no rate for it now, or reaches none of the nodes that have to keep its lease.
    #[error("the node can't attach it now")]
    Unavailable,
}

/// Something that an app may want to know.
#[derive(Debug)]
pub enum Event {
    /// Connected and reachable.
    Connected {
        /// The node.
        node: NodeId,
        /// Its URL.
        url: String,
        /// Where it says that it stands.
        region: Option<String>,
        /// This machine's address on the connection: mostly one that media can use too.
        local_ip: IpAddr,
    },
    /// No longer connected to that node. The client looks for another one by itself.
    Disconnected {
        /// The node.
        node: NodeId,
        /// Why.
        reason: DisconnectReason,
    },
    /// No node was found; the search goes on after a pause.
    SearchFailed {
        /// Why, for each source.
        error: DiscoverError,
        /// The pause.
        retry_in: Duration,
    },
    /// What other sources say of the node that a search chose, within half a minute after it. A disagreement is for a person
    /// to judge: the client stays where it is.
    NodeChecked {
        /// The node.
        node: NodeId,
        /// What came of it.
        confirmation: Confirmation,
    },
    /// The node has attached the inbox at which this contact calls, after the others: from now on it reaches this client. After
    /// a pairing that takes up to three seconds. When [`Event::Connected`] is told, all others reach it, but for those of
    /// [`Event::InboxRejected`].
    Reachable {
        /// Who can call.
        contact: ContactId,
    },
    /// The node has not attached the inbox at which this contact calls, so that it can't call now. The client tries again
    /// after a minute, and stays with the node as long as any other inbox is attached there.
    InboxRejected {
        /// Who can't call.
        contact: ContactId,
        /// Why.
        reason: InboxRejection,
    },
    /// A contact calls.
    IncomingCall {
        /// To accept, decline and go on with.
        call: Call,
        /// Who calls.
        contact: ContactId,
        /// The name of who calls.
        name: Redacted<String>,
        /// The caller's session description.
        offer: Redacted<String>,
    },
    /// The contact's client has the offer.
    Ringing {
        /// The call.
        call: CallId,
    },
    /// An offer could not be handed over so far. It is tried again while that makes sense.
    NotReached {
        /// The call.
        call: CallId,
        /// Why; `None` where the node gave no answer.
        code: Option<ErrorCode>,
    },
    /// The contact has answered.
    CallAnswered {
        /// The call.
        call: CallId,
        /// The callee's session description.
        answer: Redacted<String>,
    },
    /// Candidates of the other side.
    Candidates {
        /// The call.
        call: CallId,
        /// As the other side's app gave them.
        candidates: Redacted<Vec<String>>,
    },
    /// Gathering has taken long enough: the candidates so far have to do.
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
    /// A step on the way of a message, for whoever draws a timeline.
    Step(Step),
    /// So many events were lost because the app didn't read.
    Lagged(u64),
}

/// One step on the way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: Instant,
    /// Of which call.
    pub call: Option<CallId>,
    /// The node over which it went.
    pub node: NodeId,
    /// What.
    pub kind: StepKind,
}

/// What a step was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// The node has attached this many inboxes.
    Attached {
        /// How many.
        inboxes: usize,
    },
    /// The node was asked where the contact is.
    Resolving,
    /// The contact is at this node.
    Resolved {
        /// The contact's node.
        peer_node: NodeId,
    },
    /// A sealed message was given to the node.
    Sent(RelayKind),
    /// The contact's node has handed it to the contact's client.
    Delivered(RelayKind),
    /// It was not; it is tried again.
    Failed(RelayKind, Option<ErrorCode>),
    /// A sealed message of the contact has come and opened.
    Received(RelayKind),
}

/// The client's end of the queue.
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
    /// The next event; `None` once the client has stopped. Can be cancelled and called again.
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
    async fn an_app_that_does_not_read_is_told_how_much_it_has_missed() {
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
