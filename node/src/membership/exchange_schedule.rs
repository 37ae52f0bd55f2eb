//! Schedules exchanges, and tracks the members that have not answered yet.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// The minimum interval between two exchanges that are caused by events.
const PAUSE: Duration = Duration::from_secs(2);
/// The timeout for the answer to an exchange.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// The schedule of exchanges.
#[derive(Debug)]
pub(super) struct ExchangeSchedule {
    every: Duration,
    next: Instant,
    last: Option<Instant>,
    /// Members with whom this node has begun an exchange, until their answers or for [`ANSWER_WAIT`].
    asked: HashMap<NodeId, Instant>,
}

impl ExchangeSchedule {
    /// Creates a schedule. The first exchange is due after `jitter` times the interval.
    pub(super) fn new(now: Instant, every: Duration, jitter: f64) -> Self {
        Self { every, next: now + every.mul_f64(jitter), last: None, asked: HashMap::new() }
    }

    /// Returns when the next exchange is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Schedules the next exchange after `jitter` times the interval.
    pub(super) fn schedule_next(&mut self, now: Instant, jitter: f64) {
        self.next = now + self.every.mul_f64(jitter);
    }

    /// Notes that an exchange begins.
    pub(super) const fn start(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Starts an exchange if the last one was at least [`PAUSE`] ago. Otherwise schedules one soon, and returns
    /// `false`.
    pub(super) fn try_start(&mut self, now: Instant) -> bool {
        let may_start = self.last.is_none_or(|last| last + PAUSE <= now);
        if may_start {
            self.start(now);
        } else {
            self.hurry(now);
        }
        may_start
    }

    /// Schedules an exchange as soon as one is allowed, since the views probably differ a lot.
    pub(super) fn hurry(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| last + PAUSE);
        self.next = self.next.min(soonest.max(now));
    }

    /// Notes that a summary was sent to a member.
    pub(super) fn add_asked(&mut self, node: NodeId, now: Instant) {
        self.asked.insert(node, now);
    }

    /// Handles an answer of a member. Returns whether it was asked.
    pub(super) fn take_asked(&mut self, node: &NodeId) -> bool {
        self.asked.remove(node).is_some()
    }

    /// Removes the members that have not answered in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.asked.retain(|_, at| *at + ANSWER_WAIT > now);
    }
}
