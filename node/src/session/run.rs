//! One session's task: the WebSocket on one side, what others tell the session on the other.
//!
//! The task owns all of the session's state. It waits for nobody but its own client: what has to be asked of other
//! nodes runs beside it, and the client is heard again when an answer that its next message depends on is there.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use chappe_common::{
    client::{CLOSE_SLOW_CONSUMER, ErrorCode, MAX_PAYLOAD, PROTOCOL, RelayKind},
    keys::NodeId,
    lease::{Inbox, SignedLease},
    proof::prove_node,
    time::UnixTime,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::{self, error::CapacityError};

use super::{
    EndReason, Message, Origin, PeerAddr, ReplyTo, Route, SessionEvent, SessionHandle, SessionId, attach,
    code_door::{Action, CodeDoor, Registration, Requested, Times},
    forward::{Destination, Flight, Flights, Need},
    inbox_door::{InboxDoor, ttl},
    rates::{Exceeded, SessionRates},
    reply::{self, Limits, Rejected, Reply},
    request::{BadRequest, Request},
};
use crate::{
    bounded,
    core::Core,
    dispatch,
    federation::{
        frame::{AskKind, Header, Note, Outcome},
        link::SendError,
        links,
    },
    ice, locate, publish,
};

/// Questions of one session that may be open at once.
const MAX_OPS: usize = 16;
/// Protocol pings that a client may send faster than one a second.
const PING_BURST: u32 = 10;
/// How long one write to a client may take: as long as a silent client is borne.
const WRITE_WAIT: Duration = Duration::from_secs(30);

const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_POLICY: u16 = 1008;
const CLOSE_TOO_LARGE: u16 = 1009;

const RATE_EXCEEDED: &str = "Rate limit exceeded. Please slow down.";
const ASKS_EXCEEDED: &str = "Too many pair requests. Please slow down.";

/// The session is over: nothing more can be said to the client.
struct Over;

/// What a question brought.
enum Done {
    Claimed { registration: Registration, result: Result<(), locate::ClaimError> },
    Found { ask: u64, to: Option<PeerAddr>, name: Option<String>, payload: Option<Bytes>, key: Option<[u8; 32]> },
    Resolved { id: String, lease: Option<SignedLease> },
    Attached { id: String, leases: Vec<(usize, SignedLease)>, rejected: Vec<Rejected>, stale: Vec<usize> },
    Reached { need: Need, lease: Option<SignedLease> },
    Connected,
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
    /// A question is open on which the client's next message depends.
    blocked: bool,
    /// A question is open that will let waiting messages go on.
    reaching: bool,
    /// Notes that wait for a link, in order.
    notes: VecDeque<(PeerAddr, Note)>,
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
        blocked: false,
        reaching: false,
        notes: VecDeque::new(),
        last_heard: now,
        pinged: false,
        pings: 0,
        pings_since: now,
    };
    // Over is over, whoever ended it.
    let _ = session.serve().await;
    session.leave().await;
}

