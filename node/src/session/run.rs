//! One session's task: the WebSocket on one side, what others tell the session on the other.
//!
//! The task owns all of the session's state. It waits for nobody but its own client: what has to be asked of other
//! nodes runs beside it, and the client is heard again when an answer that its next message depends on is there.

mod by_code;
mod by_inbox;
mod done;
mod hear;
mod leave;
mod send;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use chappe_common::{
    client::{CLOSE_SLOW_CONSUMER, ErrorCode, MAX_PAYLOAD, PROTOCOL},
    code::PairingCode,
    keys::NodeId,
    lease::SignedLease,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::time::{Sleep, sleep_until};

use super::{
    EndReason, Message, PeerAddr, Route, SessionEvent, SessionHandle, SessionId, close_queue,
    code_door::{CodeDoor, Registration, Times},
    forward::{Flights, Need},
    inbox_door::InboxDoor,
    rates::SessionRates,
    reply::{self, Limits, Rejected, Reply},
};
use crate::{
    bounded,
    core::Core,
    federation::frame::{Note, Outcome},
    locate, publish,
};

/// Questions of one session that may be open at once.
const MAX_OPS: usize = 16;
/// How long one write to a client may take: as long as a silent client is borne.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// How many nodes a client is told of when this one stops, and how many more are looked at, as some may be in reserve.
const SUCCESSORS: usize = 3;
const SPARE_SUCCESSORS: usize = 9;

/// Notes of one session that may wait for links: one for each that it may be paired with and each that it may have
/// asked, twice, and a burst of refusals.
const MAX_NOTES: usize = 256;
const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_POLICY: u16 = 1008;
const CLOSE_TOO_LARGE: u16 = 1009;

const RATE_EXCEEDED: &str = "Rate limit exceeded. Please slow down.";

/// The session is over: nothing more can be said to the client.
struct Over;

/// What a question brought.
enum Done {
    Claimed {
        registration: Registration,
        result: Result<(), locate::ClaimError>,
    },
    Found {
        ask: u64,
        to: Option<PeerAddr>,
        name: Option<String>,
        payload: Option<Bytes>,
        key: Option<[u8; 32]>,
    },
    Resolved {
        id: String,
        lease: Option<SignedLease>,
    },
    Attached {
        id: String,
        leases: Vec<(usize, SignedLease)>,
        rejected: Vec<Rejected>,
        registered: Vec<locate::Registered>,
    },
    Reached {
        need: Need,
        lease: Option<SignedLease>,
    },
    Detached,
    Connected(NodeId),
}

type Op = BoxFuture<'static, Done>;

struct Session {
    core: Arc<Core>,
    handle: SessionHandle,
    queue: bounded::Receiver<SessionEvent>,
    socket: WebSocket,
    nonce: [u8; 32],
    rates: SessionRates,
    code_door: CodeDoor,
    inbox_door: InboxDoor,
    flights: Flights,
    ops: FuturesUnordered<Op>,
    /// How many questions are open on which the client's next message depends.
    ordered: usize,
    /// A question is open that will let waiting messages go on.
    reaching: bool,
    /// The code that is being claimed: granted or not, it is given back if the session ends first.
    claiming: Option<PairingCode>,
    /// Notes that wait for a link, in order; at most [`MAX_NOTES`]. The client is not heard while there are any.
    notes: VecDeque<(PeerAddr, Note)>,
    /// A link for waiting notes is being dialled.
    connecting: bool,
    /// The client's message was too large, and the rest of it stays unread.
    unread: bool,
    last_heard: Instant,
    pinged: bool,
    pings: u32,
    pings_since: Instant,
}

/// Serves one client until either side ends the session.
pub(crate) async fn run(core: Arc<Core>, socket: WebSocket, ip: IpAddr) {
    let mut nonce = [0; 32];
    if getrandom::fill(&mut nonce).is_err() {
        tracing::error!("no random bytes for a session");
        return;
    }
    let id = SessionId::from_raw(rand::rng().random());
    let (handle, queue) = SessionHandle::new(id, core.config.limits.max_queued);
    core.local.insert(handle.clone());
    core.metrics.sessions_opened.inc();
    let now = Instant::now();
    let mut session = Session {
        rates: SessionRates::new(&core.config.limits, &core.sources, ip),
        core,
        handle,
        queue,
        socket,
        nonce,
        code_door: CodeDoor::default(),
        inbox_door: InboxDoor::default(),
        flights: Flights::default(),
        ops: FuturesUnordered::new(),
        ordered: 0,
        reaching: false,
        claiming: None,
        notes: VecDeque::new(),
        connecting: false,
        unread: false,
        last_heard: now,
        pinged: false,
        pings: 0,
        pings_since: now,
    };
    // Over is over, whoever ended it.
    let _ = session.serve().await;
    let notes = session.leave().await;
    let (core, id) = (session.core.clone(), session.handle.id());
    tokio::join!(session.linger(), leave::tell_others(&core, id, notes));
}

impl Drop for Session {
    /// Whatever ends the task, nobody reaches the session any more.
    fn drop(&mut self) {
        self.core.local.remove(self.handle.id());
        for inbox in self.inbox_door.take_all() {
            self.core.local.detach(self.handle.id(), &inbox);
        }
        close_queue(&mut self.queue);
        self.core.metrics.sessions_closed.inc();
    }
}

impl Session {
    async fn serve(&mut self) -> Result<(), Over> {
        self.say(self.server_info()).await?;
        if self.core.is_draining() {
            self.going_away().await?;
        }
        let timer = sleep_until(self.next_deadline().into());
        tokio::pin!(timer);
        loop {
            self.arm(timer.as_mut());
            let hears =
                self.ordered == 0 && self.notes.is_empty() && self.ops.len() < MAX_OPS && self.flights.has_room();
            tokio::select! {
                biased;
                reason = self.handle.ended() => return self.end(reason).await,
                () = &mut timer => self.handle_time(Instant::now()).await?,
                event = self.queue.recv() => match event {
                    Some(event) => self.handle_event(event).await?,
                    None => return Err(Over),
                },
                Some(done) = self.ops.next(), if !self.ops.is_empty() => self.handle_done(done).await?,
                frame = self.socket.recv(), if hears => match frame {
                    Some(Ok(frame)) => self.handle_frame(frame).await?,
                    Some(Err(error)) => return self.handle_broken(error).await,
                    None => return Err(Over),
                },
            }
        }
    }

