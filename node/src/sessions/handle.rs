//! The handle of a session. Other tasks use it to send events to the session, and to write to its client directly.
//!
//! A task with a message for the client writes it to the client's socket itself. One lock guards the writer and the
//! queue of events. It is never held while anything waits. Events that need the session's own state go through the
//! queue. While such an event is pending, messages of pairings don't overtake it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use chappe_common::{client::RelayKind, code::PairingCode, lease::Inbox};

use super::{
    attached_inboxes::{AttachedInboxes, TooMany},
    event::{EndReason, SessionEvent},
    flights::Flights,
};
use crate::{
    client_protocol::reply::{self, ForwardedBy, Reply},
    limits::byte_channel::{TrySendError, Weigh as _},
    websocket::{
        codec::Opcode,
        writer::{Backlog, WriteError, WriteOutcome, Writer},
    },
    wire::ids::{PeerAddr, SessionId},
};

/// The maximum number of queued events of one session: more than a client gets in its busiest second.
const QUEUE_EVENTS: usize = 1024;
/// The divisor of the queue's bounds, in events and bytes, for sessions that aren't paired with this one. Anyone who knows
/// the session's code can make a node send to it.
const STRANGERS_FRACTION: usize = 2;

/// The handle of a session. Cheap to clone. Sending and writing never wait.
#[derive(Clone)]
pub(crate) struct SessionHandle(Arc<Shared>);

struct Shared {
    id: SessionId,
    max_queued: usize,
    state: Mutex<State>,
    /// What the client has in flight and attached. Locked for moments without I/O, and never together with the state. A
    /// shard of the table of inboxes may be locked before it, and never after it.
    client: Mutex<ClientState>,
    /// The number of messages in flight, so that a session without any needn't take the lock.
    under_way: AtomicUsize,
}

#[derive(Default)]
struct ClientState {
    flights: Flights,
    attached: AttachedInboxes,
}

struct State {
    /// `None` after the connection has ended.
    out: Option<Writer>,
    /// Whether the session accepts events and messages.
    open: bool,
    events: VecDeque<SessionEvent>,
    /// The weight of all queued events in bytes.
    weight: usize,
    /// The number of messages and notes that are queued or being handled. Messages of pairings wait behind them.
    in_order: usize,
    /// The pairings that the client knows of.
    pairings: Vec<Pairing>,
    end: Option<EndReason>,
    /// The session's task.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    pub(crate) peer: PeerAddr,
    /// The code of the other session.
    pub(crate) code: PairingCode,
}

/// A signal to the session's task.
#[derive(Debug)]
pub(crate) enum SessionSignal {
    End(EndReason),
    /// The connection is broken.
    Broken,
    /// An event. If it is [`SessionEvent::is_in_order`], the task calls [`SessionHandle::mark_handled`] afterwards.
    Event(SessionEvent),
}

/// The result of relaying a message of a pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// The message was written or buffered for the client.
    Delivered,
    /// The session's task has to check the message.
    Undecided,
    /// The client's queue is full.
    Full,
    Closed,
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionHandle").field(&self.0.id).finish()
    }
}

