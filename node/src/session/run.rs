//! The task of one session. It handles the client's messages, and events from other tasks.
//!
//! The task owns the session's state, except for the writer to the client, which other tasks share. It never blocks:
//! requests to other nodes run as operations beside it. If the client's next message depends on an operation, the
//! client is not read until the result is there.

mod codes;
mod deadlines;
mod inboxes;
mod lazy_timer;
mod leave;
mod liveness;
mod ops;
mod outbox;
mod output;
mod reply;
mod requests;
mod results;
mod send;
mod signals;

use std::{
    net::IpAddr,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::client::{MAX_PAYLOAD, PROTOCOL};
use futures_util::future::poll_fn;
use rand::RngExt as _;
use tokio::time::{Sleep, sleep_until};
use tracing::Instrument as _;

use self::{lazy_timer::LazyTimer, liveness::Liveness, ops::Ops, outbox::Outbox, output::Output};
use super::pairing::PairingSession;
use crate::{
    client_protocol::reply::{Limits, Reply},
    core::Core,
    ice::SessionCredential,
    limits::rates::SessionRates,
    sessions::{event::EndReason, handle::SessionHandle},
    websocket::{
        Connection,
        reader::{Ended, Next, Reader},
    },
    wire::ids::SessionId,
};

/// The number of nodes that `going_away` names.
const SUCCESSORS: usize = 3;
/// The number of further nodes that are sampled, since reserve nodes must not be named.
const SPARE_SUCCESSORS: usize = 9;

/// The maximum number of steps in one poll, so that a busy session leaves time to others.
const MAX_STEPS: usize = 256;
const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_POLICY: u16 = 1008;

const RATE_EXCEEDED: &str = "Rate limit exceeded. Please slow down.";

/// What the node still expects from the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InputState {
    /// WebSocket frames.
    Open,
    /// Bytes that can't be decoded: the client violated the protocol, or the beginning of a frame was dropped.
    Broken,
    /// Nothing: the client has sent its close frame.
    Closed,
}

/// How to read the client's input.
struct Input {
    is_tls: bool,
    state: InputState,
}

/// A session's state. Fields that a message between clients needs come first, to touch few cache lines. With ten
/// thousand sessions, almost none of this state is in the processor's cache.
#[repr(C)]
struct Session {
    core: Arc<Core>,
    handle: SessionHandle,
    liveness: Liveness,
    timer: LazyTimer,
    ops: Ops,
    output: Output,
    outbox: Outbox,
    input: Input,
    rates: SessionRates,
    pairing: PairingSession,
    /// Boxed: most sessions are idle and have none.
    ice_credential: Option<Box<SessionCredential>>,
    nonce: [u8; 32],
}

/// A session that is ready to run.
pub(crate) struct Running {
    session: Session,
    incoming: Reader,
    /// Tells this session's log lines from others', and says nothing of the client.
    number: u64,
}

impl Running {
    /// Creates the session for a client at `ip`. Boxed so that wrapping futures don't each embed a copy of this state.
    pub(crate) fn new(core: Arc<Core>, connection: Connection, ip: IpAddr) -> Box<Self> {
        let Connection { incoming, out, is_tls } = connection;
        // A cryptographic generator, seeded by the system.
        let mut random = rand::rng();
        let (nonce, id) = (random.random(), SessionId::from_raw(random.random()));
        let handle = SessionHandle::new(id, core.context.live().limits.max_queued, Some(out));
        core.sessions.insert(handle.clone());
        let number = core.context.metrics.sessions_opened.inc();
        let now = Instant::now();
        let session = Session {
            rates: SessionRates::new(&core.context.live().limits, &core.clients.sources.load(), ip),
            core,
            handle,
            liveness: Liveness::new(now),
            timer: LazyTimer::new(now),
            ops: Ops::default(),
            output: Output::default(),
            outbox: Outbox::default(),
            input: Input { is_tls, state: InputState::Open },
            pairing: PairingSession::default(),
            ice_credential: None,
            nonce,
        };
        Box::new(Self { session, incoming, number })
    }

    /// Serves the client until either side ends the session.
    pub(crate) async fn run(mut self: Box<Self>) {
        let Self { session, incoming, number } = &mut *self;
        let span = tracing::debug_span!("session", number);
        let serving = async {
            session.serve(incoming).await;
            Box::pin(session.finish(incoming)).await;
        };
        serving.instrument(span).await;
    }
}

impl Drop for Session {
    /// Makes the session unreachable, however its task ends.
    fn drop(&mut self) {
        self.core.sessions.remove(self.handle.id());
        for inbox in self.handle.inboxes() {
            self.core.sessions.detach(self.handle.id(), &inbox);
        }
        self.core.sessions.answer_unhandled(self.handle.close());
        self.handle.hang_up();
        self.core.context.metrics.sessions_closed.inc();
    }
}

