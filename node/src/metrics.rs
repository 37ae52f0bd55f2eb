//! What a node counts. No label holds a peer, an address or a URL.

use std::sync::{Mutex, PoisonError};

use chappe_common::{client::ErrorCode, lost_lines};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    membership::counts::{Counts, Reason},
    websocket::codec::Violation,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// The counters of a node.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Sessions that were opened.
    pub(crate) sessions_opened: Counter,
    /// Sessions that ended, for whatever reason.
    pub(crate) sessions_closed: Counter,
    /// Sessions that were closed because they fell silent.
    pub(crate) sessions_silent: Counter,
    /// Sessions that were closed because their client did not take its messages.
    pub(crate) sessions_slow: Counter,
    /// Connections that were refused: over a rate or at the bound.
    pub(crate) connections_refused: Counter,
    /// Times that the system had no connection to give, mostly for want of file descriptors.
    pub(crate) accepts_failed: Counter,
    /// Connections that ended, or were dropped, before they asked for anything: a handshake or a request that wasn't
    /// whole in time.
    pub(crate) connections_unfinished: Counter,
    violations: Family<Code, Counter>,
    /// Messages of clients that were understood.
    pub(crate) messages: Counter,
    /// Messages of this node's clients that were delivered.
    pub(crate) delivered: Counter,
    /// Requests to pair or link, and answers to them, that could not be processed: above all, codes that nobody has.
    pub(crate) asks_refused: Counter,
    refused: Family<Code, Counter>,
    /// Times that this machine's clock was set.
    pub(crate) clock_steps: Counter,
    /// Links that came up.
    pub(crate) links_opened: Counter,
    /// Links that went down.
    pub(crate) links_closed: Counter,
    /// Frames, streams or payloads of other nodes that break the protocol.
    pub(crate) link_protocol_errors: Counter,
    /// Dials that were not begun: too many were under way.
    pub(crate) dials_refused: Counter,
    /// Handshakes or first words of other nodes that were refused.
    pub(crate) handshakes_refused: Counter,
    /// Membership packets that were dropped: a full queue, or no record of the receiver.
    pub(crate) datagrams_dropped: Counter,
    /// Answers that found a full lane.
    pub(crate) replies_dropped: Counter,
    /// Answers and outcomes of other nodes that came when nobody waited for them any more, or that nobody asked for.
    pub(crate) answers_late: Counter,
    /// Notes between sessions, and words of a home, that were dropped: nobody there, no link, or a full queue.
    pub(crate) notes_dropped: Counter,
    /// What membership counted, as of its last step.
    membership: Mutex<Counts>,
    /// Leases of other nodes that were refused: not valid, or no room.
    pub(crate) leases_refused: Counter,
    /// Requests of other nodes to keep or drop leases for which there was no time.
    pub(crate) requests_refused: Counter,
    /// Questions to homes without an answer in time: silent homes, or too many questions open.
    pub(crate) homes_silent: Counter,
}

/// What stands at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Sessions.
    pub(crate) sessions: usize,
    /// Live members, this node among them.
    pub(crate) members: usize,
    /// Links.
    pub(crate) links: usize,
    /// Leases kept for others.
    pub(crate) leases: usize,
    /// Codes kept for others.
    pub(crate) codes: usize,
    /// Inboxes attached here.
    pub(crate) inboxes: usize,
    /// Tasks.
    pub(crate) tasks: usize,
    /// Seconds by which other nodes' clocks are ahead of this one's.
    pub(crate) clock_offset: i64,
    /// Tasks that have panicked since the start.
    pub(crate) panics: u64,
}

impl Metrics {
    /// Counts a request of a client that was refused.
    pub(crate) fn refused(&self, code: ErrorCode) {
        self.refused.get_or_create(&Code { code: code.as_str() }).inc();
    }

    /// Counts a session that ended because its client broke the framing.
    pub(crate) fn violated(&self, violation: Violation) {
        self.violations.get_or_create(&Code { code: violation.as_str() }).inc();
    }

