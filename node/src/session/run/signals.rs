//! What others tell the session, and what it tells the publisher.

use std::{ops::ControlFlow, time::Instant};

use chappe_common::client::ErrorCode;

use super::{Session, ops::OpResult};
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
    pub(super) fn handle_signal(&mut self, signal: SessionSignal) -> ControlFlow<()> {
        let event = match signal {
            SessionSignal::End(reason) => return self.end(reason),
            SessionSignal::Broken => return ControlFlow::Break(()),
            SessionSignal::Event(event) => event,
        };
        let is_in_order = event.is_in_order();
        self.handle_event(event);
        if is_in_order {
            self.handle.handled();
        }
        ControlFlow::Continue(())
    }

    pub(super) fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message(message) => self.judge(&message),
            SessionEvent::Outcome { ticket, outcome } => self.finish_flight(ticket, outcome),
            SessionEvent::Note(noted) => {
                let (from, note) = *noted;
                if let Note::PairRequest(ask) = &note
                    && self.output.is_backpressured(self.core.context.config.limits.max_queued)
                {
                    // Whoever knows the code could otherwise end the session of a client on a slow line.
                    return self.answer_note(from, Note::PairRequestRefused { ask: ask.ask });
                }
                let actions =
                    self.pairing.handle_note(Instant::now(), from, note, self.times(), &self.core.clients.held);
                self.apply(actions);
            }
            SessionEvent::GoingAway => self.going_away(),
        }
    }

    /// Hands a message of a pairing to the client, where there is such a pairing.
    pub(super) fn judge(&mut self, message: &Message) {
        let outcome = match self.pairing.code_of(message.from) {
            Some(code) => {
                let pieces = reply::forwarded(message.kind, By::Code(code.as_str()), &message.payload);
                match self.handle.write(&mut self.output.batch, &pieces) {
                    Ok(()) => Outcome::Delivered,
                    Err(WriteError::Full | WriteError::BudgetExceeded) => Outcome::Refused(ErrorCode::Congested),
                    Err(WriteError::Closed) => Outcome::NotHere,
                }
            }
            None => Outcome::NotHere,
        };
        self.core.sessions.reply(&message.reply, outcome);
    }

    /// Gives the publisher a command, after all earlier ones. If it has no room, the client is not read until it has.
    pub(super) fn publish(&mut self, command: Command) {
        if self.outbox.publish(&self.core.publisher, command) {
            let publisher = self.core.publisher.clone();
            self.ops.start_blocking(async move {
                // It ends only with the node.
                drop(publisher.reserve().await);
                OpResult::Published
            });
        }
    }
}
