//! The handle of a session: through it others tell the session something, or say something to its client at once.
//!
//! Whoever has a message for the client writes it to the client's socket by itself, under the one lock that guards the
//! socket's way out and the queue of events; it is never held while anything waits. What has to be judged by the
//! session's own state goes through the queue, and as long as it does, nothing of a pairing overtakes it.

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
    client_protocol::reply::{self, By, Reply},
    limits::byte_channel::{TrySendError, Weigh as _},
    websocket::{
        codec::Opcode,
        writer::{Backlog, WriteError, WriteOutcome, Writer},
    },
    wire::ids::{PeerAddr, SessionId},
};

/// Events that may wait for one session: more small ones than a client gets in its busiest second.
const QUEUE_EVENTS: usize = 1024;
/// The part of that, and of the bytes, which sessions may take up that this one isn't paired with: whoever knows its code
/// can make some node send to it.
const STRANGERS_PART: usize = 2;

/// The handle of a session. Cheap to clone; telling and saying never wait.
#[derive(Clone)]
pub(crate) struct SessionHandle(Arc<Shared>);

struct Shared {
    id: SessionId,
    max_queued: usize,
    state: Mutex<State>,
    /// The messages of the client that are under way. Never locked together with the state.
    flights: Mutex<Flights>,
    /// How many they are, so that a session that has none needn't lock them.
    under_way: AtomicUsize,
}

struct State {
    /// None once the connection has ended.
    out: Option<Writer>,
    /// Whether the session takes events, and others' messages.
    open: bool,
    events: VecDeque<SessionEvent>,
    /// What the events weigh.
    weight: usize,
    /// Messages and notes that wait or are being handled. Meanwhile messages of pairings wait behind them.
    in_order: usize,
    attached: AttachedInboxes,
    /// The pairings that the client has been told of.
    pairings: Vec<Pairing>,
    end: Option<EndReason>,
    /// The session's task.
    waker: Option<Waker>,
}

/// A pairing of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    /// The other session.
    pub(crate) peer: PeerAddr,
    /// Its code.
    pub(crate) code: PairingCode,
}

/// What the session's task is told.
#[derive(Debug)]
pub(crate) enum SessionSignal {
    /// To end the session.
    End(EndReason),
    /// That the connection is broken.
    Broken,
    /// An event. One that is [`SessionEvent::is_in_order`] is [`SessionHandle::handled`] afterwards.
    Event(SessionEvent),
}

/// What became of a message of a pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// It is with the client's connection.
    Delivered,
    /// The session itself has to judge it.
    Undecided,
    /// Too much waits for the client.
    Full,
    /// The session is over.
    Closed,
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionHandle").field(&self.0.id).finish()
    }
}

impl SessionHandle {
    /// A session's handle; at most `max_queued` bytes of events wait for it.
    pub(crate) fn new(id: SessionId, max_queued: usize, out: Option<Writer>) -> Self {
        let state = State {
            out,
            open: true,
            events: VecDeque::new(),
            weight: 0,
            in_order: 0,
            attached: AttachedInboxes::default(),
            pairings: Vec::new(),
            end: None,
            waker: None,
        };
        Self(Arc::new(Shared {
            id,
            max_queued,
            state: Mutex::new(state),
            flights: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }))
    }

    /// The session's id.
    pub(crate) fn id(&self) -> SessionId {
        self.0.id
    }

