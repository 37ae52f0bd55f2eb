//! When this node compares its view with another member's, and whose answers it waits for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

/// The shortest pause between two exchanges that something gives reason for.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the answer to an exchange may take.
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
    /// A schedule whose first exchange is after `jitter` times the usual pause.
    pub(super) fn new(now: Instant, every: Duration, jitter: f64) -> Self {
        Self { every, next: now + every.mul_f64(jitter), last: None, asked: HashMap::new() }
    }

    /// When the next exchange is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Schedules the next exchange after `jitter` times the usual pause.
    pub(super) fn schedule_next(&mut self, now: Instant, jitter: f64) {
        self.next = now + self.every.mul_f64(jitter);
    }

    /// An exchange begins.
    pub(super) const fn start(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Whether an exchange may begin at once. If not, one is due soon.
    pub(super) fn try_start(&mut self, now: Instant) -> bool {
        let may_start = self.last.is_none_or(|last| last + PAUSE <= now);
        if may_start {
            self.start(now);
        } else {
            self.hurry(now);
        }
        may_start
    }

    /// There is reason to think that much is new: an exchange is due as soon as one may begin.
    pub(super) fn hurry(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| last + PAUSE);
        self.next = self.next.min(soonest.max(now));
    }

    /// A summary was sent to a member.
    pub(super) fn add_asked(&mut self, node: NodeId, now: Instant) {
        self.asked.insert(node, now);
    }

    /// A member answers. Returns whether it was asked.
    pub(super) fn take_asked(&mut self, node: &NodeId) -> bool {
        self.asked.remove(node).is_some()
    }

    /// Forgets the members that have not answered.
    pub(super) fn expire(&mut self, now: Instant) {
        self.asked.retain(|_, at| *at + ANSWER_WAIT > now);
    }
}
