//! A node's metrics. No label contains a peer, an address or a URL.

use std::sync::{Arc, Mutex, PoisonError};

use chappe_common::{
    client::ErrorCode, lost_lines, reachability::Transport, root_statements::RefusalCounts, roots::SuccessionRefusal,
};
use chappe_turn::{counters::DropReason, runtime::Snapshot};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::{
    membership::counts::{Counts, Reason},
    reachability::{
        message::{CheckRefusal, StatementFault},
        rounds::ReachCounts,
    },
    websocket::{codec::Violation, validity::Validity},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// What a trusted proxy got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFault {
    /// Its PROXY protocol header is invalid or too long.
    ProxyHeader,
    /// What it wrote to `X-Forwarded-For` or `Forwarded` is not an address.
    Unreadable,
    /// `X-Forwarded-For` and `Forwarded` contradict each other: one of them was written by the client.
    Contradiction,
}

impl ProxyFault {
    const ALL: [Self; 3] = [Self::ProxyHeader, Self::Unreadable, Self::Contradiction];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::Unreadable => "unreadable",
            Self::Contradiction => "contradiction",
        }
    }
}

/// How an attempt to obtain a certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcmeOutcome {
    Issued,
    /// The authority refused something, or could not validate a host.
    Refused,
    /// The authority did not answer, or has a problem itself.
    Unreachable,
    /// The disk did not accept the state, so nothing was ordered.
    NotStored,
}

impl AcmeOutcome {
    const ALL: [Self; 4] = [Self::Issued, Self::Refused, Self::Unreachable, Self::NotStored];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NotStored => "not_stored",
        }
    }
}

/// The metrics of a node, each registered under its field's name.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Sessions opened.
    pub(crate) sessions_opened: Counter,
    /// Sessions ended.
    pub(crate) sessions_closed: Counter,
    /// Sessions closed because the client was silent.
    pub(crate) sessions_timed_out: Counter,
    /// Sessions closed because the client did not read its messages.
    pub(crate) sessions_slow: Counter,
    /// Client connections refused, by a rate or the connection limit.
    pub(crate) connections_refused: Counter,
    /// Failed `accept` calls, mostly for lack of file descriptors.
    pub(crate) accept_errors: Counter,
    /// Requests for the page for calls beyond its rate.
    pub(crate) call_pages_refused: Counter,
    /// Client connections that ended or were dropped before a complete request.
    pub(crate) client_handshakes_failed: Counter,
    /// Valid client messages.
    pub(crate) messages: Counter,
    /// Client messages with the outcome `delivered`.
    pub(crate) delivered: Counter,
    /// Requests to pair or link, or answers to them, that could not be processed. Most name codes that nobody has.
    pub(crate) pair_requests_refused: Counter,
    /// Times that this machine's clock was set.
    pub(crate) clock_steps: Counter,
    /// Links opened.
    pub(crate) links_opened: Counter,
    /// Links closed.
    pub(crate) links_closed: Counter,
    /// New links, dialled and accepted, that had to wait because the router's queue was full.
    pub(crate) links_delayed: Counter,
    /// Frames, streams and payloads of peers that broke the protocol.
    pub(crate) link_protocol_errors: Counter,
    /// Dials not started, because too many were in progress.
    pub(crate) dials_refused: Counter,
    /// Link handshakes and hellos refused.
    pub(crate) handshakes_refused: Counter,
    /// Membership packets dropped, at a full queue or without a record of the receiver.
    pub(crate) datagrams_dropped: Counter,
    /// Responses to other nodes' requests, and outcomes of their messages, dropped at a full lane.
    pub(crate) responses_dropped: Counter,
    /// Responses and outcomes that arrived too late, or without a request.
    pub(crate) responses_unexpected: Counter,
    /// Notes between sessions dropped: no session, no link, or a full queue.
    pub(crate) session_messages_dropped: Counter,
    /// Notices to other nodes that a newer lease has displaced one of theirs, dropped at a full lane.
    pub(crate) displacements_dropped: Counter,
    /// Commands to remove a displaced lease, dropped at the publisher's full queue.
    pub(crate) publisher_commands_dropped: Counter,
    /// Leases of other nodes refused, as invalid or at a bound.
    pub(crate) leases_refused: Counter,
    /// Lease requests of other nodes refused for lack of time.
    pub(crate) requests_refused: Counter,
    /// Requests to homes without a response in time: a silent home, or too many open requests.
    pub(crate) home_timeouts: Counter,
    /// Members whose addresses this node has tried for them.
    pub(crate) checks: Counter,
    checks_refused: Family<Code, Counter>,
    statements_refused: Family<Code, Counter>,
    refused: Family<Code, Counter>,
    proxied_refused: Family<Code, Counter>,
    violations: Family<Code, Counter>,
    acme_orders: Family<Code, Counter>,
    /// When the certificate is valid, as of the last scrape.
    certificate: Arc<Mutex<Option<Validity>>>,
    /// The counts of membership as of its last step.
    membership: Arc<Mutex<Counts>>,
    /// The refused successions of roots as of the last scrape.
    successions: Arc<Mutex<RefusalCounts>>,
    /// The state of the relay for media as of the last scrape.
    relay: Arc<Mutex<Option<Snapshot>>>,
    gauges: Gauges,
}

