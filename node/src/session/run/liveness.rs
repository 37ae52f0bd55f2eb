//! Tracks whether a session's client is alive and completes its messages.

use std::time::{Duration, Instant};

use crate::config::TimesSection;

/// The precision of the idle time. Of 10,000 idle sessions, 17 then wake together, which delays others by 0.1 ms.
const IDLE_TICK: Duration = Duration::from_millis(100);

/// When input was last received from a client.
pub(super) struct Liveness {
    last_received: Instant,
    /// When the first part of the incomplete message was received.
    incomplete_since: Option<Instant>,
    /// Whether the client was pinged and has sent nothing since.
    is_pinged: bool,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self { last_received: now, incomplete_since: None, is_pinged: false }
    }

    /// Handles a received frame. Returns whether it answers a ping.
    pub(super) const fn handle_received(&mut self, now: Instant) -> bool {
        self.last_received = now;
        std::mem::replace(&mut self.is_pinged, false)
    }

    /// Notes whether a message is incomplete after all available input was read.
    pub(super) fn set_incomplete(&mut self, now: Instant, is_incomplete: bool) {
        self.incomplete_since = is_incomplete.then(|| self.incomplete_since.unwrap_or(now));
    }

    pub(super) const fn set_pinged(&mut self) {
        self.is_pinged = true;
    }

    /// Returns when to ping the client. `started` is any fixed time, so that idle sessions wake together, which is
    /// cheaper.
    pub(super) fn ping_at(&self, times: &TimesSection, started: Instant) -> Option<Instant> {
        (!self.is_pinged).then(|| next_tick(self.last_received + times.idle, started))
    }

    /// Returns when a pinged client counts as gone.
    pub(super) fn pong_until(&self, times: &TimesSection, started: Instant) -> Option<Instant> {
        self.is_pinged.then(|| next_tick(self.last_received + times.idle + times.pong, started))
    }

    /// Returns when an incomplete message has taken too long. Pings and pongs show that the client is alive, but not
    /// that it will complete the message.
    pub(super) fn message_until(&self, times: &TimesSection) -> Option<Instant> {
        self.incomplete_since.map(|since| since + times.idle)
    }
}

/// Returns the next multiple of [`IDLE_TICK`] after `at`, counted from `started`.
fn next_tick(at: Instant, started: Instant) -> Instant {
    let excess = at.saturating_duration_since(started).as_nanos() % IDLE_TICK.as_nanos();
    at + IDLE_TICK - Duration::from_nanos(u64::try_from(excess).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_pinged_and_then_closed_and_a_frame_restarts_the_timeout() {
        let (now, times) = (Instant::now(), TimesSection::default());
        let mut liveness = Liveness::new(now);
        let ping_at = liveness.ping_at(&times, now).expect("a ping");
        assert!(ping_at >= now + times.idle && ping_at <= now + times.idle + IDLE_TICK);
        assert_eq!(liveness.pong_until(&times, now), None);
        liveness.set_pinged();
        assert_eq!(liveness.ping_at(&times, now), None);
        assert!(liveness.pong_until(&times, now) >= Some(now + times.idle + times.pong));
        assert!(liveness.handle_received(now + times.idle));
        assert!(!liveness.handle_received(now + times.idle), "the ping was answered before");
        assert!(liveness.ping_at(&times, now) >= Some(now + times.idle * 2));
    }

    #[test]
    fn a_message_that_stays_incomplete_has_a_deadline_of_its_own() {
        let (now, times) = (Instant::now(), TimesSection::default());
        let mut liveness = Liveness::new(now);
        assert_eq!(liveness.message_until(&times), None);
        liveness.set_incomplete(now, true);
        liveness.set_incomplete(now + times.idle / 2, true);
        liveness.handle_received(now + times.idle / 2);
        assert_eq!(liveness.message_until(&times), Some(now + times.idle));
        liveness.set_incomplete(now + times.idle, false);
        assert_eq!(liveness.message_until(&times), None);
    }
}
