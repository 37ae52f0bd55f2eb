//! Handles signals from other tasks, and sends commands to the publisher.

use std::{ops::ControlFlow, time::Instant};

use chappe_common::client::ErrorCode;

use super::{Session, ops::OpResult};
use crate::{
    client_protocol::reply::{self, ForwardedBy},
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
            self.handle.mark_handled();
        }
        ControlFlow::Continue(())
    }

    pub(super) fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message(message) => self.deliver_from_peer(&message),
            SessionEvent::Outcome { ticket, outcome } => self.finish_flight(ticket, outcome),
            SessionEvent::Note(boxed) => {
                let (from, note) = *boxed;
                if let Note::PairRequest(request) = &note
                    && self.output.is_backpressured(self.core.context.live().limits.max_queued)
                {
                    // Otherwise a stranger who knows the code could fill the queue of a client on a slow line, and end
                    // its session.
                    return self.answer_note(from, Note::PairRequestRefused { id: request.id });
                }
                let actions = self.pairing.handle_note(
                    Instant::now(),
                    from,
                    note,
                    self.times(),
                    &self.core.clients.memory_budget,
                );
                self.apply(actions);
            }
            SessionEvent::GoingAway => self.going_away(),
        }
    }

    /// Delivers a message of a pairing to the client, if the session has that pairing.
    pub(super) fn deliver_from_peer(&mut self, message: &Message) {
        let outcome = match self.pairing.code_of(message.from) {
            Some(code) => {
                let pieces = reply::forwarded(message.kind, ForwardedBy::Code(code.as_str()), &message.payload);
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

    /// Sends a command to the publisher, after all earlier ones. While its queue is full, the client is not read.
    pub(super) fn publish(&mut self, command: Command) {
        if self.outbox.publish(&self.core.publisher, command) {
            let publisher = self.core.publisher.clone();
            self.ops.start_blocking(async move {
                // The publisher ends only with the node.
                drop(publisher.reserve().await);
                OpResult::Published
            });
        }
    }
}