impl Drop for Session {
    /// Whatever ends the task, nobody reaches the session any more.
    fn drop(&mut self) {
        self.core.local.remove(self.handle.id());
        for inbox in self.inbox_door.take_all() {
            self.core.local.detach(self.handle.id(), &inbox);
        }
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
            let hears = !self.blocked && self.ops.len() < MAX_OPS && self.flights.has_room();
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

    // ---- Time ----

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

    // ---- Saying ----

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
        let chosen = others.sample(&mut rand::rng(), 3);
        let records: Vec<_> = chosen
            .iter()
            .filter_map(|node| self.core.records.find(node))
            .map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes()))
            .collect();
        let grace_seconds = self.core.config.times.drain.as_secs();
        self.say(Reply::GoingAway { reason: "shutdown", nodes: &records, grace_seconds }.encode()).await
    }

    // ---- Hearing the client ----

    async fn handle_broken(&mut self, error: axum::Error) -> Result<(), Over> {
        let inner = error.into_inner();
        if let Some(tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. })) = inner.downcast_ref() {
            self.refuse(None, ErrorCode::TooLarge, &BadRequest::TooLarge.to_string()).await?;
            return self.close(CLOSE_TOO_LARGE, "too_large").await;
        }
        Err(Over)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<(), Over> {
        self.last_heard = Instant::now();
        self.pinged = false;
        match frame {
            Frame::Text(text) => {
                let message: Bytes = text.clone().into();
                self.handle_text(&message, text.as_str()).await
            }
            Frame::Binary(_) => {
                if self.rates.check_message(&self.core.sources, None).is_err() {
                    return self.refuse(None, ErrorCode::RateLimited, RATE_EXCEEDED).await;
                }
                self.refuse(None, ErrorCode::BadMessage, &BadRequest::Json.to_string()).await
            }
            Frame::Ping(_) => self.count_ping().await,
            Frame::Pong(_) => Ok(()),
            Frame::Close(_) => Err(Over),
        }
    }

    async fn count_ping(&mut self) -> Result<(), Over> {
        let since = u32::try_from(self.pings_since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if self.pings.saturating_sub(since) == 0 {
            (self.pings, self.pings_since) = (0, Instant::now());
        }
        self.pings += 1;
        if self.pings.saturating_sub(since) > PING_BURST {
            self.core.metrics.refused(ErrorCode::RateLimited);
            return self.close(CLOSE_POLICY, "too many pings").await;
        }
        Ok(())
    }

    async fn handle_text(&mut self, message: &Bytes, text: &str) -> Result<(), Over> {
        let request = match Request::parse(message, text) {
            Ok(request) => request,
            Err(error) => {
                if self.rates.check_message(&self.core.sources, None).is_err() {
                    return self.refuse(None, ErrorCode::RateLimited, RATE_EXCEEDED).await;
                }
                return self.refuse(None, error.code(), &error.to_string()).await;
            }
        };
        let kind = RelayKind::from_name(request.kind());
        if self.rates.check_message(&self.core.sources, kind).is_err() {
            return self.refuse(request.id(), ErrorCode::RateLimited, RATE_EXCEEDED).await;
        }
        self.core.metrics.messages.inc();
        let handled = match kind {
            Some(kind) if kind.is_call() && request.is_to_inbox() => self.send_to_inbox(&request, kind),
            Some(kind) => self.send_to_code(&request, kind),
            None => match self.handle_request(&request) {
                Ok(Said::Nothing) => Ok(Vec::new()),
                Ok(Said::Text(text)) => return self.say(text).await,
                Ok(Said::Actions(actions)) => return self.act(actions).await,
                Ok(Said::Exceeded) => {
                    return self.refuse(request.id(), ErrorCode::RateLimited, ASKS_EXCEEDED).await;
                }
                Err(error) => Err(error),
            },
        };
        match handled {
            Ok(tickets) => self.send_all(tickets).await,
            Err(Refusal::Bad(error)) => self.refuse(request.id(), error.code(), &error.to_string()).await,
            Err(Refusal::NoPeer(target)) => {
                let message = format!("Peer not found: {target}");
                self.refuse(request.id(), ErrorCode::PeerOffline, &message).await
            }
        }
    }

    fn handle_request(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        Ok(match request.kind() {
            "ping" => Said::Text(Reply::Pong {}.encode()),
            "heartbeat" => {
                request.check_peer_id()?;
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let timestamp = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                Said::Text(Reply::HeartbeatAck { timestamp }.encode())
            }
            "prove" => self.prove(request)?,
            "register" => self.register(request)?,
            "pair_request" => self.ask(request, AskKind::Pair)?,
            "link_request" => self.ask(request, AskKind::Link)?,
            "pair_response" => {
                self.check_registered()?;
                let (target, accepted) = (request.target_code()?, request.accepted()?);
                let actions = self.code_door.respond_pair(target, accepted, request.payload());
                Said::Actions(actions.ok_or(BadRequest::NotRegistered)?)
            }
            "link_response" => {
                self.check_registered()?;
                let (code, accepted) = (request.link_code()?, request.accepted()?);
                let actions = self.code_door.respond_link(code, accepted, request.device_id()?);
                Said::Actions(actions.ok_or(BadRequest::NotRegistered)?)
            }
            "attach" => self.attach(request)?,
            "detach" => self.detach(request)?,
            "resolve" => self.resolve(request)?,
            "get_ice_servers" => {
                let id = request.required_id()?;
                let now = UnixTime::from(SystemTime::now());
                let (servers, ttl) = ice::servers(&self.core.config.ice, now, rand::rng().random());
                Said::Text(Reply::IceServers { id, ice_servers: &servers, ttl: ttl.as_secs() }.encode())
            }
            _ => return Err(request.unknown_type().into()),
        })
    }

    fn check_registered(&self) -> Result<(), BadRequest> {
        self.code_door.code().map(drop).ok_or(BadRequest::NotRegistered)
    }

    fn prove(&self, request: &Request<'_>) -> Result<Said, Refusal> {
        let (id, challenge, url) = (request.required_id()?, request.challenge()?, request.url()?);
        if !self.core.client_urls.iter().any(|own| *own == url) {
            return Err(BadRequest::Invalid("url").into());
        }
        let signature = prove_node(&self.core.key, &challenge, &self.nonce, &url);
        Ok(Said::Text(Reply::Proof { id, signature: &URL_SAFE_NO_PAD.encode(signature) }.encode()))
    }

    // ---- The code door ----

    fn register(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let code = request.pairing_code()?;
        let registration = Registration { code, public_key: request.public_key()?, payload: request.payload() };
        let (core, session) = (self.core.clone(), self.handle.id());
        self.start_ordered(async move {
            let result = locate::claim_code(&core, code, session).await;
            Done::Claimed { registration, result }
        });
        Ok(Said::Nothing)
    }

    fn ask(&mut self, request: &Request<'_>, kind: AskKind) -> Result<Said, Refusal> {
        self.check_registered()?;
        let (target, key, name) = match kind {
            AskKind::Pair => (request.target_code()?, None, request.proposed_name()?),
            AskKind::Link => (request.link_code()?, Some(request.public_key()?), request.device_name()?),
        };
        if self.rates.check_ask(&self.core.sources) == Err(Exceeded::Asks) {
            return Ok(Said::Exceeded);
        }
        let ask = rand::rng().random();
        let requested = self.code_door.request(Instant::now(), ask, kind, target, self.times());
        let Requested::Find { withdrawn } = requested.ok_or(BadRequest::NotRegistered)? else {
            return Ok(Said::Nothing);
        };
        let (core, payload) = (self.core.clone(), request.payload());
        self.ops.push(Box::pin(async move {
            let holder = locate::find_code(&core, target).await;
            let to = holder.map(|holder| PeerAddr { node: holder.node, session: holder.session });
            Done::Found { ask, to, name, payload, key }
        }));
        Ok(Said::Actions(withdrawn.into_iter().collect()))
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<(), Over> {
        for action in actions {
            match action {
                Action::Say(text) => self.say(text).await?,
                Action::Tell(to, note) => self.tell(to, note).await?,
                Action::Release(code) => self.withdraw(publish::Key::Code(code, self.handle.id())).await,
            }
        }
        Ok(())
    }

    /// Notes something to another session, over a new link where there is none: then all later notes wait with it.
    async fn tell(&mut self, to: PeerAddr, note: Note) -> Result<(), Over> {
        self.notes.push_back((to, note));
        self.send_notes(false).await
    }

    async fn send_notes(&mut self, tried: bool) -> Result<(), Over> {
        while let Some((to, note)) = self.notes.pop_front() {
            let sent = if to.node == self.core.me {
                dispatch::note_to_session(&self.core, to.session, self.addr(), note.clone())
            } else if let Some(link) = self.core.links.find(&to.node) {
                link.try_note(to.session, self.handle.id(), note.clone()).is_ok()
            } else if tried || !self.core.view.load().contains(&to.node) {
                false
            } else {
                self.notes.push_front((to, note));
                let core = self.core.clone();
                self.start_ordered(async move {
                    // Whether it worked shows when the notes are sent.
                    let _ = links::connect(&core, to.node).await;
                    Done::Connected
                });
                return Ok(());
            };
            if !sent {
                self.note_lost(to, &note);
            }
        }
        Ok(())
    }

    /// Nobody got the note: as if the other session had said that it is not there.
    fn note_lost(&mut self, to: PeerAddr, note: &Note) {
        match note {
            Note::Ask(ask) => self.code_door.refused(ask.ask, self.times()),
            Note::Answer { accepted: Some(_), .. } => self.code_door.unbond(to),
            _ => {}
        }
    }

    fn addr(&self) -> PeerAddr {
        PeerAddr { node: self.core.me, session: self.handle.id() }
    }

    // ---- The inbox door ----

    fn attach(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let id = request.required_id()?.to_owned();
        let items = request.attach_list()?;
        let now = UnixTime::from(SystemTime::now());
        let mut leases = Vec::new();
        let mut rejected = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let code = if index >= self.core.config.limits.max_inboxes {
                ErrorCode::TooMany
            } else if let Some(lease) = attach::judge(item, self.core.me, &self.nonce, now) {
                let held = self.inbox_door.contains(&lease.inbox);
                if !self.inbox_door.insert(lease.inbox, &self.core.config.limits) {
                    ErrorCode::TooMany
                } else if self.core.local.attach(&self.handle, lease.clone()) {
                    leases.push((index, lease));
                    continue;
                } else {
                    if !held {
                        self.inbox_door.remove(&lease.inbox);
                    }
                    ErrorCode::BadLease
                }
            } else {
                ErrorCode::BadLease
            };
            self.core.metrics.refused(code);
            rejected.push(Rejected { index, code });
        }
        let core = self.core.clone();
        self.start_ordered(async move {
            let signed: Vec<_> = leases.iter().map(|(_, lease)| lease.clone()).collect();
            let stale = locate::put_leases(&core, &signed).await;
            Done::Attached { id, leases, rejected, stale }
        });
        Ok(Said::Nothing)
    }

    async fn attached(
        &mut self,
        id: &str,
        leases: Vec<(usize, SignedLease)>,
        mut rejected: Vec<Rejected>,
        stale: &[usize],
    ) -> Result<(), Over> {
        let mut kept = Vec::new();
        for (place, (index, lease)) in leases.into_iter().enumerate() {
            if stale.contains(&place) || !self.inbox_door.contains(&lease.inbox) {
                // A home knows a newer lease: the client has attached elsewhere since.
                self.inbox_door.remove(&lease.inbox);
                self.core.local.detach(self.handle.id(), &lease.inbox);
                rejected.push(Rejected { index, code: ErrorCode::BadLease });
            } else {
                self.publish(publish::Command::KeepLease(lease.clone())).await;
                kept.push(lease);
            }
        }
        rejected.sort_unstable_by_key(|rejected| rejected.index);
        let ttl = ttl(kept.iter(), UnixTime::from(SystemTime::now()));
        self.say(Reply::Attached { id, ttl, rejected: &rejected }.encode()).await
    }

    fn detach(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let id = request.required_id()?;
        let mut withdrawn = Vec::new();
        for inbox in request.inbox_list()? {
            if self.inbox_door.contains(&inbox) {
                self.inbox_door.remove(&inbox);
                if self.core.local.detach(self.handle.id(), &inbox).is_some() {
                    withdrawn.push(inbox);
                }
            }
        }
        let publisher = self.core.publisher.clone();
        self.start_ordered(async move {
            for inbox in withdrawn {
                // The publisher ends only with the node.
                let _ = publisher.send(publish::Command::Withdraw(publish::Key::Inbox(inbox))).await;
            }
            Done::Connected
        });
        Ok(Said::Text(Reply::Detached { id }.encode()))
    }

    fn resolve(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let (id, inbox) = (request.required_id()?.to_owned(), request.inbox()?);
        let core = self.core.clone();
        self.ops.push(Box::pin(async move {
            let lease = locate::find_lease(&core, inbox).await;
            Done::Resolved { id, lease }
        }));
        Ok(Said::Nothing)
    }

    // ---- Forwarding ----

    fn send_to_inbox(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<Vec<u64>, Refusal> {
        let (to, payload) = (request.to()?, request.text_payload(MAX_PAYLOAD)?);
        let id = request.id().map(Box::from);
        Ok(vec![self.flights.start(Instant::now(), id, kind, Destination::Inbox(to), payload)])
    }

    fn send_to_code(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<Vec<u64>, Refusal> {
        self.check_registered()?;
        let (target, payload) = (request.target()?, request.required_payload()?);
        let peer = self.code_door.peer(&target).and_then(|peer| Some((peer, self.code_door.code_of(peer)?)));
        let Some((peer, code)) = peer else { return Err(Refusal::NoPeer(target.chars().take(64).collect())) };
        let id = request.id().map(Box::from);
        Ok(vec![self.flights.start(Instant::now(), id, kind, Destination::Peer(peer, code), payload)])
    }

    async fn send_all(&mut self, tickets: Vec<u64>) -> Result<(), Over> {
        for ticket in tickets {
            let Some(flight) = self.flights.find(ticket) else { continue };
            match self.try_send(flight) {
                Sent::UnderWay => {}
                Sent::Ended(outcome) => self.finish(ticket, outcome).await?,
                Sent::Waits => self.flights.hold(ticket),
            }
        }
        self.reach_next();
        Ok(())
    }

    fn try_send(&self, flight: &Flight) -> Sent {
        let origin = Origin { session: self.handle.clone(), ticket: flight.ticket };
        let (kind, payload) = (flight.kind, flight.payload.clone());
        match flight.to {
            Destination::Inbox(inbox) => {
                if self.core.local.inbox(&inbox).is_some() {
                    dispatch::to_inbox(&self.core, kind, inbox, payload, ReplyTo::Session(origin));
                    return Sent::UnderWay;
                }
                let lease = locate::found_lease(&self.core, &inbox).filter(|lease| lease.node != self.core.me);
                match lease {
                    Some(lease) => self.forward(
                        lease.node,
                        flight.looked_up,
                        |token| Header::ToInbox { token, kind, inbox },
                        payload,
                        origin,
                    ),
                    None if flight.looked_up => Sent::Ended(Outcome::NotHere),
                    None => Sent::Waits,
                }
            }
            Destination::Peer(peer, _) if peer.node == self.core.me => {
                let reply = ReplyTo::Session(origin);
                dispatch::to_session(&self.core, kind, peer.session, self.addr(), payload, reply);
                Sent::UnderWay
            }
            Destination::Peer(peer, _) => self.forward(
                peer.node,
                flight.looked_up,
                |token| Header::ToSession { token, kind, to: peer.session, from: self.handle.id() },
                payload,
                origin,
            ),
        }
    }

    fn forward(
        &self,
        node: NodeId,
        tried: bool,
        header: impl FnOnce(u64) -> Header,
        payload: Bytes,
        origin: Origin,
    ) -> Sent {
        if !self.core.view.load().contains(&node) {
            return Sent::Ended(Outcome::NotHere);
        }
        let Some(link) = self.core.links.find(&node) else {
            return if tried { Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)) } else { Sent::Waits };
        };
        match link.try_forward(header, payload, origin) {
            Ok(()) => Sent::UnderWay,
            Err(SendError::Full) => Sent::Ended(Outcome::Refused(ErrorCode::Congested)),
            Err(SendError::Closed) => Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)),
        }
    }

    /// Starts the question that lets the first waiting message go on.
    fn reach_next(&mut self) {
        if self.reaching {
            return;
        }
        let Some(need) = self.flights.need() else { return };
        self.reaching = true;
        let core = self.core.clone();
        self.ops.push(Box::pin(async move {
            let (lease, node) = match need {
                Need::Inbox(inbox) => {
                    let lease = match locate::found_lease(&core, &inbox) {
                        Some(lease) => Some(lease),
                        None => locate::find_lease(&core, inbox).await,
                    };
                    let node = lease.as_ref().map(|lease| lease.node);
                    (lease, node)
                }
                Need::Node(node) => (None, Some(node)),
            };
            if let Some(node) = node.filter(|node| *node != core.me) {
                // Whether it worked shows when the message is sent.
                let _ = links::connect(&core, node).await;
            }
            Done::Reached { need, lease }
        }));
    }

    /// A message has its one outcome, unless it is to be tried once more.
    async fn finish(&mut self, ticket: u64, outcome: Outcome) -> Result<(), Over> {
        if outcome == Outcome::NotHere
            && let Some(flight) = self.flights.find(ticket)
            && let Destination::Inbox(inbox) = flight.to
            && !flight.looked_up
        {
            // The lease that was cached is old: look it up anew, once.
            self.core.found.remove(&inbox);
            self.flights.hold(ticket);
            self.reach_next();
            return Ok(());
        }
        self.end_flight(ticket, outcome).await
    }

    async fn end_flight(&mut self, ticket: u64, outcome: Outcome) -> Result<(), Over> {
        let Some(flight) = self.flights.finish(ticket) else { return Ok(()) };
        self.reach_next();
        let id = flight.id.as_deref();
        let (code, message) = match (outcome, flight.to) {
            (Outcome::Delivered, _) => {
                self.core.metrics.delivered.inc();
                return match id {
                    Some(id) => self.say(Reply::Delivered { id }.encode()).await,
                    None => Ok(()),
                };
            }
            (Outcome::NotHere, Destination::Inbox(_)) => {
                (ErrorCode::PeerOffline, "Nobody is connected at this inbox".into())
            }
            (Outcome::NotHere, Destination::Peer(peer, code)) => {
                self.code_door.unbond(peer);
                (ErrorCode::PeerOffline, format!("Peer not found: {}", code.as_str()))
            }
            (Outcome::Refused(code), _) => (code, refusal_text(code).to_owned()),
        };
        match (id, flight.to) {
            // Without an id the inbox door says nothing; the code door always did.
            (None, Destination::Inbox(_)) => {
                self.core.metrics.refused(code);
                Ok(())
            }
            _ => self.refuse(id, code, &message).await,
        }
    }

    // ---- What others tell ----

    async fn handle_event(&mut self, event: SessionEvent) -> Result<(), Over> {
        match event {
            SessionEvent::Message(message) => self.deliver(message).await,
            SessionEvent::Outcome { ticket, outcome } => self.finish(ticket, outcome).await,
            SessionEvent::Note { from, note } => {
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

    // ---- What questions bring ----

    /// Starts a question on which the client's next message depends.
    fn start_ordered(&mut self, op: impl Future<Output = Done> + Send + 'static) {
        self.blocked = true;
        self.ops.push(Box::pin(op));
    }

    async fn handle_done(&mut self, done: Done) -> Result<(), Over> {
        match done {
            Done::Claimed { registration, result } => {
                self.blocked = false;
                match result {
                    Ok(()) => {
                        let code = registration.code;
                        self.publish(publish::Command::KeepCode(code, self.handle.id())).await;
                        let actions = self.code_door.registered(registration, self.core.me);
                        self.act(actions).await
                    }
                    Err(locate::ClaimError::Taken) => self.act(vec![CodeDoor::collided()]).await,
                    Err(locate::ClaimError::Unavailable) => {
                        self.refuse(None, ErrorCode::Internal, "The code could not be registered. Try again.").await
                    }
                }
            }
            Done::Found { ask, to, name, payload, key } => {
                let actions = self.code_door.found(ask, to, name, payload, key, self.times());
                self.act(actions).await
            }
            Done::Resolved { id, lease } => match lease {
                Some(lease) => {
                    let lease = URL_SAFE_NO_PAD.encode(lease.as_bytes());
                    self.say(Reply::Resolved { id: &id, lease: &lease }.encode()).await
                }
                None => {
                    let message = "Nobody is connected at this inbox";
                    self.refuse(Some(&id), ErrorCode::PeerOffline, message).await
                }
            },
            Done::Attached { id, leases, rejected, stale } => {
                self.blocked = false;
                self.attached(&id, leases, rejected, &stale).await
            }
            Done::Reached { need, lease } => {
                self.reaching = false;
                if let Need::Inbox(inbox) = need
                    && lease.is_none()
                {
                    self.core.found.remove(&inbox);
                }
                let tickets = self.flights.resume(need);
                self.send_all(tickets).await
            }
            Done::Connected => {
                self.blocked = false;
                self.send_notes(true).await
            }
        }
    }

    // ---- Leaving ----

    async fn publish(&mut self, command: publish::Command) {
        // The publisher ends only with the node.
        let _ = self.core.publisher.send(command).await;
    }

    async fn withdraw(&mut self, key: publish::Key) {
        self.publish(publish::Command::Withdraw(key)).await;
    }

    /// The session is over: gives back what it has registered, and tells those that it was paired with.
    async fn leave(&mut self) {
        self.core.local.remove(self.handle.id());
        let inboxes: Vec<Inbox> = self.inbox_door.take_all();
        for inbox in inboxes {
            if self.core.local.detach(self.handle.id(), &inbox).is_some() {
                self.withdraw(publish::Key::Inbox(inbox)).await;
            }
        }
        for action in self.code_door.close() {
            match action {
                Action::Release(code) => self.withdraw(publish::Key::Code(code, self.handle.id())).await,
                Action::Tell(to, note) if to.node == self.core.me => {
                    dispatch::note_to_session(&self.core, to.session, self.addr(), note);
                }
                Action::Tell(to, note) => {
                    if let Ok(link) = links::connect(&self.core, to.node).await {
                        // If it is lost, the other side learns it with its next message.
                        let _ = link.try_note(to.session, self.handle.id(), note);
                    }
                }
                Action::Say(_) => {}
            }
        }
    }
}

/// What a request makes the session say.
enum Said {
    Nothing,
    Text(Utf8Bytes),
    Actions(Vec<Action>),
    Exceeded,
}

/// Why a request is refused.
enum Refusal {
    Bad(BadRequest),
    /// No pairing with the code that the client named.
    NoPeer(String),
}

impl From<BadRequest> for Refusal {
    fn from(error: BadRequest) -> Self {
        Self::Bad(error)
    }
}

/// What became of trying to send a message.
enum Sent {
    UnderWay,
    Ended(Outcome),
    Waits,
}

const fn refusal_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Congested => "Too many messages are waiting. Try again.",
        ErrorCode::RateLimited => RATE_EXCEEDED,
        ErrorCode::Unreachable => "The peer's node does not answer",
        ErrorCode::TooLarge => "Message too large",
        _ => "The peer's node refused the message",
    }
}
