//! One link: a QUIC connection to another node, the way into its two lanes, and what waits for the other side's answer.
//!
//! Sending never waits: a frame goes into the lane's bounded queue or the sender is told that it is full.

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

/// What may wait for one lane in frames: a burst of small ones within one round trip.
const LANE_FRAMES: usize = 4096;

/// Why a link was closed; the code of the QUIC close frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseReason {
    /// The node stops.
    Shutdown = 0,
    /// Another link to the same peer took its place.
    Replaced = 1,
    /// The peer doesn't answer any more.
    Lost = 2,
    /// The peer sent what is no frame.
    Protocol = 3,
    /// Idle for longest when room was needed.
    Evicted = 4,
    /// The first words were refused.
    Refused = 5,
    /// The other side has proven its key, which is all that was wanted.
    Seen = 6,
}

impl CloseReason {
    /// Closes a connection for this reason.
    pub(crate) fn close(self, connection: &Connection) {
        connection.close(VarInt::from_u32(self as u32), b"");
    }
}

/// Why a message was not sent over a link. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// A queue is full. Try again later.
    #[error("the link's queue is full")]
    Full,
    /// The link is gone.
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

/// A link that is up: both sides have proven their keys and shown their records.
#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    /// The peer's epoch when it showed its record.
    epoch: u64,
    /// Whether this node dialled.
    dialled: bool,
    opened: Instant,
    connection: Connection,
    relay: byte_channel::Sender<Frame>,
    control: byte_channel::Sender<Frame>,
    outcomes: Mutex<Outcomes<Ticket>>,
    /// An outcome was opened where none was open.
    opened_outcome: Notify,
    requests: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    max_requests: usize,
    next_request: AtomicU64,
    /// Milliseconds from `opened` to the last frame or datagram.
    last_used: AtomicU64,
}

/// The receiving ends of a new link's queues.
#[derive(Debug)]
pub(crate) struct Queues {
    /// For the relay lane.
    pub(crate) relay: byte_channel::Receiver<Frame>,
    /// For the control lane.
    pub(crate) control: byte_channel::Receiver<Frame>,
}

impl Link {
    /// A link over a connection whose first words went well.
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

    /// The other node.
    pub(crate) const fn peer(&self) -> NodeId {
        self.peer
    }

    /// The peer's epoch when it showed its record.
    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this node dialled.
    pub(crate) const fn dialled(&self) -> bool {
        self.dialled
    }

    /// How long the link has been up.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// When something was last sent or received.
    pub(crate) fn last_used(&self) -> Instant {
        self.opened + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Whether the connection is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// The connection, for exchanges.
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Closes the link.
    pub(crate) fn close(&self, reason: CloseReason) {
        reason.close(&self.connection);
    }

    /// Forwards a message. `header` is given the token that the outcome comes back with, and which is returned.
    pub(crate) fn try_forward(
        &self,
        header: impl FnOnce(u64) -> Header,
        payload: Bytes,
        ticket: Ticket,
    ) -> Result<u64, SendError> {
        let now = Instant::now();
        self.touch(now);
        // Held over the queueing, so that tokens are in the order of the frames. Nothing waits inside.
        let mut outcomes = self.outcomes();
        let token = outcomes.next_token().ok_or(SendError::Full)?;
        self.relay.try_send(Frame::new(&header(token), payload))?;
        if outcomes.is_empty() {
            self.opened_outcome.notify_one();
        }
        outcomes.open(now, ticket);
        Ok(token)
    }

    /// Sends what has no payload over the relay lane.
    pub(crate) fn try_relay(&self, header: &Header) -> Result<(), SendError> {
        self.touch(Instant::now());
        Ok(self.relay.try_send(Frame::new(header, Bytes::new()))?)
    }

    /// Sends a note from one session to another.
    pub(crate) fn try_note(&self, to: SessionId, from: SessionId, note: Note) -> Result<(), SendError> {
        self.try_relay(&Header::Note { to, from, note })
    }

    /// Sends what needs no answer over the control lane.
    pub(crate) fn try_control(&self, header: &Header) -> Result<(), SendError> {
        self.touch(Instant::now());
        Ok(self.control.try_send(Frame::new(header, Bytes::new()))?)
    }

    /// Sends a membership packet. It may be lost, as datagrams may.
    pub(crate) fn send_datagram(&self, packet: Bytes) {
        self.touch(Instant::now());
        // Too large or unsupported can't be: the packet's size is below what every path carries. Closed counts as lost.
        let _ = self.connection.send_datagram(packet);
    }

    /// Asks the other side; `None` where no answer came within `wait`.
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
        let forget = ForgetRequest { link: self, id };
        self.try_control(&Header::Request { id, request }).ok()?;
        let response = tokio::time::timeout(wait, receiver).await.ok()?.ok();
        drop(forget);
        response
    }

    /// Takes an answer in. `false`: whoever asked has stopped waiting, or nobody asked.
    pub(crate) fn handle_response(&self, id: u64, response: Response) -> bool {
        let sender = self.requests().remove(&id);
        sender.is_some_and(|sender| sender.send(response).is_ok())
    }

    /// Handles the outcome of a message. Returns whose it was.
    ///
    /// # Errors
    /// Its time was over, or nothing was sent.
    pub(crate) fn handle_outcome(&self, token: u64) -> Result<Ticket, NotOpen> {
        self.outcomes().close(token).ok_or(NotOpen)
    }

    /// Handles the delivery of `count` messages in a row. Appends to `tickets` whose they were.
    ///
    /// # Errors
    /// Not all of them were in flight, which no node says that keeps to the protocol. `tickets` has those before the first
    /// that wasn't.
    pub(crate) fn handle_delivered(&self, first: u64, count: u32, tickets: &mut Vec<Ticket>) -> Result<(), NotOpen> {
        self.outcomes().close_row(first, count, tickets)
    }

    /// Something was sent or received.
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

    /// Waits until an outcome is open.
    pub(crate) async fn outcome_opened(&self) {
        while self.outcomes().is_empty() {
            self.opened_outcome.notified().await;
        }
    }

    /// Closes the outcomes that were open for too long. Returns whose messages they were.
    pub(crate) fn close_overdue(&self, now: Instant) -> Vec<Ticket> {
        let mut outcomes = self.outcomes();
        std::iter::from_fn(|| outcomes.close_overdue(now)).collect()
    }

    /// The connection is over: wakes the requests in flight and closes all outcomes. Returns whose messages they were.
    pub(crate) fn close_all(&self) -> Vec<Ticket> {
        self.requests().clear();
        self.outcomes().close_all()
    }
}

/// Takes a question back whose asker has stopped waiting.
struct ForgetRequest<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for ForgetRequest<'_> {
    fn drop(&mut self) {
        self.link.requests().remove(&self.id);
    }
}
