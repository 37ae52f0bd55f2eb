//! One session's task: its client on one side, what others tell the session on the other.
//!
//! The task owns all of the session's state but the way out to its client, which others share. Nothing that it does waits:
//! what has to be asked of other nodes runs beside it, and the client is heard again when an answer that its next message
//! depends on is there.

mod by_code;
mod by_inbox;
mod deadlines;
mod lazy_timer;
mod leave;
mod ops;
mod receive;
mod reply;
mod results;
mod send;
mod signals;

use std::{
    collections::VecDeque,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{
    client::{MAX_PAYLOAD, PROTOCOL},
    code::PairingCode,
    keys::NodeId,
    lease::SignedLease,
};
use futures_util::future::poll_fn;
use rand::RngExt as _;
use tokio::time::{Sleep, sleep_until};

use self::{lazy_timer::LazyTimer, ops::Ops};
use super::{
    attached_inboxes::AttachedInboxes,
    pairing::{PairingSession, Registration},
};
use crate::wire::ids::{PeerAddr, SessionId};
use crate::{
    client_protocol::reply::{Limits, Rejected, Reply},
    limits::rates::SessionRates,
    sessions::{
        event::EndReason,
        flights::Need,
        handle::{Batch, SessionHandle},
    },
};
use crate::{
    core::Core,
    homes::{ClaimError, Registered},
    publisher::command::Command,
    websocket::{
        Connection,
        reader::{Ended, Next, Reader},
        writer::Backlog,
    },
    wire::frame::{CodeRegistration, Note},
};

/// Questions of one session that may be open at once.
const MAX_OPS: usize = 16;
/// How many nodes a client is told of when this one stops, and how many more are looked at, as some may be in reserve.
const SUCCESSORS: usize = 3;
const SPARE_SUCCESSORS: usize = 9;

/// Notes of one session that may wait for links: one for each that it may be paired with and each that it may have
/// asked, twice, and as many again.
const MAX_NOTES: usize = 256;
/// What a session does in one turn, so that one that is told much leaves the others theirs.
const TURNS: usize = 256;
/// The part of `limits.max_queued` beyond which a client is not heard, and strangers can't ask it, until it has taken what
/// waits: the rest is for what others say to it.
const READ_PAUSE_FRACTION: usize = 4;

const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_POLICY: u16 = 1008;

const RATE_EXCEEDED: &str = "Rate limit exceeded. Please slow down.";

/// The session is over: nothing more can be said to the client.
struct Over;

/// What a question brought.
enum OpResult {
    Claimed { code: CodeRegistration, registration: Registration, result: Result<(), ClaimError> },
    Found { ask: u64, to: Option<PeerAddr>, name: Option<String>, payload: Option<Bytes>, key: Option<[u8; 32]> },
    Resolved { id: String, lease: Option<SignedLease> },
    Verified { id: String, leases: Vec<(usize, Option<SignedLease>)>, rejected: Vec<Rejected> },
    Registered { id: String, leases: Vec<((usize, Arc<SignedLease>), Registered)>, rejected: Vec<Rejected> },
    Reached { need: Need, lease: Option<SignedLease> },
    Connected(NodeId),
    Published,
}

/// In this order in memory: what a message between clients needs comes first, since next to nothing of ten thousand sessions
/// is in a processor's cache.
#[repr(C)]
struct Session {
    core: Arc<Core>,
    handle: SessionHandle,
    last_heard: Instant,
    /// Since when the message that is not whole yet has been coming.
    unfinished_since: Option<Instant>,
    timer: LazyTimer,
    ops: Ops,
    /// What is said while what was read at once is heard.
    batch: Batch,
    /// What waits for the client.
    waiting: Backlog,
    /// Bytes that were said to the client since that was looked at.
    said: usize,
    /// How many questions are open on which the client's next message depends.
    blocking_ops: usize,
    /// Notes that wait for a link, in order; at most [`MAX_NOTES`]. The client is not heard while there are any.
    notes: VecDeque<(PeerAddr, Note)>,
    pinged: bool,
    /// Whether records of TLS have to be taken apart first.
    is_tls: bool,
    /// A question is open that will let waiting messages go on.
    reaching: bool,
    /// A link for waiting notes is being dialled.
    connecting: bool,
    /// What the client sends is no frames any more: it broke the rules, or the beginning of one was let go of.
    unread: bool,
    /// The client has said its last.
    closed: bool,
    pings: u32,
    rates: SessionRates,
    pairing: PairingSession,
    attached: AttachedInboxes,
    /// The code that is being claimed: granted or not, it is given back if the session ends first.
    claiming: Option<PairingCode>,
    /// What the publisher had no room for. The client is not heard while there is any.
    commands: Vec<Command>,
    pings_since: Instant,
    nonce: [u8; 32],
}

/// A session that is to be run.
pub(crate) struct Running {
    session: Session,
    incoming: Reader,
}

impl Running {
    /// The session of a client that connected from `ip`. In a box: what a future holds is held again by each that wraps it.
    pub(crate) fn new(core: Arc<Core>, connection: Connection, ip: IpAddr) -> Box<Self> {
        let Connection { incoming, out, is_tls } = connection;
        // A cryptographic generator, seeded by the system.
        let mut random = rand::rng();
        let (nonce, id) = (random.random(), SessionId::from_raw(random.random()));
        let handle = SessionHandle::new(id, core.context.config.limits.max_queued, Some(out));
        core.sessions.insert(handle.clone());
        core.context.metrics.sessions_opened.inc();
        let now = Instant::now();
        let session = Session {
            rates: SessionRates::new(&core.context.config.limits, &core.clients.sources, ip),
            core,
            handle,
            batch: Batch::default(),
            nonce,
            pairing: PairingSession::default(),
            attached: AttachedInboxes::default(),
            ops: Ops::default(),
            blocking_ops: 0,
            reaching: false,
            claiming: None,
            notes: VecDeque::new(),
            connecting: false,
            commands: Vec::new(),
            is_tls,
            waiting: Backlog::default(),
            said: 0,
            unread: false,
            closed: false,
            last_heard: now,
            unfinished_since: None,
            timer: LazyTimer::new(now),
            pinged: false,
            pings: 0,
            pings_since: now,
        };
        Box::new(Self { session, incoming })
    }

    /// Serves the client until either side ends the session.
    pub(crate) async fn run(mut self: Box<Self>) {
        let Self { session, incoming } = &mut *self;
        session.serve(incoming).await;
        Box::pin(session.finish(incoming)).await;
    }
}

impl Drop for Session {
    /// Whatever ends the task, nobody reaches the session any more.
    fn drop(&mut self) {
        self.core.sessions.remove(self.handle.id());
        for inbox in self.attached.take_all() {
            self.core.sessions.detach(self.handle.id(), &inbox);
        }
        self.core.sessions.answer_left(self.handle.close());
        self.handle.hang_up();
        self.core.context.metrics.sessions_closed.inc();
    }
}

impl Session {
    async fn serve(&mut self, incoming: &mut Reader) {
        self.say(&self.server_info());
        if self.core.health.sends_away() {
            self.going_away();
        }
        let mut timer = pin!(sleep_until(self.next_deadline().into()));
        poll_fn(|cx| {
            let polled = self.poll_serve(cx, incoming, timer.as_mut());
            self.batch.flush();
            polled
        })
        .await;
    }

    /// Does all there is to do, in the order: the end, what others tell, deadlines, answers, the client. Ready when the
    /// session is over.
    fn poll_serve(&mut self, cx: &mut Context<'_>, incoming: &mut Reader, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        for step in 0..TURNS {
            // What this session itself queues meanwhile wakes it again.
            let (signal, waiting) = self.handle.poll_signal(cx, step == 0);
            (self.waiting, self.said) = (waiting, 0);
            if waiting.since.is_some() {
                self.timer.invalidate();
            }
            if let Poll::Ready(signal) = signal {
                self.timer.invalidate();
                if self.handle_signal(signal).is_err() {
                    return Poll::Ready(());
                }
                continue;
            }
            let now = Instant::now();
            if self.poll_timer(cx, timer.as_mut(), now) {
                self.timer.invalidate();
                if self.handle_time(now).is_err() {
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
                // It isn't the client that keeps the rest of it back.
                self.unfinished_since = None;
                return Poll::Pending;
            }
            let mut received = false;
            match self.poll_read(cx, incoming, now, &mut received) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Over)) => return Poll::Ready(()),
                // What was heard may have set a deadline or asked a question. What others tell wakes the task by itself.
                Poll::Pending if received && (self.timer.is_stale() || !self.ops.is_empty()) => {}
                Poll::Pending => return Poll::Pending,
            }
            self.batch.flush();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client's next message may be heard.
    fn can_read(&self) -> bool {
        self.blocking_ops == 0
            && self.notes.is_empty()
            && self.ops.len() < MAX_OPS
            && (!self.handle.has_flights() || self.handle.with_flights(|flights| flights.has_room()))
            && !self.is_backpressured()
    }

    /// Whether the client has yet to take much of what was said to it.
    fn is_backpressured(&self) -> bool {
        self.waiting.bytes + self.said > self.core.context.config.limits.max_queued / READ_PAUSE_FRACTION
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Reader,
        now: Instant,
        any: &mut bool,
    ) -> Poll<Result<(), Over>> {
        let (handle, is_tls) = (self.handle.clone(), self.is_tls);
        let mut over = false;
        let polled = incoming.poll_read(
            cx,
            is_tls,
            |records, plain| handle.decrypt(records, plain),
            |received, more| {
                *any = true;
                self.batch.expect(more);
                over = self.handle_message(now, received).is_err();
                if over || !self.can_read() { Next::Wait } else { Next::Read }
            },
        );
        if incoming.has_unfinished() {
            self.unfinished_since.get_or_insert(now);
        } else {
            self.unfinished_since = None;
        }
        match polled {
            _ if over => Poll::Ready(Err(Over)),
            // What TLS had to say itself may have found no room.
            Poll::Ready(Err(Ended::Closed)) => {
                Poll::Ready(self.handle.end_reason().map_or(Err(Over), |end| self.end(end)))
            }
            Poll::Ready(Err(Ended::BudgetExceeded)) => {
                self.unread = true;
                Poll::Ready(self.end(EndReason::SlowConsumer))
            }
            Poll::Ready(Err(Ended::Violation(violation))) => {
                self.handle_violation(violation);
                Poll::Ready(Err(Over))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn server_info(&self) -> String {
        let limits = &self.core.context.config.limits;
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