    fn server_info(&self) -> Utf8Bytes {
        let limits = &self.core.config.limits;
        Reply::ServerInfo {
            server_id: &self.core.me.to_server_id(),
            endpoint: self.core.client_urls.first().map_or("", String::as_str),
            region: Some(self.core.region.as_str()).filter(|region| !region.is_empty()),
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

    fn times(&self) -> Times {
        let times = &self.core.config.times;
        Times { life: times.pair_request, warning: times.pair_warning, error_after: times.pair_error }
    }

    fn next_deadline(&self) -> Instant {
        let times = &self.core.config.times;
        let idle = self.last_heard + times.idle + if self.pinged { times.pong } else { Duration::ZERO };
        let door = self.code_door.next_deadline(self.times());
        let flight = self.flights.next_deadline(self.flight_wait());
        door.into_iter().chain(flight).fold(idle, Instant::min)
    }

    /// How long a message may be under way: a lookup, and twice the time that the callee's node has.
    fn flight_wait(&self) -> Duration {
        self.core.config.times.lookup + self.core.config.times.delivery * 2
    }

    /// Sets the timer where the next deadline is earlier than it, or it has fired. A deadline that has moved on, as the
    /// idle one does with every message, only costs one wake-up at its old time.
    fn arm(&self, timer: std::pin::Pin<&mut Sleep>) {
        let next = self.next_deadline().into();
        if timer.is_elapsed() || next < timer.deadline() {
            timer.reset(next);
        }
    }

    async fn handle_time(&mut self, now: Instant) -> Result<(), Over> {
        let actions = self.code_door.pass(now, self.times());
        self.act(actions).await?;
        while let Some(ticket) = self.flights.overdue(now, self.flight_wait()) {
            self.end_flight(ticket, Outcome::Refused(ErrorCode::Unreachable)).await?;
        }
        let times = &self.core.config.times;
        let silent = now.saturating_duration_since(self.last_heard);
        if self.pinged && silent >= times.idle + times.pong {
            self.core.metrics.sessions_silent.inc();
            return Err(Over);
        }
        if !self.pinged && silent >= times.idle {
            self.pinged = true;
            return self.write(Frame::Ping(Bytes::new())).await;
        }
        Ok(())
    }

    async fn say(&mut self, text: Utf8Bytes) -> Result<(), Over> {
        self.write(Frame::Text(text)).await
    }

    /// Writes a frame. A client that takes none for long, or whose queue fills meanwhile, is too slow.
    async fn write(&mut self, frame: Frame) -> Result<(), Over> {
        let handle = self.handle.clone();
        tokio::select! {
            biased;
            reason = handle.ended() => match reason {
                // The frame is lost with the session: it could not be written in all that time.
                EndReason::SlowConsumer => self.end(reason).await,
                // The node's patience is over.
                EndReason::GoingAway => self.end(reason).await,
            },
            written = tokio::time::timeout(WRITE_WAIT, self.socket.send(frame)) => match written {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Over),
                Err(_) => {
                    self.core.metrics.sessions_slow.inc();
                    Err(Over)
                }
            },
        }
    }

    async fn refuse(&mut self, id: Option<&str>, code: ErrorCode, message: &str) -> Result<(), Over> {
        self.core.metrics.refused(code);
        self.say(Reply::Error { message, code, id }.encode()).await
    }

    async fn close(&mut self, code: u16, reason: &'static str) -> Result<(), Over> {
        let frame = Frame::Close(Some(CloseFrame { code, reason: reason.into() }));
        // A client that doesn't even take this is gone.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.socket.send(frame)).await;
        Err(Over)
    }

    async fn end(&mut self, reason: EndReason) -> Result<(), Over> {
        match reason {
            EndReason::SlowConsumer => {
                self.core.metrics.sessions_slow.inc();
                self.close(CLOSE_SLOW_CONSUMER, "slow_consumer").await
            }
            EndReason::GoingAway => self.close(CLOSE_GOING_AWAY, "going_away").await,
        }
    }

    async fn going_away(&mut self) -> Result<(), Over> {
        let view = self.core.view.load_full();
        let others = view.nodes().filter(|node| *node != self.core.me);
        let chosen = others.sample(&mut rand::rng(), SUCCESSORS + SPARE_SUCCESSORS);
        let records: Vec<_> = chosen
            .iter()
            .filter_map(|node| self.core.records.find(node, self.core.clock.now()))
            // Everybody who connects would hear of it.
            .filter(|record| !record.is_reserve())
            .take(SUCCESSORS)
            .map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes()))
            .collect();
        let grace_seconds = self.core.config.times.drain.as_secs();
        self.say(Reply::GoingAway { reason: "shutdown", nodes: &records, grace_seconds }.encode()).await
    }

