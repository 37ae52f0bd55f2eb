//! One link: a QUIC connection to another node, its two lanes, and what waits for the other side's answer.
//!
//! Sending never waits: a frame goes into the lane's bounded queue or the sender is told that it is full.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use chappe_common::keys::NodeId;
use governor::{Quota, RateLimiter};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{interval, sleep_until},
};

use super::{
    exchange,
    frame::{self, Frame, FrameError, Header, Lane, Note, Outcome, Request, Response},
    membership::Event,
    outcomes::Outcomes,
    replies::Replies,
};
use crate::{
    bounded::{self, TrySendError, Weigh},
    core::Core,
    dispatch,
    session::{Origin, SessionId, handle::Batch},
};

/// What may wait for one lane in frames: a burst of small ones within one round trip.
const LANE_FRAMES: usize = 4096;
/// What may wait for one lane in bytes: half a second of a 100 Mbit/s uplink.
const LANE_BYTES: usize = 6 * 1024 * 1024;
/// Messages of one link whose outcome may be open at once: 10,000 a second for as long as an outcome may take.
const OPEN_OUTCOMES: usize = 20_000;
/// Questions to one home that may be open at once.
const OPEN_REQUESTS: usize = 4096;
/// Exchanges of one link at once: one that each side asked for.
const EXCHANGES: usize = 2;
/// Membership packets of one link in a second, and at once: somewhat more than the engine takes of one peer.
const DATAGRAMS: (NonZeroU32, NonZeroU32) = (per_second(100), per_second(400));
/// Exchanges that one peer may begin in a second, and at once. A joiner asks a member two or three times within seconds.
const EXCHANGE_RATE: (NonZeroU32, NonZeroU32) = (per_second(1), per_second(8));
/// How many frames a lane writes at once, and as many again of those that became ready meanwhile.
const WRITE_FRAMES: usize = 64;
/// How many pieces a lane reads at once; a piece is what one packet brought.
const READ_PIECES: usize = 64;
/// How often overdue outcomes are looked for.
const SWEEP: Duration = Duration::from_millis(250);

const fn per_second(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("not zero")
}

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
    relay: bounded::Sender<Frame>,
    control: bounded::Sender<Frame>,
    outcomes: Mutex<Outcomes<Origin>>,
    requests: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    next_request: AtomicU64,
    /// Milliseconds from `opened` to the last frame or datagram.
    last_used: AtomicU64,
}

/// The receiving ends of a new link's queues, to be run.
#[derive(Debug)]
pub(crate) struct Lanes {
    relay: bounded::Receiver<Frame>,
    control: bounded::Receiver<Frame>,
}

