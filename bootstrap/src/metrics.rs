//! The registry's metrics. Labels are reasons from fixed lists, never keys, addresses or URLs.

use chappe_common::{lost_lines, reachability::Outcome};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    lookup_limiter::LookupRefused,
    rules::{self, DoorTry},
};

/// Why a connection was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum ConnectionRejection {
    /// The source opens too many connections.
    RateLimited,
    /// The connection limit is reached.
    Full,
}

/// The result of a dial-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DialOutcome {
    /// The node proved its key.
    Proved,
    /// No address answered with the expected key.
    Unreachable,
    /// The node was not dialled: a limit was reached, or its addresses are not allowed.
    Rejected,
}

/// The label of rejected connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ConnectionLabel {
    pub(crate) reason: ConnectionRejection,
}

/// The label of dial-backs and probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DialLabel {
    pub(crate) outcome: DialOutcome,
}

/// The label of records and other signed requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    /// `accepted`, or the error code of the response.
    pub(crate) outcome: &'static str,
}

/// The registry's metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Received records, by outcome.
    pub(crate) records: Family<OutcomeLabel, Counter>,
    /// Received leaves, by outcome.
    pub(crate) leaves: Family<OutcomeLabel, Counter>,
    /// Dial-backs, by outcome.
    pub(crate) dials: Family<DialLabel, Counter>,
    /// Received removals, by outcome.
    pub(crate) removals: Family<OutcomeLabel, Counter>,
    /// Received revocations, by outcome.
    pub(crate) revocations: Family<OutcomeLabel, Counter>,
    /// Requests for all public nodes, by outcome.
    pub(crate) list_requests: Family<OutcomeLabel, Counter>,
    /// Probes of listed nodes, by outcome.
    pub(crate) probes: Family<DialLabel, Counter>,
    /// Tries of listed nodes' doors, by outcome.
    pub(crate) doors: Family<OutcomeLabel, Counter>,
    /// Lookups of the names in nodes' URLs: those that were made, and those beyond a limit.
    pub(crate) name_lookups: Family<OutcomeLabel, Counter>,
    /// Listed nodes that are not public because clients cannot connect.
    pub(crate) hidden: Gauge,
    /// Whether the registry blames its own network for doors that fail: 1 or 0.
    pub(crate) own_network_doubted: Gauge,
    /// Members' statements that were read, by outcome.
    pub(crate) statements: Family<OutcomeLabel, Counter>,
    /// Public nodes in the directory.
    pub(crate) listed: Gauge,
    /// Listed reserve nodes.
    pub(crate) reserve: Gauge,
    /// Listed nodes that do not answer probes.
    pub(crate) unresponsive: Gauge,
    /// Signed directories.
    pub(crate) directories_signed: Counter,
    /// 1 while the store fails, otherwise 0.
    pub(crate) store_failing: Gauge,
    /// Failed commits of the store.
    pub(crate) failed_commits: Counter,
    /// Failed writes of the store's copy for backups.
    pub(crate) failed_snapshots: Counter,
    /// Commits that conflicted with another registry's and were decided again.
    pub(crate) commit_conflicts: Counter,
    /// Connections that were served.
    pub(crate) connections_opened: Counter,
    /// Connections that have ended.
    pub(crate) connections_closed: Counter,
    /// Connections that ended with a panic.
    pub(crate) panics: Counter,
    /// Failed accepts, usually for lack of file descriptors.
    pub(crate) accept_errors: Counter,
    /// Rejected connections, by reason.
    pub(crate) connections_refused: Family<ConnectionLabel, Counter>,
    /// Requests rejected by the rate limit of their source.
    pub(crate) requests_rate_limited: Counter,
    /// Requests for which a trusted proxy sent no readable client address.
    pub(crate) forwarded_headers_invalid: Counter,
    /// Requests that exceeded their time limit.
    pub(crate) requests_timed_out: Counter,
}