/// Gauge values of a node at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    pub(crate) sessions: usize,
    /// Live members, including this node.
    pub(crate) members: usize,
    pub(crate) links: usize,
    /// Leases that this node stores as a home.
    pub(crate) leases: usize,
    /// Pairing codes that this node stores as a home.
    pub(crate) codes: usize,
    /// Inboxes attached to this node's sessions.
    pub(crate) inboxes: usize,
    pub(crate) tasks: usize,
    /// Seconds by which other nodes' clocks are ahead of this one.
    pub(crate) clock_offset: i64,
    /// Tasks that have panicked since the start.
    pub(crate) panics: u64,
    /// When the certificate for clients is valid, if there is one.
    pub(crate) certificate: Option<Validity>,
    /// How many members reach this node, and how many do not, by transport.
    pub(crate) reach: ReachCounts,
    /// Registries that do not show this node to clients.
    pub(crate) hidden_by: usize,
    /// Successions of roots that registries and members sent, and that have no effect.
    pub(crate) refused_successions: RefusalCounts,
    /// Bytes of the budget in use, and the budget. Both 0 without one.
    pub(crate) budget_used: u64,
    pub(crate) budget: u64,
    /// From 0 (everything is offered) to 3 (the node sleeps).
    pub(crate) budget_level: u64,
    /// Whether the rate is exceeded for long.
    pub(crate) is_rate_exceeded: bool,
}

/// Metrics that are set at each scrape.
#[derive(Debug)]
struct Gauges {
    sessions: Gauge,
    members: Gauge,
    links: Gauge,
    leases: Gauge,
    codes: Gauge,
    inboxes: Gauge,
    tasks: Gauge,
    hidden_by: Gauge,
    clock_offset: Gauge,
    panics: Counter,
    budget_used: Gauge,
    budget: Gauge,
    budget_level: Gauge,
    budget_rate_exceeded: Gauge,
    observers_reaching: Family<Code, Gauge>,
    observers_failing: Family<Code, Gauge>,
}