    /// Tells the session. A session whose queue is full is too slow, and ends; but strangers have only a part of the queue,
    /// and end nobody's session by filling it.
    pub(crate) fn try_send(&self, event: SessionEvent) -> Result<(), TrySendError> {
        let weight = event.weight();
        let mut state = self.state();
        let is_by_stranger =
            event.from().is_some_and(|from| !state.pairings.iter().any(|pairing| pairing.peer == from));
        let part = if is_by_stranger { STRANGERS_PART } else { 1 };
        if !state.open {
            return Err(TrySendError::Closed);
        }
        let is_full = state.events.len() >= QUEUE_EVENTS / part || state.weight + weight > self.0.max_queued / part;
        if is_full && !is_by_stranger {
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

    /// Says a text to the client: `pieces` one after the other. A client that has too much waiting is too slow, and its
    /// session ends.
    pub(crate) fn write(&self, batch: &mut Batch, pieces: &[&[u8]]) -> Result<(), WriteError> {
        let mut state = self.state();
        let written = state.write(Opcode::Text, pieces, batch.more);
        self.handle_written(state, batch, written)
    }

    /// Hands a message of a pairing to the client, where the pairing is known and nothing is before it.
    pub(crate) fn relay(&self, batch: &mut Batch, from: PeerAddr, kind: RelayKind, payload: &[u8]) -> Relayed {
        let mut state = self.state();
        if !state.open {
            return Relayed::Closed;
        }
        let pairing =
            if state.in_order == 0 { state.pairings.iter().find(|pairing| pairing.peer == from) } else { None };
        let Some(code) = pairing.map(|pairing| pairing.code) else { return Relayed::Undecided };
        let written = state.write(Opcode::Text, &reply::forwarded(kind, By::Code(code.as_str()), payload), batch.more);
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
            Ok(WriteOutcome::Held) => {
                batch.held.push(self.clone());
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

    /// Looks at or changes the client's messages under way.
    pub(crate) fn with_flights<T>(&self, look: impl FnOnce(&mut Flights) -> T) -> T {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&mut flights);
        self.0.under_way.store(flights.len(), Ordering::Relaxed);
        seen
    }

    /// Whether messages of the client are under way. None are for certain where the session's task asks: it alone starts
    /// them.
    pub(crate) fn has_flights(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// A message of the client was delivered by another node. `false`: the session itself has to hear it.
    pub(crate) fn delivered(&self, batch: &mut Batch, ticket: u64) -> bool {
        let (flight, had_room) = self.with_flights(|flights| {
            let had_room = flights.has_room();
            (flights.finish_alone(ticket), had_room)
        });
        let Some(flight) = flight else { return false };
        if let Some(id) = flight.id {
            // A client to which nothing can be said has a session that ends.
            let _ = self.write(batch, &[Reply::Delivered { id: &id }.encode().as_bytes()]);
        }
        if !had_room {
            wake(self.state());
        }
        true
    }

    /// Says a control frame.
    pub(crate) fn write_control(&self, opcode: Opcode, content: &[u8]) -> Result<(), WriteError> {
        let mut state = self.state();
        let written = state.write(opcode, &[content], false);
        self.handle_written(state, &mut Batch::default(), written)
    }

    /// Says the last frame, and takes nothing more.
    pub(crate) fn write_close(&self, code: Option<u16>, reason: &str) {
        let mut state = self.state();
        state.open = false;
        if let Some(out) = &mut state.out {
            let code = code.map(u16::to_be_bytes);
            // A client that doesn't even take this is gone.
            let _ = out.write_last(Opcode::Close, &[code.as_ref().map_or(&[], <[u8; 2]>::as_slice), reason.as_bytes()]);
        }
    }

    /// Hands to the system what is held.
    fn flush(&self) {
        let mut state = self.state();
        let Some(out) = &mut state.out else { return };
        match out.flush() {
            Ok(WriteOutcome::Blocked) => wake(state),
            Ok(_) => {}
            Err(error) => {
                state.break_off(error);
                wake(state);
            }
        }
    }

    /// Adds an inbox to those of the session. Returns whether it is new. Only [`super::Sessions`] adds and removes inboxes,
    /// with the inbox's own entry locked.
    pub(super) fn add_inbox(&self, inbox: Inbox, max: usize) -> Result<bool, TooMany> {
        self.state().attached.insert(inbox, max)
    }

    /// Removes an inbox from those of the session.
    pub(super) fn remove_inbox(&self, inbox: &Inbox) {
        self.state().attached.remove(inbox);
    }

    /// Takes all inboxes of the session, which is over.
    pub(crate) fn take_inboxes(&self) -> Vec<Inbox> {
        self.state().attached.take()
    }

    /// Whether the session has attached an inbox.
    pub(crate) fn has_inboxes(&self) -> bool {
        !self.state().attached.is_empty()
    }

    /// Ends the session.
    pub(crate) fn end(&self, reason: EndReason) {
        let mut state = self.state();
        // The first reason stays.
        state.end.get_or_insert(reason);
        wake(state);
    }

    /// Makes known with whom the session is paired, once the client has been told.
    pub(crate) fn publish_pairings(&self, pairings: Vec<Pairing>) {
        self.state().pairings = pairings;
    }

    /// What the session is told next, and what waits for its client. Only the session's task asks, and has what waits written on
    /// once in each of its turns.
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
                state.break_off(error);
                let signal = state.end.map_or(SessionSignal::Broken, SessionSignal::End);
                return (Poll::Ready(signal), Backlog::default());
            }
        }
        let waiting = state.out.as_ref().map(Writer::waiting).unwrap_or_default();
        (state.pop().map_or(Poll::Pending, |event| Poll::Ready(SessionSignal::Event(event))), waiting)
    }

    /// The event that was taken last is handled.
    pub(crate) fn handled(&self) {
        let mut state = self.state();
        state.in_order = state.in_order.saturating_sub(1);
    }

    /// Takes TLS records of the client in.
    pub(crate) fn decrypt(&self, records: &[u8], plain: &mut Vec<u8>) -> Result<bool, WriteError> {
        let mut state = self.state();
        let out = state.out.as_mut().ok_or(WriteError::Closed)?;
        let open = match out.decrypt(records, plain) {
            Ok(open) => open,
            Err(error) => {
                state.break_off(error);
                return Err(error);
            }
        };
        if out.waiting().since.is_some() {
            // TLS may have had an answer of its own, which the system didn't take.
            wake(state);
        }
        Ok(open)
    }

    /// Why the session has to end, if something was said of that.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.state().end
    }