impl Metrics {
    /// Counts a try of a door.
    pub(crate) fn door_tried(&self, tried: DoorTry) {
        let outcome = match tried {
            DoorTry::Works => Outcome::Works,
            DoorTry::Fails(fault) => fault.fault.outcome,
            DoorTry::NotTried => Outcome::NotTried,
        };
        self.doors.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
    }

    /// Counts a lookup of a name, or one that was not allowed.
    pub(crate) fn name_lookup(&self, allowed: Result<(), LookupRefused>) {
        let outcome = allowed.map_or_else(LookupRefused::label, |()| "made");
        self.name_lookups.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Updates the gauges of nodes.
    pub(crate) fn observe(&self, registry: &rules::RegistryState) {
        let set = |gauge: &Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.listed, registry.public_nodes().count());
        set(&self.reserve, registry.listings().filter(|listing| listing.record.is_reserve()).count());
        set(&self.hidden, registry.listings().filter(|listing| listing.hidden_for().is_some()).count());
        self.own_network_doubted.set(i64::from(registry.doubts_own_network()));
        set(&self.unresponsive, registry.listings().filter(|listing| registry.is_unresponsive(listing)).count());
    }

    /// Encodes all metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("chappe_bootstrap");
        registry.register("records", "Records that were sent, by outcome", self.records.clone());
        registry.register("leaves", "Leaves that were sent, by outcome", self.leaves.clone());
        registry.register("dials", "Nodes that were dialled back, by outcome", self.dials.clone());
        registry.register("removals", "Removals that were sent, by outcome", self.removals.clone());
        registry.register("revocations", "Revocations that were sent, by outcome", self.revocations.clone());
        registry.register("list_requests", "Requests for all public nodes, by outcome", self.list_requests.clone());
        registry.register("probes", "Probes of listed nodes, by outcome", self.probes.clone());
        registry.register("doors", "Doors of listed nodes that were tried, by outcome", self.doors.clone());
        registry.register("name_lookups", "Lookups of names in nodes' URLs, by outcome", self.name_lookups.clone());
        registry.register("hidden_nodes", "Listed nodes to which clients cannot connect", self.hidden.clone());
        registry.register(
            "own_network_doubted",
            "1 while so many doors fail that the registry blames its own network",
            self.own_network_doubted.clone(),
        );
        registry.register("statements", "Statements of members that were read, by outcome", self.statements.clone());
        registry.register("reserve_nodes", "Listed nodes that are in reserve", self.reserve.clone());
        registry.register("unresponsive_nodes", "Listed nodes that don't answer", self.unresponsive.clone());
        registry.register("listed_nodes", "Nodes in the directory", self.listed.clone());
        registry.register("directories_signed", "Directories that were signed", self.directories_signed.clone());
        registry.register("store_failing", "1 while the store fails", self.store_failing.clone());
        registry.register("failed_commits", "Commits that the store refused", self.failed_commits.clone());
        registry.register(
            "failed_snapshots",
            "Writes of the copy for backups that failed",
            self.failed_snapshots.clone(),
        );
        registry.register(
            "commit_conflicts",
            "Commits that were decided anew because another registry was faster",
            self.commit_conflicts.clone(),
        );
        registry.register("connections_opened", "Connections that were served", self.connections_opened.clone());
        registry.register("connections_closed", "Connections that have ended", self.connections_closed.clone());
        registry.register(
            "accept_errors",
            "Connections that the system could not hand over",
            self.accept_errors.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that were not served, by reason",
            self.connections_refused.clone(),
        );
        registry.register(
            "requests_rate_limited",
            "Requests that were refused because of their source's rate",
            self.requests_rate_limited.clone(),
        );
        registry.register(
            "forwarded_headers_invalid",
            "Requests of which a trusted proxy doesn't say readably who sent them",
            self.forwarded_headers_invalid.clone(),
        );
        registry.register("requests_timed_out", "Requests that took too long", self.requests_timed_out.clone());
        registry.register("panics", "Connections that ended by a panic", self.panics.clone());
        let lost = Counter::<u64>::default();
        lost.inc_by(lost_lines::total());
        registry.register("log_lines_lost", "Log lines of this process that could not be written", lost);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}