impl Session {
    async fn serve(&mut self, incoming: &mut Reader) {
        self.reply(&self.server_info());
        if self.core.health.sends_away() {
            self.going_away();
        }
        let mut timer = pin!(sleep_until(self.next_deadline().into()));
        poll_fn(|cx| {
            let polled = self.poll_serve(cx, incoming, timer.as_mut());
            self.output.batch.flush();
            polled
        })
        .await;
    }

    /// Does all pending work in this order: end of the session, events, deadlines, results of operations, the client's
    /// messages. Ready when the session is over.
    fn poll_serve(&mut self, cx: &mut Context<'_>, incoming: &mut Reader, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        for step in 0..MAX_STEPS {
            // Output is flushed in the first step only. Output that the session queues later wakes the task again.
            let (signal, backlog) = self.handle.poll_signal(cx, step == 0);
            self.output.set_backlog(backlog);
            if backlog.since.is_some() {
                self.timer.invalidate();
            }
            if let Poll::Ready(signal) = signal {
                self.timer.invalidate();
                if self.handle_signal(signal).is_break() {
                    return Poll::Ready(());
                }
                continue;
            }
            let now = Instant::now();
            if self.poll_timer(cx, timer.as_mut(), now) {
                self.timer.invalidate();
                if self.handle_deadlines(now).is_break() {
                    return Poll::Ready(());
                }
                continue;
            }
            if let Poll::Ready(done) = self.ops.poll_next(cx) {
                self.timer.invalidate();
                self.handle_result(done);
                continue;
            }
            if !self.can_read() {
                // The node stops reading, so the client is not to blame for an incomplete message.
                self.liveness.set_incomplete(now, false);
                return Poll::Pending;
            }
            let mut received = false;
            match self.poll_read(cx, incoming, now, &mut received) {
                Poll::Ready(ControlFlow::Continue(())) => {}
                Poll::Ready(ControlFlow::Break(())) => return Poll::Ready(()),
                // A message may have set a deadline or started an operation. Events wake the task by themselves.
                Poll::Pending if received && (self.timer.is_stale() || !self.ops.is_empty()) => {}
                Poll::Pending => return Poll::Pending,
            }
            self.output.batch.flush();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns whether the client's next message may be read.
    fn can_read(&self) -> bool {
        self.ops.can_read()
            && self.outbox.is_empty()
            && (!self.handle.has_flights() || self.handle.with_flights(|flights| flights.has_room()))
            && !self.output.is_backpressured(self.core.context.live().limits.max_queued)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Reader,
        now: Instant,
        has_received: &mut bool,
    ) -> Poll<ControlFlow<()>> {
        let (handle, is_tls) = (self.handle.clone(), self.input.is_tls);
        let mut is_over = false;
        let polled = incoming.poll_read(
            cx,
            is_tls,
            |records, plain| handle.decrypt(records, plain),
            |received, more| {
                *has_received = true;
                self.output.batch.expect(more);
                is_over = self.handle_message(now, received).is_break();
                if is_over || !self.can_read() { Next::Wait } else { Next::Read }
            },
        );
        self.liveness.set_incomplete(now, incoming.has_unfinished());
        match polled {
            _ if is_over => Poll::Ready(ControlFlow::Break(())),
            // The write queue may have had no room for output of TLS itself.
            Poll::Ready(Err(Ended::Closed)) => {
                Poll::Ready(self.handle.end_reason().map_or(ControlFlow::Break(()), |end| self.end(end)))
            }
            Poll::Ready(Err(Ended::BudgetExceeded)) => {
                self.input.state = InputState::Broken;
                Poll::Ready(self.end(EndReason::SlowConsumer))
            }
            Poll::Ready(Err(Ended::Violation(violation))) => {
                self.handle_violation(violation);
                Poll::Ready(ControlFlow::Break(()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(ControlFlow::Continue(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn server_info(&self) -> String {
        let live = self.core.context.live();
        let limits = &live.limits;
        Reply::ServerInfo {
            server_id: &self.core.context.me.to_server_id(),
            endpoint: self.core.context.client_urls.first().map_or("", String::as_str),
            region: Some(self.core.context.region.as_str()).filter(|region| !region.is_empty()),
            protocol: PROTOCOL,
            nonce: &STANDARD.encode(self.nonce),
            limits: Limits {
                max_message: limits.max_message,
                max_payload: MAX_PAYLOAD,
                max_inboxes: limits.max_inboxes,
                messages_per_minute: limits.messages_per_minute,
                pair_requests_per_minute: limits.pair_requests_per_minute,
            },
        }
        .encode()
    }
}
