//! A session's notes that wait for a link, and its commands that wait for room in the publisher's queue. The client is
//! not read meanwhile, so its messages can't overtake them, and the outbox stays bounded.

use std::collections::VecDeque;

use chappe_common::keys::NodeId;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    core::Core,
    publisher::command::Command,
    wire::{
        frame::Note,
        ids::{PeerAddr, SessionId},
    },
};

/// The maximum number of notes that wait for links: four for each pairing or request that a session may have.
const MAX_NOTES: usize = 256;

/// Notes for other sessions, and commands for the publisher.
#[derive(Default)]
pub(super) struct Outbox {
    /// In order. At most [`MAX_NOTES`], which [`Outbox::has_room`] checks.
    notes: VecDeque<(PeerAddr, Note)>,
    /// In order. All belong to one message of the client.
    commands: Vec<Command>,
    /// The node of the first note is being dialled.
    is_dialling: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.commands.is_empty()
    }

    /// Returns whether one more note fits.
    pub(super) fn has_room(&self) -> bool {
        self.notes.len() < MAX_NOTES
    }

    pub(super) fn push_note(&mut self, to: PeerAddr, note: Note) {
        self.notes.push_back((to, note));
    }

    /// Sends the notes that have a link. Returns the notes that are lost. `tried` is a node that was just dialled.
    pub(super) fn send_notes(&mut self, core: &Core, from: SessionId, tried: Option<NodeId>) -> Vec<(PeerAddr, Note)> {
        self.is_dialling &= tried.is_none();
        let own = PeerAddr { node: core.context.me, session: from };
        let mut lost = Vec::new();
        for (to, note) in std::mem::take(&mut self.notes) {
            let is_sent = if to.node == core.context.me {
                core.sessions.send_note(to.session, own, note.clone())
            } else if self.notes.iter().any(|(earlier, _)| earlier.node == to.node) {
                self.notes.push_back((to, note));
                continue;
            } else if let Some(link) = core.links.find(&to.node) {
                link.try_note(to.session, from, note.clone()).is_ok()
            } else if matches!(note, Note::PairRequest(_))
                || tried == Some(to.node)
                || !core.members.view.load().contains(&to.node)
            {
                // For a pair request, the lookup of the code has already dialled the node. Dialling again could take
                // longer than the request's error may.
                false
            } else {
                self.notes.push_back((to, note));
                continue;
            };
            if !is_sent {
                lost.push((to, note));
            }
        }
        lost
    }

    /// Returns the node that the caller has to dial for the first note, before it calls [`Outbox::send_notes`] again.
    pub(super) fn start_dial(&mut self) -> Option<NodeId> {
        if self.is_dialling {
            return None;
        }
        let node = self.notes.front().map(|(to, _)| to.node)?;
        self.is_dialling = true;
        Some(node)
    }

    /// Sends a command to the publisher, after all earlier ones. Returns whether its queue is full. Then the caller has
    /// to wait for room, and publish [`Outbox::take_commands`] again.
    pub(super) fn publish(&mut self, publisher: &mpsc::Sender<Command>, command: Command) -> bool {
        if !self.commands.is_empty() {
            self.commands.push(command);
            return false;
        }
        match publisher.try_send(command) {
            // The publisher ends only with the node.
            Ok(()) | Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(command)) => {
                self.commands.push(command);
                true
            }
        }
    }

    /// Removes and returns the waiting commands.
    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Removes and returns the waiting notes.
    pub(super) fn take_notes(&mut self) -> Vec<(PeerAddr, Note)> {
        self.notes.drain(..).collect()
    }
}
