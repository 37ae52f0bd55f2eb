//! The end of a session: withdraws its registrations, notifies its peers, and closes the connection cleanly.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use chappe_common::keys::NodeId;
use futures_util::future::{join_all, poll_fn};

use super::{InputState, Session};
use crate::{
    core::Core,
    publisher::command::Command,
    session::pairing::Action,
    websocket::{
        codec::Incoming,
        reader::{Discarded, Next, Reader},
    },
    wire::{
        frame::{CodeRegistration, Note},
        ids::{PeerAddr, SessionId},
    },
};

/// The timeout for notifying peers of a session's end: the longest time of a dial.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection stays open after its session's end while its client reads nothing: several round trips.
const LINGER: Duration = Duration::from_secs(1);
/// The maximum number of [`LINGER`] periods. A client that does read may still have to wait for others: 500 full queues
/// take a core about six seconds.
const MAX_LINGER_PERIODS: u32 = 10;
/// The maximum input that is discarded then. It covers a few messages of the maximum size in transit.
const LINGER_BYTES: usize = 512 * 1024;
/// The cost of a frame in addition to its content, so that empty frames are bounded too.
const FRAME_COST: usize = 16;

impl Session {
    /// Ends the session: withdraws its registrations, notifies its peers, and closes the connection.
    pub(super) async fn finish(&mut self, incoming: &mut Reader) {
        // The operations are not polled any more, and one of them may hold a permit that other sessions wait for.
        self.ops.abort();
        let notes = self.leave().await;
        let (core, id) = (self.core.clone(), self.handle.id());
        tokio::join!(self.linger(incoming), notify_peers(&core, id, notes));
    }

    /// Withdraws what the session has registered. Returns the notes for its peers.
    ///
    /// This comes before anything slow, since a client that reloads registers the same code again immediately.
    async fn leave(&mut self) -> Vec<(PeerAddr, Note)> {
        self.core.sessions.remove(self.handle.id());
        let publisher = self.core.publisher.clone();
        // The publisher ends only with the node.
        let publish = async |command| drop(publisher.send(command).await);
        for command in self.outbox.take_commands() {
            publish(command).await;
        }
        // A copy: if this is cancelled, dropping the session detaches the rest.
        for inbox in self.handle.inboxes() {
            if let Some(lease) = self.core.sessions.detach(self.handle.id(), &inbox) {
                let seq = lease.seq;
                if self.ops.is_blocking() {
                    // The lease may be one that is being attached, and only a kept lease can be withdrawn.
                    publish(Command::KeepLease { lease, is_renewal: false }).await;
                }
                publish(Command::WithdrawLease(inbox, seq)).await;
            }
        }
        if let Some(code) = self.ops.claiming.take() {
            // As above: only a kept code can be withdrawn.
            let session = self.handle.id();
            publish(Command::KeepCode(CodeRegistration { code, session, claim: None })).await;
            publish(Command::WithdrawCode(code, session)).await;
        }
        let mut notes = self.outbox.take_notes();
        for action in self.pairing.close() {
            match action {
                Action::Release(code) => publish(Command::WithdrawCode(code, self.handle.id())).await,
                Action::Send(to, note) => notes.push((to, note)),
                Action::Answer(to, note) => self.answer_note(to, note),
                Action::Pairings(_) | Action::Reply(_) | Action::Refuse(_) => {}
            }
        }
        for (from, note) in self.core.sessions.answer_unhandled(self.handle.close()) {
            match note.answer_of_nobody() {
                Some(answer) => self.answer_note(from, answer),
                None => drop(self.core.context.metrics.session_messages_dropped.inc()),
            }
        }
        notes
    }

    /// Closes the connection so that the client gets all output.
    ///
    /// With unread input, the operating system resets the connection, and the last frames may be lost. So the client's
    /// remaining input is read and discarded until its close frame, up to [`LINGER_BYTES`] and [`MAX_LINGER_PERIODS`].
    async fn linger(&mut self, incoming: &mut Reader) {
        let mut left = LINGER_BYTES;
        let mut rest = poll_fn(|cx| {
            let drained = self.handle.poll_drained(cx);
            if self.input.state == InputState::Closed {
                return drained;
            }
            if self.input.state == InputState::Broken {
                return match ready!(incoming.poll_discard(cx, &mut left)) {
                    Discarded::All => Poll::Ready(()),
                    // Stop reading. All that is left is to give the client time to read its messages.
                    Discarded::Enough => Poll::Pending,
                };
            }
            let handle = self.handle.clone();
            let (mut closed, mut is_limit_reached) = (false, false);
            let polled = incoming.poll_read(
                cx,
                self.input.is_tls,
                |records, plain| handle.decrypt(records, plain),
                |received, _| {
                    let len = if let Incoming::Text(text) = received { text.len() } else { 0 };
                    closed = matches!(received, Incoming::Close(_));
                    is_limit_reached = left < len + FRAME_COST;
                    left = left.saturating_sub(len + FRAME_COST);
                    if closed || is_limit_reached { Next::Wait } else { Next::Read }
                },
            );
            if closed {
                self.input.state = InputState::Closed;
                return drained;
            }
            // Stop reading, as above.
            if is_limit_reached { Poll::Pending } else { polled.map(drop) }
        });
        let mut unwritten = self.handle.unwritten();
        for _ in 0..MAX_LINGER_PERIODS {
            if tokio::time::timeout(LINGER, &mut rest).await.is_ok() {
                break;
            }
            let before = std::mem::replace(&mut unwritten, self.handle.unwritten());
            if unwritten >= before {
                break;
            }
        }
        self.handle.hang_up();
    }
}

/// Sends a session's last notes to its peers, to all nodes concurrently, within [`NOTIFY_TIMEOUT`].
pub(super) async fn notify_peers(core: &Arc<Core>, from: SessionId, notes: Vec<(PeerAddr, Note)>) {
    let unsent = AtomicUsize::new(notes.len());
    let mark_sent = || unsent.fetch_sub(1, Ordering::Relaxed);
    let mut by_node: HashMap<NodeId, Vec<(SessionId, Note)>> = HashMap::new();
    for (to, note) in notes {
        if to.node != core.context.me {
            by_node.entry(to.node).or_default().push((to.session, note));
        } else if core.sessions.send_note(to.session, PeerAddr { node: core.context.me, session: from }, note) {
            mark_sent();
        }
    }
    let view = core.members.view.load_full();
    let sending = by_node.into_iter().filter(|(node, _)| view.contains(node)).map(|(node, notes)| async move {
        // If the note is lost, the other side gets an error with its next message.
        let Ok(link) = core.links.connect(node).await else { return };
        for (to, note) in notes {
            if link.try_note(to, from, note).is_ok() {
                mark_sent();
            }
        }
    });
    let _ = tokio::time::timeout(NOTIFY_TIMEOUT, join_all(sending)).await;
    core.context.metrics.session_messages_dropped.inc_by(unsent.load(Ordering::Relaxed) as u64);
}