impl Link {
    /// A link over a connection whose first words went well.
    pub(crate) fn new(
        peer: NodeId,
        epoch: u64,
        dialled: bool,
        connection: Connection,
        wait: Duration,
    ) -> (Arc<Self>, Lanes) {
        let (relay, relay_queue) = bounded::channel(LANE_FRAMES, LANE_BYTES);
        let (control, control_queue) = bounded::channel(LANE_FRAMES, LANE_BYTES);
        let link = Self {
            peer,
            epoch,
            dialled,
            opened: Instant::now(),
            connection,
            relay,
            control,
            outcomes: Mutex::new(Outcomes::new(OPEN_OUTCOMES, wait)),
            requests: Mutex::default(),
            next_request: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
        };
        (Arc::new(link), Lanes { relay: relay_queue, control: control_queue })
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

    /// Forwards a message; `header` is given the token that the outcome comes back with.
    pub(crate) fn try_forward(
        &self,
        header: impl FnOnce(u64) -> Header,
        payload: Bytes,
        origin: Origin,
    ) -> Result<(), SendError> {
        let now = Instant::now();
        self.touch(now);
        // Held over the queueing, so that tokens are in the order of the frames. Nothing waits inside.
        let mut outcomes = self.outcomes();
        let token = outcomes.next_token().ok_or(SendError::Full)?;
        self.relay.try_send(Frame::new(&header(token), payload))?;
        outcomes.open(now, origin);
        Ok(())
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
            if requests.len() >= OPEN_REQUESTS {
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

    /// Takes an answer in.
    pub(crate) fn handle_response(&self, id: u64, response: Response) {
        if let Some(sender) = self.requests().remove(&id) {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(response);
        }
    }

    /// Takes an outcome in.
    pub(crate) fn handle_outcome(&self, token: u64, outcome: Outcome) {
        let origin = self.outcomes().close(token);
        if let Some(origin) = origin {
            origin.tell(outcome);
        }
    }

    /// Takes in that messages in a row were delivered.
    pub(crate) fn handle_delivered(&self, core: &Core, batch: &mut Batch, first: u64, count: u32) {
        // Of what the other side claims, only what is open counts.
        let origins = self.outcomes().close_row(first, count);
        for origin in origins {
            origin.tell_delivered(core, batch);
        }
    }

    fn touch(&self, now: Instant) {
        let age = u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(age, Ordering::Relaxed);
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes<Origin>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Response>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_overdue(&self, now: Instant) {
        loop {
            let overdue = self.outcomes().close_overdue(now);
            let Some(origin) = overdue else { break };
            origin.tell(Outcome::Refused(chappe_common::client::ErrorCode::Unreachable));
        }
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

/// Runs a link until its connection ends. Then every open outcome is told as unreachable.
pub(crate) async fn run(core: Arc<Core>, link: Arc<Link>, lanes: Lanes) {
    let mut parts = JoinSet::new();
    parts.spawn(write_lane(link.connection.clone(), Lane::Relay, lanes.relay));
    parts.spawn(write_lane(link.connection.clone(), Lane::Control, lanes.control));
    parts.spawn(read_lanes(core.clone(), link.clone()));
    parts.spawn(read_datagrams(core.clone(), link.clone()));
    parts.spawn(answer_exchanges(core.clone(), link.clone()));
    let mut sweep = interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            _ = link.connection.closed() => break,
            _ = sweep.tick() => link.close_overdue(Instant::now()),
        }
    }
    parts.shutdown().await;
    link.requests().clear();
    let open = link.outcomes().close_all();
    for origin in open {
        origin.tell(Outcome::Refused(chappe_common::client::ErrorCode::Unreachable));
    }
}

async fn write_lane(connection: Connection, lane: Lane, mut queue: bounded::Receiver<Frame>) {
    let Ok(mut stream) = connection.open_uni().await else { return };
    if stream.write_all(&[lane.first_byte()]).await.is_err() {
        return;
    }
    let mut frames = Vec::new();
    let mut chunks = Vec::new();
    while queue.recv_many(&mut frames, WRITE_FRAMES).await > 0 {
        // Whoever else is ready now adds its frames first: they share packets and system calls.
        tokio::task::yield_now().await;
        queue.take_ready(&mut frames, WRITE_FRAMES);
        let weight = frames.iter().map(Weigh::weight).sum();
        for frame in frames.drain(..) {
            chunks.push(frame.head);
            if !frame.payload.is_empty() {
                chunks.push(frame.payload);
            }
        }
        if stream.write_all_chunks(&mut chunks).await.is_err() {
            return;
        }
        chunks.clear();
        queue.done(weight);
    }
}

/// Reads the peer's lanes. Anything else than one of each is a breach of the protocol.
async fn read_lanes(core: Arc<Core>, link: Arc<Link>) {
    let mut lanes = JoinSet::new();
    let mut seen = Vec::new();
    while let Ok(mut stream) = link.connection.accept_uni().await {
        let mut first = [0];
        let lane = stream.read_exact(&mut first).await.ok().and_then(|()| Lane::from_first_byte(first[0]));
        match lane {
            Some(lane) if !seen.contains(&lane) => {
                seen.push(lane);
                lanes.spawn(read_lane(core.clone(), link.clone(), lane, stream));
            }
            _ => {
                core.metrics.link_protocol_errors.inc();
                link.close(CloseReason::Protocol);
            }
        }
    }
}

async fn read_lane(core: Arc<Core>, link: Arc<Link>, lane: Lane, mut stream: RecvStream) {
    let mut buffer = BytesMut::new();
    let mut pieces = vec![Bytes::new(); READ_PIECES];
    let mut replies = Replies::default();
    let mut timer = pin!(sleep_until(Instant::now().into()));
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read_chunks(&mut pieces) => read,
            () = timer.as_mut(), if replies.deadline().is_some() => {
                replies.send(&core, &link);
                continue;
            }
        };
        let Ok(Some(count)) = read else { break };
        for piece in &mut pieces[..count] {
            buffer.extend_from_slice(&std::mem::take(piece));
        }
        link.touch(Instant::now());
        if let Err(error) = handle_frames(&core, &link, lane, &mut buffer, &mut replies) {
            core.metrics.link_protocol_errors.inc();
            tracing::debug!(peer = link.peer.short(), %error, "closing a link");
            link.close(CloseReason::Protocol);
            return;
        }
        match replies.deadline() {
            // A lane that is never read empty would never come to its timer.
            Some(deadline) if deadline <= Instant::now() => replies.send(&core, &link),
            Some(deadline) if timer.deadline() != deadline.into() => timer.as_mut().reset(deadline.into()),
            _ => {}
        }
    }
    replies.send(&core, &link);
}

/// Handles all whole frames of what was read.
fn handle_frames(
    core: &Arc<Core>,
    link: &Arc<Link>,
    lane: Lane,
    buffer: &mut BytesMut,
    replies: &mut Replies,
) -> Result<(), FrameError> {
    let mut batch = Batch::default();
    while let Some((header, payload)) = frame::decode(buffer, lane)? {
        batch.expect(!buffer.is_empty());
        dispatch::handle(core, link, &mut batch, replies, header, &payload);
    }
    Ok(())
}

async fn read_datagrams(core: Arc<Core>, link: Arc<Link>) {
    // Before the queue that all links share: a flood over one must not crowd out the others' probes.
    let rate = RateLimiter::direct(Quota::per_second(DATAGRAMS.0).allow_burst(DATAGRAMS.1));
    while let Ok(packet) = link.connection.read_datagram().await {
        link.touch(Instant::now());
        if rate.check().is_err() {
            core.metrics.datagrams_dropped.inc();
            continue;
        }
        // A full queue is a lost datagram, which the protocol bears.
        if core.membership.try_send(Event::Datagram { from: link.peer, packet }).is_err() {
            core.metrics.datagrams_dropped.inc();
        }
    }
}

async fn answer_exchanges(core: Arc<Core>, link: Arc<Link>) {
    let mut answers = JoinSet::new();
    let rate = RateLimiter::direct(Quota::per_second(EXCHANGE_RATE.0).allow_burst(EXCHANGE_RATE.1));
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        if rate.check().is_err() {
            // Dropped, the streams are reset: the asker asks another.
            core.metrics.link_protocol_errors.inc();
            continue;
        }
        while answers.len() >= EXCHANGES {
            answers.join_next().await;
        }
        answers.spawn(answer_exchange(core.clone(), link.peer, send, receive));
    }
}

async fn answer_exchange(core: Arc<Core>, peer: NodeId, send: SendStream, mut receive: RecvStream) {
    let mut first = [0];
    if receive.read_exact(&mut first).await.is_err() || first[0] != exchange::EXCHANGE_STREAM {
        core.metrics.link_protocol_errors.inc();
        return;
    }
    exchange::answer(&core, peer, send, receive).await;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use chappe_common::{
        client::{ErrorCode, RelayKind},
        keys::{PublicKey, SecretKey},
        lease::Inbox,
        link_tls,
    };
    use quinn::{
        ClientConfig, Endpoint, ServerConfig,
        crypto::rustls::{QuicClientConfig, QuicServerConfig},
    };

    use super::*;
    use crate::session::{SessionEvent, handle::SessionHandle};

    /// Both ends of a connection, and what keeps it.
    async fn connected() -> (Connection, Connection, [Endpoint; 2]) {
        let (dialler, listener) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let tls = link_tls::server_config(&listener).expect("TLS parameters");
        let tls = QuicServerConfig::try_from(tls).expect("QUIC parameters");
        let server = Endpoint::server(ServerConfig::with_crypto(Arc::new(tls)), any).expect("a socket");
        let client = Endpoint::client(any).expect("a socket");
        let tls = link_tls::client_config(&dialler, listener.node_id()).expect("TLS parameters");
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC parameters")));
        let addr = server.local_addr().expect("an address");
        let dial = client.connect_with(config, addr, link_tls::SERVER_NAME).expect("a dial");
        let accept = async { server.accept().await.expect("a connection").await };
        let (ours, theirs) = tokio::join!(dial, accept);
        (ours.expect("a handshake"), theirs.expect("a handshake"), [client, server])
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_fills_the_lane_and_each_message_has_its_outcome() {
        let (ours, theirs, _endpoints) = connected().await;
        let peer = SecretKey::from_bytes(&[2; 32]).node_id();
        let (link, lanes) = Link::new(peer, 1, true, ours, Duration::from_secs(2));
        let _writer = tokio::spawn(write_lane(link.connection.clone(), Lane::Relay, lanes.relay));
        let session = SessionHandle::new(SessionId::from_raw(1), 1024, None);
        let inbox = Inbox::new(PublicKey::from_bytes([3; 32]));
        let payload = Bytes::from(vec![b'x'; 48 * 1024]);
        let header = |token| Header::ToInbox { token, kind: RelayKind::CallOffer, inbox };
        let mut sent = 0;
        let refused = loop {
            let origin = Origin { session: session.clone(), ticket: sent };
            match link.try_forward(header, payload.clone(), origin) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            // Lets the writer fill what the connection takes.
            tokio::task::yield_now().await;
            assert!(sent < 1000, "48 MB went into queues of 6 MiB and windows of a few");
        };
        assert_eq!(refused, SendError::Full);
        // Nothing was lost without a word: each that was taken is told as unreachable when its time is over.
        link.close_overdue(Instant::now() + Duration::from_secs(3));
        for expected in 0..sent {
            let Some(SessionEvent::Outcome { ticket, outcome }) = session.take_event() else { panic!("an outcome") };
            assert_eq!((ticket, outcome), (expected, Outcome::Refused(ErrorCode::Unreachable)));
        }
        drop(theirs);
    }
}
