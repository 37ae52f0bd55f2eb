//! One session with a node: its connection, its leases, and when what is due. Knows nothing of calls.

use std::time::{Duration, Instant};

use chappe_common::{keys::NodeId, time::UnixTime};
use chappe_discovery::Connection;

use super::{leases::Leases, refusals::Refusals};

/// When a node that has said nothing is pinged, and when it is given up.
const PING_AFTER: Duration = Duration::from_secs(20);
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// How long a node may take to attach.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session that another has replaced still hears what was on its way.
const LINGER: Duration = Duration::from_secs(2);

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting until the node has answered for every inbox.
    Attaching {
        /// How many answers are due.
        answers: usize,
        /// Inboxes that are attached, of those that were answered for.
        attached: usize,
        /// Whether the node has refused any for reasons of its own.
        unavailable: bool,
        /// When the node is given up.
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
    pub(crate) leases: Leases,
    pub(crate) stage: Stage,
    /// The node has said that it will stop.
    pub(crate) going_away: bool,
    pub(crate) refusals: Refusals,
    last_heard: Instant,
    pinged: bool,
}

/// What a session has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ping,
    Attach,
    /// Over: the node is silent, didn't attach, or was replaced.
    Silent,
    NotAttached,
    Left,
}

impl Session {
    pub(crate) fn new(serial: u64, connection: Connection, now: Instant) -> Self {
        let leases = Leases::new(connection.node(), *connection.nonce());
        let until = now + ATTACH_TIMEOUT;
        Self {
            serial,
            connection,
            leases,
            stage: Stage::Attaching { answers: 0, attached: 0, unavailable: false, until },
            going_away: false,
            refusals: Refusals::default(),
            last_heard: now,
            pinged: false,
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.connection.node()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Another session has taken over.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { until: now + LINGER };
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = false;
    }

    pub(crate) fn mark_pinged(&mut self) {
        self.pinged = true;
    }

    pub(crate) fn next_deadline(&self, unix: UnixTime) -> Instant {
        let silence = self.last_heard + if self.pinged { SILENT_AFTER } else { PING_AFTER };
        let stage = match self.stage {
            Stage::Attaching { until, .. } | Stage::Leaving { until } => Some(until),
            Stage::Ready => self.leases.next_deadline(unix),
        };
        stage.map_or(silence, |at| at.min(silence))
    }

    pub(crate) fn due(&self, now: Instant, unix: UnixTime) -> Option<Due> {
        let silence = now.saturating_duration_since(self.last_heard);
        match self.stage {
            Stage::Attaching { until, .. } if until <= now => Some(Due::NotAttached),
            Stage::Leaving { until } if until <= now => Some(Due::Left),
            _ if self.pinged && silence >= SILENT_AFTER => Some(Due::Silent),
            _ if !self.pinged && silence >= PING_AFTER => Some(Due::Ping),
            Stage::Ready if self.leases.next_deadline(unix).is_some_and(|at| at <= now) => Some(Due::Attach),
            _ => None,
        }
    }
}
