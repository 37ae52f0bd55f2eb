//! One session with a node: its connection, its leases and its deadlines. Knows no calls.

use std::time::{Duration, Instant};

use chappe_common::{keys::NodeId, time::UnixTime};
use chappe_discovery::Connection;
use rand::{Rng, RngExt as _};

use super::{leases::Leases, refusals::Refusals};
use crate::nodes_in_use::NodeClaim;

/// When a silent node is pinged, and when its session ends.
const PING_AFTER: Duration = Duration::from_secs(20);
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// How long a node may take to attach the first inboxes.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// When a node stops, its clients look for another in the first half of the time that it leaves them, and in this time at
/// most. The other half is for the search and for attaching.
const LONGEST_DEPARTURE: Duration = Duration::from_secs(15);
/// How long a replaced session still receives messages.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The node has not responded for every inbox yet.
    Attaching {
        /// Number of responses that are due.
        answers: usize,
        /// Number of inboxes attached so far.
        attached: usize,
        /// Whether the node has rejected any inbox for its own reasons.
        unavailable: bool,
        /// When the session ends if the node has not responded.
        until: Instant,
    },
    /// In use.
    Ready,
    /// Replaced by another session.
    Leaving { until: Instant },
}

pub(crate) struct Session {
    pub(crate) serial: u64,
    pub(crate) connection: Connection,
    /// No code is registered at this node, as long as there are others.
    _claim: NodeClaim,
    pub(crate) leases: Leases,
    pub(crate) stage: Stage,
    /// The node has announced that it stops.
    pub(crate) going_away: bool,
    /// When to search for another node, because this one stops.
    depart_at: Option<Instant>,
    pub(crate) refusals: Refusals,
    last_received: Instant,
    pinged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ping,
    Attach,
    /// The node stops: search for another.
    Depart,
    /// The session is over: the node is silent, did not attach the inboxes, or was replaced.
    Silent,
    NotAttached,
    Left,
}

impl Session {
    pub(crate) fn new(serial: u64, connection: Connection, claim: NodeClaim, now: Instant) -> Self {
        let leases = Leases::new(connection.node(), *connection.nonce());
        let until = now + ATTACH_TIMEOUT;
        Self {
            serial,
            connection,
            _claim: claim,
            leases,
            stage: Stage::Attaching { answers: 0, attached: 0, unavailable: false, until },
            going_away: false,
            depart_at: None,
            refusals: Refusals::default(),
            last_received: now,
            pinged: false,
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.connection.node()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub(crate) fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { until: now + LINGER };
    }

    /// Schedules the departure from a node that stops after `grace`: at random, so that the other nodes are not asked by all
    /// its clients at once.
    pub(crate) fn handle_going_away(&mut self, grace: Duration, rng: &mut impl Rng, now: Instant) {
        self.going_away = true;
        let within = (grace / 2).min(LONGEST_DEPARTURE);
        self.depart_at = Some(now + within.mul_f64(rng.random()));
    }

    pub(crate) fn depart(&mut self) {
        self.depart_at = None;
    }

    pub(crate) fn handle_received(&mut self, now: Instant) {
        self.last_received = now;
        self.pinged = false;
    }

    pub(crate) fn mark_pinged(&mut self) {
        self.pinged = true;
    }

    pub(crate) fn next_deadline(&self, unix: UnixTime) -> Instant {
        let silence = self.last_received + if self.pinged { SILENT_AFTER } else { PING_AFTER };
        let stage = match self.stage {
            Stage::Attaching { until, .. } | Stage::Leaving { until } => Some(until),
            Stage::Ready => self.leases.next_deadline(unix).into_iter().chain(self.depart_at).min(),
        };
        stage.map_or(silence, |at| at.min(silence))
    }

    pub(crate) fn due(&self, now: Instant, unix: UnixTime) -> Option<Due> {
        let silence = now.saturating_duration_since(self.last_received);
        match self.stage {
            Stage::Attaching { until, .. } if until <= now => Some(Due::NotAttached),
            Stage::Leaving { until } if until <= now => Some(Due::Left),
            _ if self.pinged && silence >= SILENT_AFTER => Some(Due::Silent),
            _ if !self.pinged && silence >= PING_AFTER => Some(Due::Ping),
            Stage::Ready if self.depart_at.is_some_and(|at| at <= now) => Some(Due::Depart),
            Stage::Ready if self.leases.next_deadline(unix).is_some_and(|at| at <= now) => Some(Due::Attach),
            _ => None,
        }
    }
}
