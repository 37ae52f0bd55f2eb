//! The deadlines of a session, and how each is handled.

use std::{
    ops::ControlFlow,
    pin::Pin,
    task::Context,
    time::{Duration, Instant},
};

use chappe_common::client::ErrorCode;
use tokio::time::Sleep;

use super::{Session, output::log_write_error};
use crate::{
    session::pairing::Times,
    websocket::codec::{Opcode, Violation},
    wire::frame::Outcome,
};

#[derive(Clone, Copy)]
enum Deadline {
    /// Check whether the nodes with unanswered pair requests are still members.
    MemberCheck,
    /// Warn of a pair request's expiry, expire it, or send its error.
    PairRequest,
    /// End a message in flight that has no outcome.
    Outcome,
    /// End the session: the client doesn't read its messages.
    Write,
    /// End the session: the client doesn't complete a message.
    Message,
    /// End the session: the client didn't answer a ping.
    Pong,
    /// Ping an idle client.
    Ping,
}

impl Deadline {
    const ALL: [Self; 7] =
        [Self::MemberCheck, Self::PairRequest, Self::Outcome, Self::Write, Self::Message, Self::Pong, Self::Ping];
}

impl Session {
    /// Returns the times of pair requests.
    pub(super) fn times(&self) -> Times {
        let times = &self.core.context.config.times;
        Times { life: times.pair_request, warning: times.pair_warning, error_after: times.pair_error }
    }

    /// Returns how long a message may be in flight: a lookup, and twice the delivery timeout.
    fn flight_wait(&self) -> Duration {
        self.core.context.config.times.lookup + self.core.context.config.times.delivery * 2
    }

    /// Returns the time of a deadline, if it is set.
    fn deadline(&self, deadline: Deadline) -> Option<Instant> {
        let (times, started) = (&self.core.context.config.times, self.core.context.started);
        match deadline {
            Deadline::MemberCheck => self.pairing.next_member_check(),
            Deadline::PairRequest => self.pairing.next_deadline(self.times()),
            Deadline::Outcome if self.handle.has_flights() => {
                self.handle.with_flights(|flights| flights.next_deadline(self.flight_wait()))
            }
            Deadline::Outcome => None,
            Deadline::Write => self.output.backlog.since.map(|since| since + times.write),
            Deadline::Message => self.liveness.message_until(times),
            Deadline::Pong => self.liveness.pong_until(times, started),
            Deadline::Ping => self.liveness.ping_at(times, started),
        }
    }

    /// Returns the time of the next deadline.
    pub(super) fn next_deadline(&self) -> Instant {
        let next = Deadline::ALL.into_iter().filter_map(|deadline| self.deadline(deadline)).min();
        next.expect("either a ping or a pong is due")
    }

    /// Returns whether a deadline may have passed.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>, now: Instant) -> bool {
        if !self.timer.is_due(now) {
            return false;
        }
        let next = self.next_deadline();
        self.timer.poll(cx, timer, next, self.core.context.config.times.idle / 4).is_ready()
    }

    /// Handles all deadlines that have passed.
    pub(super) fn handle_deadlines(&mut self, now: Instant) -> ControlFlow<()> {
        for deadline in Deadline::ALL {
            if self.deadline(deadline).is_some_and(|at| at <= now) {
                self.handle_deadline(now, deadline)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_deadline(&mut self, now: Instant, deadline: Deadline) -> ControlFlow<()> {
        match deadline {
            Deadline::MemberCheck => {
                let view = self.core.members.view.load();
                self.pairing.check_members(now, |node| !view.contains(node), self.times());
            }
            Deadline::PairRequest => {
                let actions = self.pairing.handle_timeout(now, self.times());
                self.apply(actions);
            }
            Deadline::Outcome => {
                let wait = self.flight_wait();
                while let Some(ticket) = self.handle.with_flights(|flights| flights.overdue(now, wait)) {
                    self.end_flight(ticket, Outcome::Refused(ErrorCode::Unreachable));
                }
            }
            Deadline::Write => {
                self.core.context.metrics.sessions_slow.inc();
                return ControlFlow::Break(());
            }
            Deadline::Message => {
                self.handle_violation(Violation::Slow);
                return ControlFlow::Break(());
            }
            Deadline::Pong => {
                self.core.context.metrics.sessions_timed_out.inc();
                return ControlFlow::Break(());
            }
            Deadline::Ping => {
                self.liveness.set_pinged();
                log_write_error(self.handle.write_control(Opcode::Ping, &[]));
            }
        }
        ControlFlow::Continue(())
    }
}