impl SessionHandle {
    /// Creates a session's handle. At most `max_queued` bytes of events are queued.
    pub(crate) fn new(id: SessionId, max_queued: usize, out: Option<Writer>) -> Self {
        let state = State {
            out,
            open: true,
            events: VecDeque::new(),
            weight: 0,
            in_order: 0,
            pairings: Vec::new(),
            end: None,
            waker: None,
        };
        Self(Arc::new(Shared {
            id,
            max_queued,
            state: Mutex::new(state),
            client: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn id(&self) -> SessionId {
        self.0.id
    }

    /// Sends the session an event. A session with a full queue is too slow, and ends. Sessions without a pairing have
    /// only a part of the queue, and can't end the session by filling it.
    pub(crate) fn try_send(&self, event: SessionEvent) -> Result<(), TrySendError> {
        let weight = event.weight();
        let mut state = self.state();
        let is_from_stranger =
            event.sender().is_some_and(|from| !state.pairings.iter().any(|pairing| pairing.peer == from));
        let divisor = if is_from_stranger { STRANGERS_FRACTION } else { 1 };
        if !state.open {
            return Err(TrySendError::Closed);
        }
        let is_full =
            state.events.len() >= QUEUE_EVENTS / divisor || state.weight + weight > self.0.max_queued / divisor;
        if is_full && !is_from_stranger {
            state.end.get_or_insert(EndReason::SlowConsumer);
        }
        if !is_full {
            state.weight += weight;
            state.in_order += usize::from(event.is_in_order());
            state.events.push_back(event);
        }
        wake(state);
        if is_full { Err(TrySendError::Full) } else { Ok(()) }
    }

    /// Writes a text message to the client: the concatenated `pieces`. If the client's queue is full, the session ends.
    pub(crate) fn write(&self, batch: &mut Batch, pieces: &[&[u8]]) -> Result<(), WriteError> {
        let mut state = self.state();
        let written = state.write(Opcode::Text, pieces, batch.more);
        self.handle_written(state, batch, written)
    }

    /// Writes a message of a pairing to the client, if the pairing is published and no earlier event is pending.
    pub(crate) fn relay(&self, batch: &mut Batch, from: PeerAddr, kind: RelayKind, payload: &[u8]) -> Relayed {
        let mut state = self.state();
        if !state.open {
            return Relayed::Closed;
        }
        let pairing =
            if state.in_order == 0 { state.pairings.iter().find(|pairing| pairing.peer == from) } else { None };
        let Some(code) = pairing.map(|pairing| pairing.code) else { return Relayed::Undecided };
        let written =
            state.write(Opcode::Text, &reply::forwarded(kind, ForwardedBy::Code(code.as_str()), payload), batch.more);
        match self.handle_written(state, batch, written) {
            Ok(()) => Relayed::Delivered,
            Err(WriteError::Full | WriteError::BudgetExceeded) => Relayed::Full,
            Err(WriteError::Closed) => Relayed::Closed,
        }
    }

    fn handle_written(
        &self,
        mut state: MutexGuard<'_, State>,
        batch: &mut Batch,
        written: Result<WriteOutcome, WriteError>,
    ) -> Result<(), WriteError> {
        match written {
            Ok(WriteOutcome::Written | WriteOutcome::Queued) => Ok(()),
            Ok(WriteOutcome::Buffered) => {
                batch.buffered.push(self.clone());
                Ok(())
            }
            Ok(WriteOutcome::Blocked) => {
                wake(state);
                Ok(())
            }
            Err(error) => {
                if error == WriteError::Full {
                    state.end.get_or_insert(EndReason::SlowConsumer);
                }
                wake(state);
                Err(error)
            }
        }
    }

    /// Accesses the client's messages in flight.
    pub(crate) fn with_flights<T>(&self, access: impl FnOnce(&mut Flights) -> T) -> T {
        let mut client = self.client();
        let result = access(&mut client.flights);
        self.0.under_way.store(client.flights.len(), Ordering::Relaxed);
        result
    }

    /// Returns whether messages of the client are in flight. `false` is reliable only in the session's task, which
    /// alone starts messages.
    pub(crate) fn has_flights(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// Reports a message that another node has delivered to the client. Returns `false` if the session's task has to
    /// handle the outcome.
    pub(crate) fn handle_delivered(&self, batch: &mut Batch, ticket: u64) -> bool {
        let (flight, had_room) = self.with_flights(|flights| {
            let had_room = flights.has_room();
            (flights.finish_if_alone(ticket), had_room)
        });
        let Some(flight) = flight else { return false };
        if let Some(id) = flight.id {
            // If the write fails, the session ends anyway.
            let _ = self.write(batch, &[Reply::Delivered { id: &id }.encode().as_bytes()]);
        }
        if !had_room {
            wake(self.state());
        }
        true
    }

    /// Writes a control frame.
    pub(crate) fn write_control(&self, opcode: Opcode, content: &[u8]) -> Result<(), WriteError> {
        let mut state = self.state();
        let written = state.write(opcode, &[content], false);
        self.handle_written(state, &mut Batch::default(), written)
    }

    /// Writes a close frame, and rejects all later events and messages.
    pub(crate) fn write_close(&self, code: Option<u16>, reason: &str) {
        let mut state = self.state();
        state.open = false;
        if let Some(out) = &mut state.out {
            let code = code.map(u16::to_be_bytes);
            // If the write fails, the client is gone.
            let _ = out.write_last(Opcode::Close, &[code.as_ref().map_or(&[], <[u8; 2]>::as_slice), reason.as_bytes()]);
        }
    }

    /// Writes the buffered output to the socket.
    fn flush(&self) {
        let mut state = self.state();
        let Some(out) = &mut state.out else { return };
        match out.flush() {
            Ok(WriteOutcome::Blocked) => wake(state),
            Ok(_) => {}
            Err(error) => {
                state.close_writer(error);
                wake(state);
            }
        }
    }

    /// Adds an inbox to the session. Returns whether it is new. Only [`super::Sessions`] adds and removes inboxes, with
    /// the inbox's entry locked.
    pub(super) fn add_inbox(&self, inbox: Inbox, max: usize) -> Result<bool, TooMany> {
        self.client().attached.insert(inbox, max)
    }

    pub(super) fn remove_inbox(&self, inbox: &Inbox) {
        self.client().attached.remove(inbox);
    }

    /// Returns the inboxes that the session has attached.
    pub(crate) fn inboxes(&self) -> Vec<Inbox> {
        self.client().attached.to_vec()
    }

    /// Returns whether the session has attached an inbox.
    pub(crate) fn has_inboxes(&self) -> bool {
        !self.client().attached.is_empty()
    }

    /// Ends the session. If it is already ending, the first reason stays.
    pub(crate) fn end(&self, reason: EndReason) {
        let mut state = self.state();
        state.end.get_or_insert(reason);
        wake(state);
    }

    /// Publishes the session's pairings to other tasks, after the client was notified.
    pub(crate) fn publish_pairings(&self, pairings: Vec<Pairing>) {
        self.state().pairings = pairings;
    }

    /// Returns the next signal, and the client's backlog. Writes the backlog on if `is_first`, once in each poll of the
    /// task. Only the session's task may call it.
    pub(crate) fn poll_signal(&self, cx: &mut Context<'_>, is_first: bool) -> (Poll<SessionSignal>, Backlog) {
        let mut state = self.state();
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        if let Some(reason) = state.end {
            return (Poll::Ready(SessionSignal::End(reason)), Backlog::default());
        }
        let flushed = |out: &mut Writer| if is_first { out.poll_flush(cx) } else { Poll::Pending };
        match state.out.as_mut().map(flushed) {
            Some(Poll::Ready(Ok(())) | Poll::Pending) => {}
            None => return (Poll::Ready(SessionSignal::Broken), Backlog::default()),
            Some(Poll::Ready(Err(error))) => {
                state.close_writer(error);
                let signal = state.end.map_or(SessionSignal::Broken, SessionSignal::End);
                return (Poll::Ready(signal), Backlog::default());
            }
        }
        let backlog = state.out.as_ref().map(Writer::backlog).unwrap_or_default();
        (state.pop().map_or(Poll::Pending, |event| Poll::Ready(SessionSignal::Event(event))), backlog)
    }

    /// Notes that the last in-order event was handled.
    pub(crate) fn mark_handled(&self) {
        let mut state = self.state();
        state.in_order = state.in_order.saturating_sub(1);
    }

    /// Decrypts TLS records of the client. Returns `false` after the client's last record.
    pub(crate) fn decrypt(&self, records: &[u8], plain: &mut Vec<u8>) -> Result<bool, WriteError> {
        let mut state = self.state();
        let out = state.out.as_mut().ok_or(WriteError::Closed)?;
        let open = match out.decrypt(records, plain) {
            Ok(open) => open,
            Err(error) => {
                state.close_writer(error);
                return Err(error);
            }
        };
        if out.backlog().since.is_some() {
            // TLS may have sent an answer of its own, which the socket didn't accept.
            wake(state);
        }
        Ok(open)
    }

    /// Returns why the session has to end, if it has to.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.state().end
    }

    /// Rejects all later events, and returns the queued ones.
    pub(crate) fn close(&self) -> VecDeque<SessionEvent> {
        let mut state = self.state();
        state.open = false;
        state.pairings = Vec::new();
        std::mem::take(&mut state.events)
    }

    /// Ready after all output is written, or the connection has ended. Only the session's task may call it.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.state().out.as_mut().map_or(Poll::Ready(()), |out| out.poll_flush(cx).map(drop))
    }

    /// Returns the number of bytes that the socket has not accepted yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.state().out.as_ref().map_or(0, |out| out.backlog().bytes)
    }

    /// Closes the connection, even if other tasks still have the handle.
    pub(crate) fn hang_up(&self) {
        self.with_flights(|flights| *flights = Flights::default());
        let mut state = self.state();
        state.open = false;
        (state.out, state.waker) = (None, None);
    }

    /// Returns the next event without waiting.
    #[cfg(test)]
    pub(crate) fn take_event(&self) -> Option<SessionEvent> {
        self.state().pop()
    }

    fn client(&self) -> MutexGuard<'_, ClientState> {
        self.0.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, opcode: Opcode, pieces: &[&[u8]], buffer: bool) -> Result<WriteOutcome, WriteError> {
        if !self.open {
            return Err(WriteError::Closed);
        }
        let written = self.out.as_mut().ok_or(WriteError::Closed)?.write(opcode, pieces, buffer);
        if let Err(error @ (WriteError::Closed | WriteError::BudgetExceeded)) = written {
            self.close_writer(error);
        }
        written
    }

    /// Closes the writer after an error.
    fn close_writer(&mut self, error: WriteError) {
        self.out = None;
        if error == WriteError::BudgetExceeded {
            self.end.get_or_insert(EndReason::SlowConsumer);
        }
    }

    fn pop(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front()?;
        self.weight -= event.weight();
        if self.events.is_empty() {
            // Events are rare, and sessions idle for hours: free the queue's memory.
            self.events = VecDeque::new();
        }
        Some(event)
    }
}

/// Wakes the session's task, after it has released the lock.
fn wake(state: MutexGuard<'_, State>) {
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Batches the output of one task while it handles one read. While more input follows, output to clients is buffered,
/// and then written together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    more: bool,
    buffered: Vec<SessionHandle>,
}

impl Batch {
    /// Sets whether more output is about to follow.
    pub(crate) const fn expect(&mut self, more: bool) {
        self.more = more;
    }

    /// Writes all buffered output to the sockets.
    pub(crate) fn flush(&mut self) {
        self.more = false;
        for session in std::mem::take(&mut self.buffered) {
            session.flush();
        }
    }
}

impl Drop for Batch {
    /// Writes the buffered output, however the task ends.
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
