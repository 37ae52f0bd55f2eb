//! Serves open links: writes and reads their lanes, and routes their frames, datagrams and exchanges.
//!
//! The only module that knows both the links and the meaning of their frames.

pub(crate) mod frames;
mod replies;
mod requests;

use std::{
    num::NonZeroU32,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use chappe_common::{client::ErrorCode, keys::NodeId};
use futures_util::{FutureExt as _, future::BoxFuture};
use governor::{Quota, RateLimiter};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tracing::Instrument as _;

use self::replies::Replies;
use crate::{
    core::Core,
    federation::exchange,
    limits::byte_channel,
    links::{
        LinkUp,
        link::{CloseReason, Link, Queues},
    },
    membership::event::Event,
    sessions::{Sessions, handle::Batch},
    wire::{
        breach::Breach,
        frame::{self, Frame, Lane, MAX_BATCH, Outcome, Request},
        ids::Ticket,
    },
};

/// Maximum concurrent exchanges of a link: one opened by each side.
const EXCHANGES: usize = 2;
/// Rate and burst of membership packets of a link: slightly more than the engine accepts from a peer.
const DATAGRAMS: (NonZeroU32, NonZeroU32) = (per_second(100), per_second(400));
/// Rate and burst of exchanges that a peer may open. A joining node opens two or three within seconds.
const EXCHANGE_RATE: (NonZeroU32, NonZeroU32) = (per_second(1), per_second(8));
/// Frames that a lane takes from its queue at once. Up to the same number that became ready meanwhile is added before
/// the write.
const WRITE_FRAMES: usize = 64;
/// Chunks that a lane reads at once. A chunk is the content of one packet.
const READ_PIECES: usize = 64;
/// Queued lease requests of a peer, at most 17 MiB. A new lease comes in a request of its own, and 256 of those take
/// about 20 ms to verify. Requests of 64 leases each are refused when they have waited too long.
const REGISTRATIONS: usize = 256;
/// Interval between checks for overdue outcomes.
const SWEEP: Duration = Duration::from_millis(250);

const fn per_second(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("not zero")
}

/// Serves each new link, until the node ends.
pub(crate) async fn run(core: Arc<Core>, mut links: mpsc::Receiver<LinkUp>) {
    while let Some(LinkUp { link, queues }) = links.recv().await {
        let serving = core.clone();
        let span = tracing::debug_span!("link", peer = link.peer().short());
        let task = async move {
            let (core, started) = (serving, Instant::now());
            core.context.metrics.links_opened.inc();
            tracing::debug!(dialled = link.dialled(), "link up");
            serve(&core, &link, queues).await;
            core.links.remove(&link);
            core.context.metrics.links_closed.inc();
            tracing::debug!(after = ?started.elapsed(), "link down");
        };
        core.context.tasks.spawn(task.instrument(span));
    }
}

/// Serves a link until its connection ends. Then reports every open outcome as unreachable.
async fn serve(core: &Arc<Core>, link: &Arc<Link>, queues: Queues) {
    let mut parts = JoinSet::new();
    let mut run =
        |part: BoxFuture<'static, ()>| parts.spawn(run_part(core.clone(), link.clone(), part).in_current_span());
    let (registrations, queued) = mpsc::channel(REGISTRATIONS);
    run(write_lane(link.connection().clone(), Lane::Relay, queues.relay).boxed());
    run(write_lane(link.connection().clone(), Lane::Control, queues.control).boxed());
    run(read_lanes(core.clone(), link.clone(), registrations).boxed());
    run(answer_registrations(core.clone(), link.clone(), queued).boxed());
    run(read_datagrams(core.clone(), link.clone()).boxed());
    run(answer_exchanges(core.clone(), link.clone()).boxed());
    tokio::select! {
        biased;
        _ = link.connection().closed() => {}
        () = sweep(&core.sessions, link) => {}
    }
    parts.shutdown().await;
    report_unreachable(&core.sessions, link.close_all());
}

fn report_unreachable(sessions: &Sessions, tickets: Vec<Ticket>) {
    for ticket in tickets {
        sessions.handle_outcome(ticket, Outcome::Refused(ErrorCode::Unreachable));
    }
}

/// Runs one part of a link. Closes the link if the part panics: a link without one of its parts would lose half of its
/// frames.
async fn run_part(core: Arc<Core>, link: Arc<Link>, part: impl Future<Output = ()>) {
    if core.context.tasks.catch_panic(part).await.is_none() {
        link.close(CloseReason::Lost);
    }
}

/// Checks for overdue outcomes while any are open. Most links of a large federation have none for hours.
async fn sweep(sessions: &Sessions, link: &Link) {
    loop {
        link.outcome_opened().await;
        sleep(SWEEP).await;
        report_unreachable(sessions, link.close_overdue(Instant::now()));
    }
}

async fn write_lane(connection: Connection, lane: Lane, mut queue: byte_channel::Receiver<Frame>) {
    let Ok(mut stream) = connection.open_uni().await else { return };
    if stream.write_all(&[lane.first_byte()]).await.is_err() {
        return;
    }
    let mut frames = Vec::new();
    let mut chunks = Vec::new();
    while queue.recv_many(&mut frames, WRITE_FRAMES).await > 0 {
        // Let tasks that are ready queue their frames first: they share packets and system calls.
        tokio::task::yield_now().await;
        queue.take_ready(&mut frames, WRITE_FRAMES);
        let weight = frames.iter().map(byte_channel::Weigh::weight).sum();
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

/// Reads the peer's lanes. Any other stream, or a second one of a lane, breaks the protocol.
async fn read_lanes(core: Arc<Core>, link: Arc<Link>, registrations: mpsc::Sender<PendingRegistration>) {
    let mut lanes = JoinSet::new();
    let mut seen = Vec::new();
    while let Ok(mut stream) = link.connection().accept_uni().await {
        let mut first = [0];
        let lane = stream.read_exact(&mut first).await.ok().and_then(|()| Lane::from_first_byte(first[0]));
        match lane {
            Some(lane) if !seen.contains(&lane) => {
                seen.push(lane);
                let lane = read_lane(core.clone(), link.clone(), lane, stream, registrations.clone());
                lanes.spawn(run_part(core.clone(), link.clone(), lane).in_current_span());
            }
            _ => {
                core.context.metrics.link_protocol_errors.inc();
                link.close(CloseReason::Protocol);
            }
        }
    }
}

async fn read_lane(
    core: Arc<Core>,
    link: Arc<Link>,
    lane: Lane,
    mut stream: RecvStream,
    registrations: mpsc::Sender<PendingRegistration>,
) {
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
        if let Err(error) = handle_frames(&core, &link, lane, &mut buffer, &mut replies, &registrations).await {
            return breach(&core, &link, &error);
        }
        match replies.deadline() {
            // On a busy lane, the timer above may never be polled.
            Some(deadline) if deadline <= Instant::now() => replies.send(&core, &link),
            Some(deadline) if timer.deadline() != deadline.into() => timer.as_mut().reset(deadline.into()),
            _ => {}
        }
    }
    replies.send(&core, &link);
}

fn breach(core: &Core, link: &Link, error: &Breach) {
    core.context.metrics.link_protocol_errors.inc();
    tracing::debug!(%error, "closing the link");
    link.close(CloseReason::Protocol);
}

/// A request to register or withdraw leases that waits for its turn.
struct PendingRegistration {
    arrived: Instant,
    id: u64,
    request: Request,
}

/// Answers these requests in order, beside the lane, so that lookups behind them don't wait for signature checks.
async fn answer_registrations(
    core: Arc<Core>,
    link: Arc<Link>,
    mut registrations: mpsc::Receiver<PendingRegistration>,
) {
    while let Some(PendingRegistration { arrived, id, request }) = registrations.recv().await {
        // Its response would arrive after the requester's time limit.
        let is_late =
            arrived.elapsed() >= core.context.config.times.lookup / 2 && matches!(request, Request::PutLeases(_));
        let answered = if is_late {
            requests::refuse(&core, &link, id);
            Ok(())
        } else {
            requests::answer(&core, &link, id, request).await
        };
        if let Err(error) = answered {
            return breach(&core, &link, &error);
        }
    }
}

/// Handles all complete frames in the buffer.
async fn handle_frames(
    core: &Arc<Core>,
    link: &Arc<Link>,
    lane: Lane,
    buffer: &mut BytesMut,
    replies: &mut Replies,
    registrations: &mpsc::Sender<PendingRegistration>,
) -> Result<(), Breach> {
    let mut batch = Batch::default();
    while let Some((header, payload)) = frame::decode(buffer, lane)? {
        batch.expect(!buffer.is_empty());
        if let Some((id, request)) = frames::handle(core, link, &mut batch, replies, header, &payload)? {
            batch.flush();
            match request {
                // A refused lease is registered again later. An oversized request is refused without queueing.
                Request::PutLeases(ref leases) if leases.len() <= MAX_BATCH => {
                    if registrations.try_send(PendingRegistration { arrived: Instant::now(), id, request }).is_err() {
                        requests::refuse(core, link, id);
                    }
                }
                // A withdrawal is sent only once, so the lane waits for a slot in the queue.
                Request::DropLeases(ref leases) if leases.len() <= MAX_BATCH => {
                    // The receiver runs as long as the link.
                    let _ = registrations.send(PendingRegistration { arrived: Instant::now(), id, request }).await;
                }
                _ => requests::answer(core, link, id, request).await?,
            }
        }
    }
    Ok(())
}

async fn read_datagrams(core: Arc<Core>, link: Arc<Link>) {
    // Limited before the queue that all links share: a flood over one link must not crowd out the others' probes.
    let rate = RateLimiter::direct(Quota::per_second(DATAGRAMS.0).allow_burst(DATAGRAMS.1));
    while let Ok(packet) = link.connection().read_datagram().await {
        link.touch(Instant::now());
        if rate.check().is_err() {
            core.context.metrics.datagrams_dropped.inc();
            continue;
        }
        // A full queue loses the datagram, which the protocol tolerates.
        if core.membership.try_send(Event::Datagram { from: link.peer(), packet }).is_err() {
            core.context.metrics.datagrams_dropped.inc();
        }
    }
}

async fn answer_exchanges(core: Arc<Core>, link: Arc<Link>) {
    let mut answers = JoinSet::new();
    let rate = RateLimiter::direct(Quota::per_second(EXCHANGE_RATE.0).allow_burst(EXCHANGE_RATE.1));
    while let Ok((send, receive)) = link.connection().accept_bi().await {
        if rate.check().is_err() {
            // Dropping the streams resets them. The requester asks another member.
            core.context.metrics.link_protocol_errors.inc();
            continue;
        }
        while answers.len() >= EXCHANGES {
            answers.join_next().await;
        }
        let answer = answer_exchange(core.clone(), link.peer(), send, receive);
        answers.spawn(run_part(core.clone(), link.clone(), answer).in_current_span());
    }
}

async fn answer_exchange(core: Arc<Core>, peer: NodeId, send: SendStream, mut receive: RecvStream) {
    let mut first = [0];
    if receive.read_exact(&mut first).await.is_err() || first[0] != exchange::EXCHANGE_STREAM {
        core.context.metrics.link_protocol_errors.inc();
        return;
    }
    exchange::answer(&core, peer, send, receive).await;
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use chappe_common::{
        client::{ErrorCode, RelayKind},
        keys::SecretKey,
        link_tls,
    };
    use quinn::{
        ClientConfig, Endpoint, ServerConfig,
        crypto::rustls::{QuicClientConfig, QuicServerConfig},
    };

    use super::*;
    use crate::{
        config::{LiveConfig, NodeConfig},
        leases::address_of,
        links::link::SendError,
        metrics::Metrics,
        sessions::{event::SessionEvent, handle::SessionHandle},
        wire::{frame::Header, ids::SessionId},
    };

    /// Both ends of a connection, and the endpoints that keep it open.
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

    fn one_session() -> (Sessions, SessionHandle) {
        let sessions = Sessions::new(LiveConfig::shared_defaults(), &Metrics::default());
        let session = SessionHandle::new(SessionId::from_raw(1), 1024, None);
        sessions.insert(session.clone());
        (sessions, session)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_fills_the_lane_and_each_message_has_its_outcome() {
        let (ours, theirs, _endpoints) = connected().await;
        let peer = SecretKey::from_bytes(&[2; 32]).node_id();
        let (link, queues) = Link::new(peer, 1, true, ours, &NodeConfig::default());
        let _writer = tokio::spawn(write_lane(link.connection().clone(), Lane::Relay, queues.relay));
        let (sessions, session) = one_session();
        let to = address_of(3);
        let payload = Bytes::from(vec![b'x'; 48 * 1024]);
        let header = |token| Header::ToInbox { token, kind: RelayKind::CallOffer, to };
        let mut sent = 0;
        let refused = loop {
            let ticket = Ticket { session: session.id(), number: sent };
            match link.try_forward(header, payload.clone(), ticket) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
            // Lets the writer fill the connection's window.
            tokio::task::yield_now().await;
            assert!(sent < 1000, "48 MB went into queues of 6 MiB and windows of a few");
        };
        assert_eq!(refused, SendError::Full);
        // Each queued message is reported as unreachable when it is overdue.
        report_unreachable(&sessions, link.close_overdue(Instant::now() + Duration::from_secs(3)));
        for expected in 0..sent {
            let Some(SessionEvent::Outcome { ticket, outcome }) = session.take_event() else { panic!("an outcome") };
            assert_eq!((ticket, outcome), (expected, Outcome::Refused(ErrorCode::Unreachable)));
        }
        drop(theirs);
    }

    #[tokio::test]
    async fn each_overdue_outcome_is_reported_although_the_sweep_pauses_while_none_is_open() {
        let (ours, theirs, _endpoints) = connected().await;
        let peer = SecretKey::from_bytes(&[2; 32]).node_id();
        let mut config = NodeConfig::default();
        config.times.delivery = Duration::from_millis(50);
        let (link, _queues) = Link::new(peer, 1, true, ours, &config);
        let (sessions, session) = one_session();
        let swept = link.clone();
        let _sweep = tokio::spawn(async move { sweep(&sessions, &swept).await });
        for ticket in 0..3 {
            let header = |token| Header::ToInbox { token, kind: RelayKind::CallIce, to: address_of(3) };
            let sent = Ticket { session: session.id(), number: ticket };
            link.try_forward(header, Bytes::from_static(b"\"x\""), sent).expect("room");
            let reported = tokio::time::timeout(Duration::from_secs(10), async {
                loop {
                    sleep(Duration::from_millis(10)).await;
                    if let Some(SessionEvent::Outcome { ticket, .. }) = session.take_event() {
                        return ticket;
                    }
                }
            });
            assert_eq!(reported.await, Ok(ticket));
            sleep(SWEEP * 2).await;
        }
        drop(theirs);
    }
}
