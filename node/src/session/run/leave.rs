//! What is done when a session is over: giving back, telling others, and letting the connection end well.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chappe_common::keys::NodeId;
use futures_util::future::join_all;

use super::Session;
use crate::{
    core::Core,
    dispatch,
    federation::{frame::Note, links},
    publish,
    session::{PeerAddr, SessionId, close_queue, code_door::Action},
};

/// How long the members are told of a session's end: as long as a dial may take.
const TELL_WAIT: Duration = Duration::from_secs(2);
/// How long a connection is read on after its end: several round trips.
const LINGER: Duration = Duration::from_secs(1);
/// How much is read on then: what a client had under way, such as a few of the largest messages.
const LINGER_BYTES: usize = 512 * 1024;
/// What a frame counts besides its content, so that empty ones are bounded too.
const FRAME_COST: usize = 16;

impl Session {
    /// The session is over: gives back what it has registered, before anything that could take time, since a client
    /// that reloads is about to register the same code. Gives back what others are to be told.
    pub(super) async fn leave(&mut self) -> Vec<(PeerAddr, Note)> {
        self.core.local.remove(self.handle.id());
        let inboxes = self.inbox_door.take_all();
        for inbox in inboxes {
            if let Some(lease) = self.core.local.detach(self.handle.id(), &inbox) {
                self.publish(publish::Command::WithdrawLease(inbox, lease.seq)).await;
            }
        }
        if let Some(code) = self.claiming.take() {
            // Only what is kept can be withdrawn.
            self.publish(publish::Command::KeepCode(code, self.handle.id())).await;
            self.publish(publish::Command::WithdrawCode(code, self.handle.id())).await;
        }
        let mut notes: Vec<_> = self.notes.drain(..).collect();
        for action in self.code_door.close() {
            match action {
                Action::Release(code) => self.publish(publish::Command::WithdrawCode(code, self.handle.id())).await,
                Action::Tell(to, note) => notes.push((to, note)),
                Action::Say(_) => {}
            }
        }
        for (from, note) in close_queue(&mut self.queue) {
            notes.extend(dispatch::answer_of_nobody(&note).map(|answer| (from, answer)));
        }
        notes
    }

    /// Ends the connection so that the client gets all that was said to it. An answer to the client's close frame goes
    /// out with the next read, and input that nobody has read makes the system reset the connection, which can take the
    /// last frames with it. So the client's rest is read and thrown away, for a moment and up to a bound.
    pub(super) async fn linger(&mut self) {
        let mut left = LINGER_BYTES;
        let rest = async {
            while let Some(Ok(frame)) = self.socket.recv().await {
                match left.checked_sub(frame.into_data().len() + FRAME_COST) {
                    Some(less) => left = less,
                    None => return,
                }
            }
            if self.unread {
                // No reading on after a message that is too large: all that can be done is to leave the client time to
                // take what was said.
                std::future::pending().await
            }
        };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
}

/// Tells the members what the end of a session means to theirs: all at once, and not for long.
pub(super) async fn tell_others(core: &Arc<Core>, from: SessionId, notes: Vec<(PeerAddr, Note)>) {
    let mut by_node: HashMap<NodeId, Vec<(SessionId, Note)>> = HashMap::new();
    for (to, note) in notes {
        if to.node == core.me {
            // Nobody there: nobody has to be told.
            dispatch::note_to_session(core, to.session, PeerAddr { node: core.me, session: from }, note);
        } else {
            by_node.entry(to.node).or_default().push((to.session, note));
        }
    }
    let view = core.view.load_full();
    let told = by_node.into_iter().filter(|(node, _)| view.contains(node)).map(|(node, notes)| async move {
        // What is lost, the other side learns with its next message.
        match links::connect(core, node).await {
            Ok(link) => {
                for (to, note) in notes {
                    if link.try_note(to, from, note).is_err() {
                        core.metrics.notes_dropped.inc();
                    }
                }
            }
            Err(_) => drop(core.metrics.notes_dropped.inc_by(notes.len() as u64)),
        }
    });
    let _ = tokio::time::timeout(TELL_WAIT, join_all(told)).await;
}