    /// Takes nothing more; gives back what waited.
    pub(crate) fn close(&self) -> VecDeque<SessionEvent> {
        let mut state = self.state();
        state.open = false;
        state.pairings = Vec::new();
        std::mem::take(&mut state.events)
    }

    /// Ready once nothing waits for the client, or nothing can be said to it any more. Only the session's task asks.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.state().out.as_mut().map_or(Poll::Ready(()), |out| out.poll_flush(cx).map(drop))
    }

    /// How many bytes the system has not taken yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.state().out.as_ref().map_or(0, |out| out.waiting().bytes)
    }

    /// Lets the connection go, whoever else still holds the handle.
    pub(crate) fn hang_up(&self) {
        self.with_flights(|flights| *flights = Flights::default());
        let mut state = self.state();
        state.open = false;
        (state.out, state.waker) = (None, None);
    }

    /// The next event, without waiting.
    #[cfg(test)]
    pub(crate) fn take_event(&self) -> Option<SessionEvent> {
        self.state().pop()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, opcode: Opcode, pieces: &[&[u8]], hold: bool) -> Result<WriteOutcome, WriteError> {
        if !self.open {
            return Err(WriteError::Closed);
        }
        let written = self.out.as_mut().ok_or(WriteError::Closed)?.write(opcode, pieces, hold);
        if let Err(error @ (WriteError::Closed | WriteError::BudgetExceeded)) = written {
            self.break_off(error);
        }
        written
    }

    /// Nothing more can be said.
    fn break_off(&mut self, error: WriteError) {
        self.out = None;
        if error == WriteError::BudgetExceeded {
            self.end.get_or_insert(EndReason::SlowConsumer);
        }
    }

    fn pop(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front()?;
        self.weight -= event.weight();
        if self.events.is_empty() {
            // Events are rare, and sessions idle for hours.
            self.events = VecDeque::new();
        }
        Some(event)
    }
}

/// Wakes the session's task, after the lock is let go of.
fn wake(state: MutexGuard<'_, State>) {
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What one task says while it handles what it has read at once: as long as there is more, what is said to a client
/// waits for the rest, and goes with it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    more: bool,
    held: Vec<SessionHandle>,
}

impl Batch {
    /// Whether more is about to be said.
    pub(crate) const fn expect(&mut self, more: bool) {
        self.more = more;
    }

    /// Hands all that is held to the system.
    pub(crate) fn flush(&mut self) {
        self.more = false;
        for session in std::mem::take(&mut self.held) {
            session.flush();
        }
    }
}

impl Drop for Batch {
    /// Nothing stays held, however the task ends.
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
