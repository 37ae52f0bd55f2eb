//! When a session has something to do by itself, and what.

use std::{
    pin::Pin,
    task::Context,
    time::{Duration, Instant},
};

use chappe_common::client::ErrorCode;
use tokio::time::Sleep;

use super::{Over, Session};
use crate::{
    session::pairing::Times,
    websocket::codec::{Opcode, Violation},
    wire::frame::Outcome,
};

/// How exactly a session's idle time is kept: at 10,000 sessions, 17 wake at once, and others wait for a tenth of a millisecond.
const IDLE_TICK: Duration = Duration::from_millis(100);

impl Session {
    pub(super) fn times(&self) -> Times {
        let times = &self.core.context.config.times;
        Times { life: times.pair_request, warning: times.pair_warning, error_after: times.pair_error }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let times = &self.core.context.config.times;
        let idle = self.last_heard + times.idle + if self.pinged { times.pong } else { Duration::ZERO };
        // Sessions that are idle wake together, which costs less.
        let over = idle.saturating_duration_since(self.core.context.started).as_nanos() % IDLE_TICK.as_nanos();
        let idle = idle + IDLE_TICK - Duration::from_nanos(u64::try_from(over).unwrap_or_default());
        let stuck = self.waiting.since.map(|since| since + times.write);
        let slow = self.unfinished_since.map(|since| since + times.idle);
        let door = self.pairing.next_deadline(self.times());
        let door = door.into_iter().chain(self.pairing.next_member_check());
        let flight = (self.handle.has_flights())
            .then(|| self.handle.with_flights(|flights| flights.next_deadline(self.flight_wait())))
            .flatten();
        door.chain(flight).chain(stuck).chain(slow).fold(idle, Instant::min)
    }

    /// How long a message may be under way: a lookup, and twice the time that the callee's node has.
    pub(super) fn flight_wait(&self) -> Duration {
        self.core.context.config.times.lookup + self.core.context.config.times.delivery * 2
    }

    /// Whether a deadline may have come.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>, now: Instant) -> bool {
        if !self.timer.is_due(now) {
            return false;
        }
        let next = self.next_deadline();
        self.timer.poll(cx, timer, next, self.core.context.config.times.idle / 4).is_ready()
    }

    pub(super) fn handle_time(&mut self, now: Instant) -> Result<(), Over> {
        if self.pairing.next_member_check().is_some_and(|at| at <= now) {
            let view = self.core.members.view.load();
            self.pairing.check_members(now, |node| !view.contains(node), self.times());
        }
        let actions = self.pairing.handle_timeout(now, self.times());
        self.act(actions);
        let wait = self.flight_wait();
        while self.handle.has_flights()
            && let Some(ticket) = self.handle.with_flights(|flights| flights.overdue(now, wait))
        {
            self.end_flight(ticket, Outcome::Refused(ErrorCode::Unreachable));
        }
        if self.waiting.since.is_some_and(|since| now >= since + self.core.context.config.times.write) {
            self.core.context.metrics.sessions_slow.inc();
            return Err(Over);
        }
        let times = &self.core.context.config.times;
        // Its pings and pongs show that it lives, and not that the message will ever be whole.
        if self.unfinished_since.is_some_and(|since| now >= since + times.idle) {
            self.handle_violation(Violation::Slow);
            return Err(Over);
        }
        let silent = now.saturating_duration_since(self.last_heard);
        if self.pinged && silent >= times.idle + times.pong {
            self.core.context.metrics.sessions_silent.inc();
            return Err(Over);
        }
        if !self.pinged && silent >= times.idle {
            self.pinged = true;
            self.said(self.handle.say_control(Opcode::Ping, &[]));
        }
        Ok(())
    }
}
