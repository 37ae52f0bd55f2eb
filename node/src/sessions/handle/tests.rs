//! Tests handles over real sockets: queueing, buffering, and the order of messages.

use std::future::poll_fn;

use bytes::Bytes;
use chappe_common::{
    client::RelayKind,
    keys::{NodeId, PublicKey},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    limits::memory_budget::MemoryBudget,
    sessions::event::{Message, ReplyTo},
    wire::{
        frame::{Note, Outcome, PairRequest, PairRequestKind},
        ids::Ticket,
    },
};

const MAX_QUEUED: usize = 100_000;

/// Creates a session, and the client's end of its connection.
async fn session() -> (SessionHandle, TcpStream) {
    session_with(MemoryBudget::new(MAX_QUEUED)).await
}

/// Creates a session that shares a memory budget with others.
async fn session_with(budget: Arc<MemoryBudget>) -> (SessionHandle, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (stream, _) = accepted.expect("a connection");
    stream.writable().await.expect("an open connection");
    let (_reader, writer) = stream.into_split();
    let out = Writer::new(writer, None, MAX_QUEUED, budget);
    (SessionHandle::new(SessionId::from_raw(1), MAX_QUEUED, Some(out)), client.expect("a connection"))
}

fn peer() -> PeerAddr {
    PeerAddr { node: NodeId::new(PublicKey::from_bytes([1; 32])), session: SessionId::from_raw(2) }
}

fn pairing() -> Pairing {
    Pairing { peer: peer(), code: "ABC234".parse().expect("a code") }
}

async fn frame(client: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.expect("a frame");
    let len = match head[1] {
        126 => usize::from(client.read_u16().await.expect("a length")),
        127 => usize::try_from(client.read_u64().await.expect("a length")).expect("it fits"),
        len => usize::from(len),
    };
    let mut content = vec![0; len];
    client.read_exact(&mut content).await.expect("the content");
    content
}

#[tokio::test]
async fn buffered_output_is_sent_by_a_flush_and_by_a_later_direct_write() {
    let (session, mut client) = session().await;
    let mut batch = Batch::default();
    batch.expect(true);
    assert_eq!(session.write(&mut batch, &[b"one"]), Ok(()));
    assert_eq!(session.write(&mut batch, &[b"t", b"wo"]), Ok(()));
    let mut byte = [0];
    assert!(client.try_read(&mut byte).is_err(), "nothing is there yet");
    assert_eq!(batch.buffered.len(), 1);
    // Otherwise a session whose messages other tasks buffer would not read its client, and nothing would wake it.
    assert_eq!(session.state().out.as_ref().expect("open").backlog().bytes, 0, "buffered output is no backlog");
    batch.flush();
    // Another task's batch may still be open when this one is dropped.
    drop(batch);
    assert_eq!(session.write(&mut Batch::default(), &[b"three"]), Ok(()));
    for expected in ["one", "two", "three"] {
        assert_eq!(frame(&mut client).await, expected.as_bytes());
    }
    assert_eq!(session.state().out.as_ref().expect("open").backlog().bytes, 0);
}

#[tokio::test]
async fn a_frame_whose_rest_has_no_room_ends_the_session_as_a_slow_one() {
    let (session, client) = session_with(MemoryBudget::new(0)).await;
    // More than the socket buffers of both sides.
    let frame = vec![b'x'; 64 << 20];
    assert_eq!(session.write(&mut Batch::default(), &[&frame]), Err(WriteError::BudgetExceeded));
    assert_eq!(session.state().end, Some(EndReason::SlowConsumer));
    assert_eq!(session.write(&mut Batch::default(), &[b"more"]), Err(WriteError::Closed));
    drop(client);
}