/// A counter for each code. All begin at 0, so that the first increment is not lost in a rate.
fn family(codes: impl IntoIterator<Item = &'static str>) -> Family<Code, Counter> {
    let family = Family::default();
    for code in codes {
        drop(family.get_or_create(&Code { code }));
    }
    family
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("chappe");
        let refused = family(ErrorCode::ALL.map(ErrorCode::as_str));
        registry.register("refused", "Client requests refused", refused.clone());
        let proxied_refused = family(ProxyFault::ALL.map(ProxyFault::as_str));
        registry.register(
            "proxied_refused",
            "Connections refused because a trusted proxy did not tell the client's address",
            proxied_refused.clone(),
        );
        let violations = family(Violation::ALL.map(Violation::as_str));
        registry.register("violations", "Sessions ended because the client broke the framing", violations.clone());
        let acme_orders = family(AcmeOutcome::ALL.map(AcmeOutcome::as_str));
        registry.register("acme_orders", "Attempts to obtain a certificate by ACME", acme_orders.clone());
        let checks_refused = family(CheckRefusal::ALL.map(CheckRefusal::as_str));
        registry.register("checks_refused", "Requests of members to be tried, refused", checks_refused.clone());
        let statements_refused = family(StatementFault::ALL.map(StatementFault::as_str));
        registry.register(
            "reachability_statements_refused",
            "Statements of members about this node that do not count",
            statements_refused.clone(),
        );
        let certificate = Arc::new(Mutex::new(None));
        registry.register_collector(Box::new(CertificateCollector(certificate.clone())));
        let membership = Arc::new(Mutex::new(Counts::default()));
        registry.register_collector(Box::new(MembershipCollector(membership.clone())));
        let successions = Arc::new(Mutex::new(RefusalCounts::default()));
        registry.register_collector(Box::new(SuccessionCollector(successions.clone())));
        let relay = Arc::new(Mutex::new(None));
        registry.register_collector(Box::new(RelayCollector(relay.clone())));
        let gauges = Gauges::new(&mut registry);
        let mut counter = |name, help| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            sessions_opened: counter("sessions_opened", "Sessions opened"),
            sessions_closed: counter("sessions_closed", "Sessions ended"),
            sessions_timed_out: counter("sessions_timed_out", "Sessions closed because the client was silent"),
            sessions_slow: counter("sessions_slow", "Sessions closed because the client did not take its messages"),
            connections_refused: counter(
                "connections_refused",
                "Client connections refused: over a rate, or all are taken",
            ),
            call_pages_refused: counter(
                "call_pages_refused",
                "Requests for the page for calls beyond its rate, or while clients are sent elsewhere",
            ),
            accept_errors: counter("accept_errors", "Connections that the system could not hand over"),
            client_handshakes_failed: counter(
                "client_handshakes_failed",
                "Client connections that ended or were dropped before a whole request",
            ),
            messages: counter("messages", "Client messages understood"),
            delivered: counter("delivered", "Client messages delivered"),
            pair_requests_refused: counter(
                "pair_requests_refused",
                "Requests to pair or link that could not be processed",
            ),
            clock_steps: counter("clock_steps", "Times that this machine's clock was set"),
            links_opened: counter("links_opened", "Links opened"),
            links_closed: counter("links_closed", "Links closed"),
            links_delayed: counter("links_delayed", "New links that waited because the router's queue was full"),
            link_protocol_errors: counter(
                "link_protocol_errors",
                "Frames, streams and payloads of nodes that break the protocol",
            ),
            dials_refused: counter("dials_refused", "Dials not started: too many in progress"),
            handshakes_refused: counter("handshakes_refused", "Link handshakes and hellos refused"),
            datagrams_dropped: counter("datagrams_dropped", "Membership packets dropped"),
            responses_dropped: counter("responses_dropped", "Responses and outcomes dropped at a full lane"),
            responses_unexpected: counter("responses_unexpected", "Responses and outcomes that nobody waited for"),
            session_messages_dropped: counter("session_messages_dropped", "Notes between sessions dropped"),
            displacements_dropped: counter(
                "displacements_dropped",
                "Notices of displaced leases dropped at a full lane",
            ),
            publisher_commands_dropped: counter(
                "publisher_commands_dropped",
                "Commands dropped at the publisher's full queue",
            ),
            leases_refused: counter("leases_refused", "Leases of other nodes refused"),
            requests_refused: counter("requests_refused", "Requests of nodes about leases refused for want of time"),
            home_timeouts: counter("home_timeouts", "Requests to homes without a response in time"),
            checks: counter("checks", "Members whose addresses were tried for them"),
            checks_refused,
            statements_refused,
            refused,
            proxied_refused,
            violations,
            acme_orders,
            certificate,
            membership,
            successions,
            relay,
            gauges,
            registry,
        }
    }
}

impl Metrics {
    /// Counts a refused client request.
    pub(crate) fn refused(&self, code: ErrorCode) {
        self.refused.get_or_create(&Code { code: code.as_str() }).inc();
    }

    /// Counts a connection through a trusted proxy that does not tell the client's address.
    pub(crate) fn refused_proxied(&self, fault: ProxyFault) {
        self.proxied_refused.get_or_create(&Code { code: fault.as_str() }).inc();
    }

    /// Counts a session that ended because its client broke the framing.
    pub(crate) fn violated(&self, violation: Violation) {
        self.violations.get_or_create(&Code { code: violation.as_str() }).inc();
    }

    /// Counts an attempt to obtain a certificate.
    pub(crate) fn acme_ordered(&self, outcome: AcmeOutcome) {
        self.acme_orders.get_or_create(&Code { code: outcome.as_str() }).inc();
    }

    /// Counts a refused request to try a member.
    pub(crate) fn check_refused(&self, refusal: CheckRefusal) {
        self.checks_refused.get_or_create(&Code { code: refusal.as_str() }).inc();
    }

    /// Counts a statement about this node that does not count.
    pub(crate) fn statement_refused(&self, fault: StatementFault) {
        self.statements_refused.get_or_create(&Code { code: fault.as_str() }).inc();
    }

