//! One link: a QUIC connection to another node, the queues of its two lanes, and the open outcomes and requests.
//!
//! Sending never waits: a frame is queued, or the sender gets an error at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::keys::NodeId;
use quinn::{Connection, VarInt};
use tokio::sync::{Notify, oneshot};

use super::outcomes::Outcomes;
use crate::{
    config::NodeConfig,
    limits::byte_channel::{self, TrySendError},
    wire::{
        breach::NotOpen,
        frame::{Frame, Header, Note, Request, Response},
        ids::{SessionId, Ticket},
    },
};

/// Maximum queued frames of one lane: a burst of small ones within a round trip.
const LANE_FRAMES: usize = 4096;

/// Why a link was closed, sent as the code of the QUIC close frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseReason {
    /// The node is stopping.
    Shutdown = 0,
    /// Replaced by another link to the same peer.
    Replaced = 1,
    /// The peer does not answer.
    Lost = 2,
    /// The peer broke the protocol.
    Protocol = 3,
    /// Evicted at the bound, as the link that was idle for longest.
    Evicted = 4,
    /// The hello was refused.
    Refused = 5,
    /// The peer has proved its key, and nothing else was wanted.
    Seen = 6,
}

impl CloseReason {
    pub(crate) fn close(self, connection: &Connection) {
        connection.close(VarInt::from_u32(self as u32), b"");
    }
}

/// Why a message was not sent over a link. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// A queue is full. Retry later.
    #[error("the link's queue is full")]
    Full,
    #[error("the link is closed")]
    Closed,
}

impl From<TrySendError> for SendError {
    fn from(error: TrySendError) -> Self {
        match error {
            TrySendError::Full => Self::Full,
            TrySendError::Closed => Self::Closed,
        }
    }
}

/// An open link. Both sides have proved their keys and shown their records.
#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    /// The peer's epoch in its hello.
    epoch: u64,
    /// Whether this node dialled the link.
    dialled: bool,
    opened: Instant,
    connection: Connection,
    relay: byte_channel::Sender<Frame>,
    control: byte_channel::Sender<Frame>,
    outcomes: Mutex<Outcomes<Ticket>>,
    /// Notified when the first outcome is opened.
    opened_outcome: Notify,
    requests: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    max_requests: usize,
    next_request: AtomicU64,
    /// Milliseconds from `opened` to the last frame or datagram.
    last_used: AtomicU64,
}

/// The receiving halves of a new link's queues.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) relay: byte_channel::Receiver<Frame>,
    pub(crate) control: byte_channel::Receiver<Frame>,
}

impl Link {
    /// Creates a link over a connection after both hellos succeeded.
    pub(crate) fn new(
        peer: NodeId,
        epoch: u64,
        dialled: bool,
        connection: Connection,
        config: &NodeConfig,
    ) -> (Arc<Self>, Queues) {
        let bounds = &config.federation;
        let (relay, relay_queue) = byte_channel::channel(LANE_FRAMES, bounds.max_queued);
        let (control, control_queue) = byte_channel::channel(LANE_FRAMES, bounds.max_queued);
        let link = Self {
            peer,
            epoch,
            dialled,
            opened: Instant::now(),
            connection,
            relay,
            control,
            opened_outcome: Notify::new(),
            outcomes: Mutex::new(Outcomes::new(bounds.max_in_flight, config.times.delivery)),
            requests: Mutex::default(),
            max_requests: bounds.max_requests,
            next_request: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
        };
        (Arc::new(link), Queues { relay: relay_queue, control: control_queue })
    }

    pub(crate) const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns the peer's epoch in its hello.
    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns whether this node dialled the link.
    pub(crate) const fn dialled(&self) -> bool {
        self.dialled
    }

    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Returns when something was last sent or received.
    pub(crate) fn last_used(&self) -> Instant {
        self.opened + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Returns whether the connection is open.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Returns the connection, for exchanges.
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        reason.close(&self.connection);
    }

