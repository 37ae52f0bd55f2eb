//! What is done when a session is over: giving back, telling others, and letting the connection end well.

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

/// How long the members are told of a session's end: as long as a dial may take.
const TELL_WAIT: Duration = Duration::from_secs(2);
/// How long a connection stays open after its session's end while its client takes nothing: several round trips.
const LINGER: Duration = Duration::from_secs(1);
/// How many times [`LINGER`] it stays open in total. A client that reads can't help waiting its turn where hundreds of
/// others read too: 500 full queues take a core about six seconds.
const LONGEST_LINGER: u32 = 10;
/// How much is read on then: what a client had under way, such as a few of the largest messages.
const LINGER_BYTES: usize = 512 * 1024;
/// What a frame counts besides its content, so that empty ones are bounded too.
const FRAME_COST: usize = 16;

impl Session {
    /// What there is to do when the session is over.
    pub(super) async fn finish(&mut self, incoming: &mut Reader) {
        // Nobody polls its questions any more, and one of them may have a turn that others wait for.
        self.ops.abort();
        let notes = self.leave().await;
        let (core, id) = (self.core.clone(), self.handle.id());
        tokio::join!(self.linger(incoming), tell_others(&core, id, notes));
    }

    /// The session is over: gives back what it has registered, before anything that could take time, since a client
    /// that reloads is about to register the same code. Gives back what others are to be told.
    async fn leave(&mut self) -> Vec<(PeerAddr, Note)> {
        self.core.sessions.remove(self.handle.id());
        let publisher = self.core.publisher.clone();
        // It ends only with the node.
        let publish = async |command| drop(publisher.send(command).await);
        for command in self.outbox.take_commands() {
            publish(command).await;
        }
        let inboxes = self.handle.take_inboxes();
        for inbox in inboxes {
            if let Some(lease) = self.core.sessions.detach(self.handle.id(), &inbox) {
                let seq = lease.seq;
                if self.ops.is_blocking() {
                    // It may be one that is being attached, and only what is kept can be withdrawn.
                    publish(Command::KeepLease { lease, is_renewal: false }).await;
                }
                publish(Command::WithdrawLease(inbox, seq)).await;
            }
        }
        if let Some(code) = self.ops.claiming.take() {
            // As above.
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
        for (from, note) in self.core.sessions.answer_left(self.handle.close()) {
            match note.answer_of_nobody() {
                Some(answer) => self.answer_note(from, answer),
                None => drop(self.core.context.metrics.session_messages_dropped.inc()),
            }
        }
        notes
    }

    /// Ends the connection so that the client gets all that was said to it. Input that nobody has read makes the system
    /// reset the connection, which can take the last frames with it. So the client's rest is read and thrown away, until
    /// its own last frame, for a moment and up to a bound.
    async fn linger(&mut self, incoming: &mut Reader) {
        let mut left = LINGER_BYTES;
        let mut rest = poll_fn(|cx| {
            let gone = self.handle.poll_gone(cx);
            if self.input.state == InputState::Closed {
                return gone;
            }
            if self.input.state == InputState::Broken {
                return match ready!(incoming.poll_discard(cx, &mut left)) {
                    Discarded::All => Poll::Ready(()),
                    // No reading on: all that can be done is to leave the client time to take what was said.
                    Discarded::Enough => Poll::Pending,
                };
            }
            let handle = self.handle.clone();
            let (mut closed, mut enough) = (false, false);
            let polled = incoming.poll_read(
                cx,
                self.input.is_tls,
                |records, plain| handle.decrypt(records, plain),
                |received, _| {
                    let len = if let Incoming::Text(text) = received { text.len() } else { 0 };
                    closed = matches!(received, Incoming::Close(_));
                    enough = left < len + FRAME_COST;
                    left = left.saturating_sub(len + FRAME_COST);
                    if closed || enough { Next::Wait } else { Next::Read }
                },
            );
            if closed {
                self.input.state = InputState::Closed;
                return gone;
            }
            // No reading on: as above.
            if enough { Poll::Pending } else { polled.map(drop) }
        });
        let mut unwritten = self.handle.unwritten();
        for _ in 0..LONGEST_LINGER {
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

/// Tells the members what the end of a session means to theirs: all at once, and not for long.
pub(super) async fn tell_others(core: &Arc<Core>, from: SessionId, notes: Vec<(PeerAddr, Note)>) {
    let untold = AtomicUsize::new(notes.len());
    let told = || untold.fetch_sub(1, Ordering::Relaxed);
    let mut by_node: HashMap<NodeId, Vec<(SessionId, Note)>> = HashMap::new();
    for (to, note) in notes {
        if to.node != core.context.me {
            by_node.entry(to.node).or_default().push((to.session, note));
        } else if core.sessions.send_note(to.session, PeerAddr { node: core.context.me, session: from }, note) {
            told();
        }
    }
    let view = core.members.view.load_full();
    let telling = by_node.into_iter().filter(|(node, _)| view.contains(node)).map(|(node, notes)| async move {
        // What is lost, the other side learns with its next message.
        let Ok(link) = core.links.connect(node).await else { return };
        for (to, note) in notes {
            if link.try_note(to, from, note).is_ok() {
                told();
            }
        }
    });
    let _ = tokio::time::timeout(TELL_WAIT, join_all(telling)).await;
    core.context.metrics.session_messages_dropped.inc_by(untold.load(Ordering::Relaxed) as u64);
}