    /// Replaces the counts of membership.
    pub(crate) fn set_membership(&self, counts: Counts) {
        *self.membership.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Encodes all metrics as text for Prometheus, those of the relay for media too if it runs.
    pub(crate) fn encode(&self, levels: Levels, relay: Option<Snapshot>) -> String {
        self.gauges.set(levels);
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = levels.certificate;
        *self.successions.lock().unwrap_or_else(PoisonError::into_inner) = levels.refused_successions;
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = relay;
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes any text");
        text
    }
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        let panics = Counter::default();
        registry.register("panics", "Tasks that have panicked", panics.clone());
        let observers_reaching = Family::default();
        registry.register(
            "observers_reaching",
            "Members that have recently reached this node from outside, by transport",
            observers_reaching.clone(),
        );
        let observers_failing = Family::default();
        registry.register(
            "observers_failing",
            "Members that have recently tried this node from outside in vain, by transport",
            observers_failing.clone(),
        );
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            sessions: gauge("sessions", "Sessions"),
            members: gauge("members", "Live members, this node among them"),
            links: gauge("links", "Links"),
            leases: gauge("leases", "Leases kept as a home"),
            codes: gauge("codes", "Pairing codes kept as a home"),
            inboxes: gauge("inboxes", "Inboxes attached"),
            tasks: gauge("tasks", "Tasks"),
            hidden_by: gauge(
                "hidden_by_registries",
                "Registries that do not show this node, because clients cannot connect",
            ),
            clock_offset: gauge("clock_offset_seconds", "Seconds by which other nodes' clocks are ahead"),
            panics,
            budget_used: gauge("budget_used_bytes", "Bytes of this month, as the provider counts them"),
            budget: gauge("budget_bytes", "The budget of a month in bytes, or 0 if there is none"),
            budget_rate_exceeded: gauge("budget_rate_exceeded", "Whether budget.bytes_per_second is exceeded for long"),
            budget_level: gauge("budget_level", "What the budget has switched off: 0 nothing, 3 all"),
            observers_reaching,
            observers_failing,
        }
    }

    fn set(&self, levels: Levels) {
        for (gauge, level) in [
            (&self.sessions, levels.sessions),
            (&self.members, levels.members),
            (&self.links, levels.links),
            (&self.leases, levels.leases),
            (&self.codes, levels.codes),
            (&self.inboxes, levels.inboxes),
            (&self.tasks, levels.tasks),
            (&self.hidden_by, levels.hidden_by),
        ] {
            gauge.set(i64::try_from(level).unwrap_or(i64::MAX));
        }
        for (gauge, value) in [
            (&self.budget_used, levels.budget_used),
            (&self.budget, levels.budget),
            (&self.budget_level, levels.budget_level),
            (&self.budget_rate_exceeded, u64::from(levels.is_rate_exceeded)),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (transport, reach) in Transport::ALL.into_iter().zip(levels.reach) {
            for (family, count) in [(&self.observers_reaching, reach.reached), (&self.observers_failing, reach.failed)]
            {
                let gauge = family.get_or_create(&Code { code: transport.as_str() });
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        self.clock_offset.set(levels.clock_offset);
        self.panics.inner().store(levels.panics, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Exports when the certificate for clients is valid, if there is one.
#[derive(Debug)]
struct CertificateCollector(Arc<Mutex<Option<Validity>>>);

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let validity = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Validity { starts_at, expires_at }) = validity else { return Ok(()) };
        for (name, help, time) in [
            ("certificate_start_timestamp_seconds", "Since when the certificate for clients is valid", starts_at),
            ("certificate_expiry_timestamp_seconds", "When the certificate for clients expires", expires_at),
        ] {
            let gauge = ConstGauge::new(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// Exports the state of the relay for media, which has counters of its own.
#[derive(Debug)]
struct RelayCollector(Arc<Mutex<Option<Snapshot>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorNumber {
    code: u16,
}

impl Collector for RelayCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Snapshot { counters, io, allocations, streams, budget: _, is_running }) = relay else { return Ok(()) };
        for (name, help, value) in [
            ("turn_running", "Whether the relay for media runs", u64::from(is_running)),
            ("turn_allocations", "Allocations of the relay for media", allocations as u64),
            ("turn_streams", "TCP and TLS connections of the relay for media", streams as u64),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, count) in [
            ("turn_allocations_opened", "Allocations made", counters.allocations_opened),
            ("turn_allocations_closed", "Allocations ended", counters.allocations_closed),
            (
                "turn_network_shares_reached",
                "Allocations refused because the client's network has its share",
                counters.network_shares_reached,
            ),
            ("turn_packets", "Packets of media relayed", counters.packets),
            ("turn_bytes", "Bytes of media relayed, with IP and UDP headers", counters.bytes),
            ("turn_packets_hairpinned", "Packets from one allocation to another of this node", counters.hairpinned),
            ("turn_bindings", "STUN Binding requests answered", counters.bindings),
            ("turn_sends_failed", "Packets that the system did not take", io.sends_failed),
            ("turn_truncated", "Packets dropped because they were too long", io.truncated),
            ("turn_receives_failed", "Errors of the relay's sockets", io.receives_failed),
            (
                "turn_stream_packets_dropped",
                "Packets dropped because a client does not read its connection",
                io.stream_packets_dropped,
            ),
            ("turn_streams_opened", "TCP and TLS connections of the relay's clients", io.streams_opened),
            (
                "turn_streams_closed",
                "TCP and TLS connections of the relay's clients that have ended",
                io.streams_closed,
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let dropped = Family::<Code, Counter>::default();
        for reason in DropReason::ALL {
            dropped.get_or_create(&Code { code: reason.label() }).inc_by(counters.dropped(reason));
        }
        let help = "Packets that the relay dropped";
        dropped.encode(encoder.encode_descriptor("turn_dropped", help, None, dropped.metric_type())?)?;
        let errors = Family::<ErrorNumber, Counter>::default();
        for (code, count) in counters.errors() {
            errors.get_or_create(&ErrorNumber { code }).inc_by(count);
        }
        let help = "Requests to the relay that were refused";
        errors.encode(encoder.encode_descriptor("turn_refused", help, None, errors.metric_type())?)
    }
}

/// Exports the counts of membership, which is pure and has counters of its own, and the lost log lines of the process.
#[derive(Debug)]
struct MembershipCollector(Arc<Mutex<Counts>>);

impl Collector for MembershipCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, count) in [
            ("members_up", "Members that came up", counts.up),
            ("members_down", "Members found down by this node's own probes", counts.down),
            ("members_left", "Members that left", counts.left),
            ("member_checks", "Members checked by probes of their own", counts.checks),
            ("accusations_made", "Accusations signed by this node", counts.accused),
            ("accusations_disproved", "Accusations that proved false", counts.disproved),
            ("accusers_muted", "Members muted for false accusations", counts.muted),
            ("sightings_failed", "Reported nodes that were not there", counts.false_claims),
            ("stalls", "Scheduler stalls detected", counts.stalls),
            ("log_lines_lost", "Log lines of this process that could not be written", lost_lines::total()),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let refused = Family::<Code, Counter>::default();
        for reason in Reason::ALL {
            refused.get_or_create(&Code { code: reason.as_str() }).inc_by(counts.refused(reason));
        }
        let help = "Items of members that were refused";
        refused.encode(encoder.encode_descriptor("membership_refused", help, None, refused.metric_type())?)
    }
}

/// Exports the refused successions of roots, which are counted where they are refused.
#[derive(Debug)]
struct SuccessionCollector(Arc<Mutex<RefusalCounts>>);

impl Collector for SuccessionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = Family::<Code, Counter>::default();
        for refusal in SuccessionRefusal::ALL {
            refused.get_or_create(&Code { code: refusal.as_str() }).inc_by(counts.of(refusal));
        }
        let help = "Successions of root keys that have no effect";
        refused.encode(encoder.encode_descriptor("successions_refused", help, None, refused.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use chappe_common::time::UnixTime;
    use chappe_turn::{budget::BudgetLevel, counters::Counters, runtime::IoCounters};

    use super::*;

    #[test]
    fn every_metric_is_in_the_operators_page() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
        let page = fs::read_to_string(path).expect("the operators' page");
        let levels = Levels {
            sessions: 0,
            members: 0,
            links: 0,
            leases: 0,
            codes: 0,
            inboxes: 0,
            tasks: 0,
            clock_offset: 0,
            panics: 0,
            certificate: Some(Validity { starts_at: UnixTime::from_secs(1), expires_at: UnixTime::from_secs(2) }),
            reach: ReachCounts::default(),
            hidden_by: 0,
            refused_successions: RefusalCounts::default(),
            budget_used: 0,
            budget: 0,
            budget_level: 0,
            is_rate_exceeded: false,
        };
        let relay = Snapshot {
            counters: Counters::default(),
            io: IoCounters::default(),
            allocations: 0,
            streams: 0,
            budget: BudgetLevel::Open,
            is_running: true,
        };
        let text = Metrics::default().encode(levels, Some(relay));
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE chappe_")?.split_once(' '));
        let names: Vec<_> = names.map(|(name, _)| name).collect();
        assert!(names.len() > 30, "only {} metrics", names.len());
        let is_listed = |name: &str| ["`", "{"].iter().any(|end| page.contains(&format!("`{name}{end}")));
        let missing: Vec<_> = names.into_iter().filter(|name| !is_listed(name)).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