    /// Forwards a message. `header` builds the frame header from the message's token, which the outcome repeats.
    /// Returns the token.
    pub(crate) fn try_forward(
        &self,
        header: impl FnOnce(u64) -> Header,
        payload: Bytes,
        ticket: Ticket,
    ) -> Result<u64, SendError> {
        let now = Instant::now();
        self.touch(now);
        // Locked until the frame is queued, so that tokens and frames have the same order. Nothing waits inside.
        let mut outcomes = self.outcomes();
        let token = outcomes.next_token().ok_or(SendError::Full)?;
        self.relay.try_send(Frame::new(&header(token), payload))?;
        if outcomes.is_empty() {
            self.opened_outcome.notify_one();
        }
        outcomes.open(now, ticket);
        Ok(token)
    }

    /// Sends a frame without a payload over the relay lane.
    pub(crate) fn try_relay(&self, header: &Header) -> Result<(), SendError> {
        self.touch(Instant::now());
        Ok(self.relay.try_send(Frame::new(header, Bytes::new()))?)
    }

    /// Sends a note between two sessions over the relay lane.
    pub(crate) fn try_note(&self, to: SessionId, from: SessionId, note: Note) -> Result<(), SendError> {
        self.try_relay(&Header::Note { to, from, note })
    }

    /// Sends a frame that needs no response over the control lane.
    pub(crate) fn try_control(&self, header: &Header) -> Result<(), SendError> {
        self.touch(Instant::now());
        Ok(self.control.try_send(Frame::new(header, Bytes::new()))?)
    }

    /// Sends a membership packet. Like any datagram, it may be lost.
    pub(crate) fn send_datagram(&self, packet: Bytes) {
        self.touch(Instant::now());
        // The packet fits every path's MTU, so the only possible error is a closed connection.
        let _ = self.connection.send_datagram(packet);
    }

    /// Sends a request. Returns `None` if no response arrives within `wait`.
    pub(crate) async fn request(&self, request: Request, wait: Duration) -> Option<Response> {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut requests = self.requests();
            if requests.len() >= self.max_requests {
                return None;
            }
            requests.insert(id, sender);
        }
        let guard = ForgetRequest { link: self, id };
        self.try_control(&Header::Request { id, request }).ok()?;
        let response = tokio::time::timeout(wait, receiver).await.ok()?.ok();
        drop(guard);
        response
    }

    /// Handles a response. Returns `false` if the requester has stopped waiting or there is no such request.
    pub(crate) fn handle_response(&self, id: u64, response: Response) -> bool {
        let sender = self.requests().remove(&id);
        sender.is_some_and(|sender| sender.send(response).is_ok())
    }

    /// Handles the outcome of a message. Returns the message's ticket.
    ///
    /// # Errors
    /// Returns an error if the outcome is overdue or the token was never sent.
    pub(crate) fn handle_outcome(&self, token: u64) -> Result<Ticket, NotOpen> {
        self.outcomes().close(token).ok_or(NotOpen)
    }

    /// Handles the delivery of `count` messages in a row. Appends their tickets to `tickets`.
    ///
    /// # Errors
    /// Returns an error if one of them was not in flight, which breaks the protocol. `tickets` then has the tickets
    /// before that one.
    pub(crate) fn handle_delivered(&self, first: u64, count: u32, tickets: &mut Vec<Ticket>) -> Result<(), NotOpen> {
        self.outcomes().close_row(first, count, tickets)
    }

    /// Records that something was sent or received.
    pub(crate) fn touch(&self, now: Instant) {
        let age = u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(age, Ordering::Relaxed);
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes<Ticket>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Response>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until at least one outcome is open.
    pub(crate) async fn outcome_opened(&self) {
        while self.outcomes().is_empty() {
            self.opened_outcome.notified().await;
        }
    }

    /// Closes the overdue outcomes. Returns their tickets.
    pub(crate) fn close_overdue(&self, now: Instant) -> Vec<Ticket> {
        let mut outcomes = self.outcomes();
        std::iter::from_fn(|| outcomes.close_overdue(now)).collect()
    }

    /// Ends all requests and outcomes after the connection was closed. Returns the tickets of the outcomes.
    pub(crate) fn close_all(&self) -> Vec<Ticket> {
        self.requests().clear();
        self.outcomes().close_all()
    }
}

/// Removes a request on drop, because the requester may be cancelled.
struct ForgetRequest<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for ForgetRequest<'_> {
    fn drop(&mut self) {
        self.link.requests().remove(&self.id);
    }
}