#[tokio::test]
async fn a_full_budget_leaves_each_client_its_free_bytes() {
    let budget = MemoryBudget::new(40_000);
    let waiting = async |session: &SessionHandle| {
        let text = vec![b'x'; 5_000];
        let fill = std::iter::repeat_with(|| session.write(&mut Batch::default(), &[&text])).take(10_000);
        assert_eq!(fill.filter_map(Result::err).next(), Some(WriteError::Full));
        session.state().out.as_ref().map_or(0, |out| out.backlog().bytes)
    };
    let ((one, _client), (other, _other_client)) = (session_with(budget.clone()).await, session_with(budget).await);
    let (first, second) = (waiting(&one).await, waiting(&other).await);
    assert!((38_000..=40_000 + 8 * 1024).contains(&first), "{first}");
    // And the rest, which is less than one text.
    assert!((3_000..=8 * 1024 + 5_000).contains(&second), "{second}");
    one.hang_up();
    assert!((38_000..=40_000 + 8 * 1024).contains(&waiting(&other).await));
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_at_a_full_queue_and_written_frames_are_complete() {
    let (session, mut client) = session().await;
    let mut batch = Batch::default();
    let text = vec![b'x'; 10_000];
    let mut written = 0;
    let error = loop {
        match session.write(&mut batch, &[written.to_string().as_bytes(), &text]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "100 MB went somewhere");
    };
    assert_eq!(error, WriteError::Full);
    let signal = poll_fn(|cx| session.poll_signal(cx, true).0).await;
    assert!(matches!(signal, SessionSignal::End(EndReason::SlowConsumer)), "{signal:?}");
    // The close frame waits behind all accepted messages.
    session.write_close(Some(1013), "");
    assert_eq!(session.write(&mut batch, &[b"more"]), Err(WriteError::Closed));
    let reading = async {
        for number in 0..written {
            let frame = frame(&mut client).await;
            assert!(frame.len() > 10_000 && frame.starts_with(number.to_string().as_bytes()));
        }
        assert_eq!(frame(&mut client).await, 1013_u16.to_be_bytes());
    };
    tokio::join!(reading, poll_fn(|cx| session.poll_drained(cx)));
}

#[tokio::test]
async fn a_message_of_a_pairing_overtakes_neither_pair_matched_nor_queued_messages() {
    let (session, mut client) = session().await;
    let mut batch = Batch::default();
    let relay = |batch: &mut Batch| session.relay(batch, peer(), RelayKind::Offer, b"1");
    assert_eq!(relay(&mut batch), Relayed::Undecided, "the client doesn't know of the pairing");
    session.publish_pairings(vec![pairing()]);
    assert_eq!(relay(&mut batch), Relayed::Delivered);
    assert_eq!(frame(&mut client).await, br#"{"type":"offer","from":"ABC234","payload":1}"#);
    // While a note waits or is being handled, messages wait behind it.
    assert_eq!(session.try_send(SessionEvent::Note(Box::new((peer(), Note::Closed)))), Ok(()));
    assert_eq!(relay(&mut batch), Relayed::Undecided);
    assert!(session.take_event().is_some());
    assert_eq!(relay(&mut batch), Relayed::Undecided);
    session.mark_handled();
    assert_eq!(relay(&mut batch), Relayed::Delivered);
    // A message that the session has yet to check has the same effect.
    let ticket = Ticket { session: session.id(), number: 1 };
    let payload = Bytes::from_static(b"2");
    let message = Message { kind: RelayKind::Offer, from: peer(), payload, reply: ReplyTo::Session(ticket) };
    assert_eq!(session.try_send(SessionEvent::Message(Box::new(message))), Ok(()));
    assert_eq!(relay(&mut batch), Relayed::Undecided);
    session.close();
    assert_eq!(relay(&mut batch), Relayed::Closed);
}

#[tokio::test]
async fn a_session_queues_events_up_to_its_bound() {
    let session = SessionHandle::new(SessionId::from_raw(1), 1024, None);
    let outcome = || SessionEvent::Outcome { ticket: 1, outcome: Outcome::Delivered };
    for _ in 0..QUEUE_EVENTS {
        assert_eq!(session.try_send(outcome()), Ok(()));
    }
    assert_eq!(session.try_send(outcome()), Err(TrySendError::Full));
    let signal = poll_fn(|cx| session.poll_signal(cx, true).0).await;
    assert!(matches!(signal, SessionSignal::End(EndReason::SlowConsumer)), "{signal:?}");
}

#[test]
fn strangers_fill_only_a_part_of_the_queue_and_cannot_end_the_session() {
    let session = SessionHandle::new(SessionId::from_raw(1), MAX_QUEUED, None);
    let send_request = |len| {
        let request = PairRequest {
            id: 1,
            kind: PairRequestKind::Pair,
            target: pairing().code,
            code: pairing().code,
            public_key: [1; 32],
            name: None,
            payload: Some(vec![b'1'; len].into()),
        };
        session.try_send(SessionEvent::Note(Box::new((peer(), Note::PairRequest(request)))))
    };
    let send = |note| session.try_send(SessionEvent::Note(Box::new((peer(), note))));
    assert_eq!(send_request(MAX_QUEUED / 2), Ok(()));
    assert_eq!(send_request(1), Err(TrySendError::Full), "too many bytes");
    let events = QUEUE_EVENTS / STRANGERS_FRACTION;
    assert!((1..events).all(|_| send(Note::PairRequestWithdrawn { id: 1 }).is_ok()));
    assert_eq!(send(Note::PairRequestWithdrawn { id: 1 }), Err(TrySendError::Full), "too many");
    assert_eq!(send(Note::Closed), Err(TrySendError::Full), "whatever a stranger's node says");
    // An event from the client's pairing is accepted, and the session goes on.
    session.publish_pairings(vec![pairing()]);
    assert_eq!(send(Note::Closed), Ok(()));
    assert_eq!(session.state().end, None);
}