    /// Takes what membership has counted.
    pub(crate) fn set_membership(&self, counts: Counts) {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// What membership has counted.
    pub(crate) fn membership(&self) -> Counts {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn encode(&self, levels: Levels) -> String {
        let mut registry = Registry::with_prefix("chappe");
        for (name, help, counter) in [
            ("sessions_opened", "Sessions opened", &self.sessions_opened),
            ("sessions_closed", "Sessions ended", &self.sessions_closed),
            ("sessions_silent", "Sessions closed for silence", &self.sessions_silent),
            ("sessions_slow", "Sessions closed because the client was too slow", &self.sessions_slow),
            ("connections_refused", "Client connections refused", &self.connections_refused),
            ("accepts_failed", "Connections that the system could not hand over", &self.accepts_failed),
            (
                "connections_unfinished",
                "Client connections that asked for nothing in time",
                &self.connections_unfinished,
            ),
            ("messages", "Client messages understood", &self.messages),
            ("delivered", "Client messages delivered", &self.delivered),
            ("asks_refused", "Requests to pair or link that could not be processed", &self.asks_refused),
            ("clock_steps", "Times that this machine's clock was set", &self.clock_steps),
            ("links_opened", "Links opened", &self.links_opened),
            ("links_closed", "Links closed", &self.links_closed),
            ("link_protocol_errors", "Breaches of the link protocol", &self.link_protocol_errors),
            ("dials_refused", "Dials not begun: too many under way", &self.dials_refused),
            ("handshakes_refused", "Link handshakes refused", &self.handshakes_refused),
            ("datagrams_dropped", "Membership packets dropped", &self.datagrams_dropped),
            ("replies_dropped", "Answers dropped at a full lane", &self.replies_dropped),
            ("answers_late", "Answers and outcomes that nobody waited for", &self.answers_late),
            ("notes_dropped", "Notes between sessions or nodes dropped", &self.notes_dropped),
            ("leases_refused", "Leases of other nodes refused", &self.leases_refused),
            ("requests_refused", "Requests of nodes about leases refused for want of time", &self.requests_refused),
            ("homes_silent", "Questions to homes without an answer in time", &self.homes_silent),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("refused", "Client requests refused", self.refused.clone());
        registry.register("violations", "Sessions ended because the client broke the framing", self.violations.clone());
        let counts = self.membership();
        for (name, help, count) in [
            ("members_up", "Members that came up", counts.up),
            ("members_down", "Members found down by this node's own probes", counts.down),
            ("members_left", "Members that left", counts.left),
            ("member_checks", "Members checked by probes of their own", counts.checks),
            ("accusations_made", "Accusations signed by this node", counts.accused),
            ("accusations_disproved", "Accusations that proved false", counts.disproved),
            ("accusers_muted", "Members muted for false accusations", counts.muted),
            ("claims_failed", "Claimed nodes that were not there", counts.false_claims),
            ("stalls", "Times that this node had not run for a while", counts.stalls),
            ("panics", "Tasks that have panicked", levels.panics),
            ("log_lines_lost", "Log lines of this process that could not be written", lost_lines::total()),
        ] {
            let counter = Counter::<u64>::default();
            counter.inc_by(count);
            registry.register(name, help, counter);
        }
        let refused = Family::<Code, Counter>::default();
        for reason in Reason::ALL {
            refused.get_or_create(&Code { code: reason.as_str() }).inc_by(counts.refused(reason));
        }
        registry.register("membership_refused", "What members sent and was refused", refused);
        for (name, help, level) in [
            ("sessions", "Sessions", levels.sessions),
            ("members", "Live members, this node among them", levels.members),
            ("links", "Links", levels.links),
            ("leases", "Leases kept as a home", levels.leases),
            ("codes", "Pairing codes kept as a home", levels.codes),
            ("inboxes", "Inboxes attached", levels.inboxes),
            ("tasks", "Tasks", levels.tasks),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(level).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let offset = Gauge::<i64>::default();
        offset.set(levels.clock_offset);
        registry.register("clock_offset_seconds", "Seconds by which other nodes' clocks are ahead", offset);
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes any text");
        text
    }
}