    async fn handle_event(&mut self, event: SessionEvent) -> Result<(), Over> {
        match event {
            SessionEvent::Message(message) => self.deliver(*message).await,
            SessionEvent::Outcome { ticket, outcome } => self.finish(ticket, outcome).await,
            SessionEvent::Note(noted) => {
                let (from, note) = *noted;
                let actions = self.code_door.handle_note(Instant::now(), from, note, self.times());
                self.act(actions).await
            }
            SessionEvent::Displaced(inbox) => {
                if self.core.local.inbox(&inbox).is_none_or(|session| session.id() != self.handle.id()) {
                    self.inbox_door.remove(&inbox);
                }
                Ok(())
            }
            SessionEvent::GoingAway => self.going_away().await,
        }
    }

    async fn deliver(&mut self, message: Message) -> Result<(), Over> {
        let Message { kind, route, payload, reply } = message;
        let text = match route {
            Route::Inbox(inbox) => match self.inbox_door.judge(&inbox, kind, &self.core.config.limits) {
                Ok(()) => reply::forwarded(kind, "to", &inbox.to_base64url(), &payload),
                Err(outcome) => {
                    reply.tell(outcome);
                    return Ok(());
                }
            },
            Route::Peer(peer) => match self.code_door.code_of(peer) {
                Some(code) => reply::forwarded(kind, "from", code.as_str(), &payload),
                None => {
                    reply.tell(Outcome::NotHere);
                    return Ok(());
                }
            },
        };
        let Some(text) = text else {
            reply.tell(Outcome::Refused(ErrorCode::BadMessage));
            return Ok(());
        };
        let said = self.say(text).await;
        reply.tell(if said.is_ok() { Outcome::Delivered } else { Outcome::NotHere });
        said
    }

    async fn publish(&mut self, command: publish::Command) {
        // The publisher ends only with the node.
        let _ = self.core.publisher.send(command).await;
    }
}
