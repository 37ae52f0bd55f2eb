//! What others tell the session, and what it tells the publisher.

use std::time::Instant;

use chappe_common::client::ErrorCode;
use tokio::sync::mpsc::error::TrySendError;

use super::{OpResult, Over, Session};
use crate::{
    client_protocol::reply::{self, By},
    publisher::command::Command,
    sessions::{
        event::{Message, SessionEvent},
        handle::SessionSignal,
    },
    websocket::writer::WriteError,
    wire::frame::{Note, Outcome},
};

impl Session {
    pub(super) fn handle_signal(&mut self, signal: SessionSignal) -> Result<(), Over> {
        let event = match signal {
            SessionSignal::End(reason) => return self.end(reason),
            SessionSignal::Broken => return Err(Over),
            SessionSignal::Event(event) => event,
        };
        let is_in_order = event.is_in_order();
        self.handle_event(event);
        if is_in_order {
            self.handle.handled();
        }
        Ok(())
    }

    pub(super) fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message(message) => self.judge(&message),
            SessionEvent::Outcome { ticket, outcome } => self.finish_flight(ticket, outcome),
            SessionEvent::Note(noted) => {
                let (from, note) = *noted;
                if let Note::PairRequest(ask) = &note
                    && self.is_backpressured()
                {
                    // Whoever knows the code could otherwise end the session of a client on a slow line.
                    return self.answer(from, Note::PairRequestRefused { ask: ask.ask });
                }
                let actions =
                    self.pairing.handle_note(Instant::now(), from, note, self.times(), &self.core.clients.held);
                self.act(actions);
            }
            SessionEvent::Displaced(inbox) => {
                if !self.core.sessions.is_attached(&inbox, self.handle.id()) {
                    self.attached.remove(&inbox);
                }
            }
            SessionEvent::GoingAway => self.going_away(),
        }
    }

    /// Hands a message of a pairing to the client, where there is such a pairing.
    pub(super) fn judge(&mut self, message: &Message) {
        let outcome = match self.pairing.code_of(message.from) {
            Some(code) => {
                let pieces = reply::forwarded(message.kind, By::Code(code.as_str()), &message.payload);
                match self.handle.say(&mut self.batch, &pieces) {
                    Ok(()) => Outcome::Delivered,
                    Err(WriteError::Full | WriteError::BudgetExceeded) => Outcome::Refused(ErrorCode::Congested),
                    Err(WriteError::Closed) => Outcome::NotHere,
                }
            }
            None => Outcome::NotHere,
        };
        self.core.sessions.reply(&message.reply, outcome);
    }

    /// Tells the publisher, after all that it was told before.
    pub(super) fn publish(&mut self, command: Command) {
        if self.commands.is_empty() {
            match self.core.publisher.try_send(command) {
                Ok(()) => {}
                // It ends only with the node.
                Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(command)) => {
                    self.commands.push(command);
                    self.publish_rest();
                }
            }
        } else {
            self.commands.push(command);
        }
    }

    /// Waits, beside the session, until the publisher has room for what it is to be told.
    pub(super) fn publish_rest(&mut self) {
        let publisher = self.core.publisher.clone();
        self.start_blocking(async move {
            // It ends only with the node.
            drop(publisher.reserve().await);
            OpResult::Published
        });
    }
}
