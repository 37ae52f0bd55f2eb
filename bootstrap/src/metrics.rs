//! What the registry counts. Labels are reasons from fixed lists; no key, address or URL is one.

use chappe_common::lost_lines;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::rules;

/// Why a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum ConnectionRefusal {
    /// Its source opens too many.
    RateLimited,
    /// All places are taken.
    Full,
}

/// How a dial-back ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DialOutcome {
    /// The node proved its key.
    Proved,
    /// No address answered with the expected key.
    Unreachable,
    /// All places were taken, or the address was dialled too often.
    Refused,
}

/// The label of a counter of refused connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ConnectionLabel {
    /// Why.
    pub(crate) reason: ConnectionRefusal,
}

/// The label of a counter of dial-backs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DialLabel {
    /// How it ended.
    pub(crate) outcome: DialOutcome,
}

/// The label of counters of records and leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    /// `accepted`, or the code that the sender was told.
    pub(crate) outcome: &'static str,
}

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Records that were sent, by outcome.
    pub(crate) records: Family<OutcomeLabel, Counter>,
    /// Leaves that were sent, by outcome.
    pub(crate) leaves: Family<OutcomeLabel, Counter>,
    /// Nodes that were dialled back, by outcome.
    pub(crate) dials: Family<DialLabel, Counter>,
    /// Removals that were sent, by outcome.
    pub(crate) removals: Family<OutcomeLabel, Counter>,
    /// Requests for all public nodes, by outcome.
    pub(crate) list_requests: Family<OutcomeLabel, Counter>,
    /// Probes of listed nodes, by outcome.
    pub(crate) probes: Family<DialLabel, Counter>,
    /// Nodes in the directory.
    pub(crate) listed: Gauge,
    /// Listed nodes that are in reserve.
    pub(crate) reserve: Gauge,
    /// Listed nodes that don't answer.
    pub(crate) silent: Gauge,
    /// Directories that were signed.
    pub(crate) directories_signed: Counter,
    /// 1 while the store fails.
    pub(crate) store_failing: Gauge,
    /// Commits that the store refused.
    pub(crate) failed_commits: Counter,
    /// Commits that were decided anew because another registry was faster.
    pub(crate) overtaken_commits: Counter,
    /// Connections that were served.
    pub(crate) connections_opened: Counter,
    /// Connections that have ended.
    pub(crate) connections_closed: Counter,
    /// Requests whose answer panicked.
    pub(crate) panics: Counter,
    /// Times that the system had no connection to give, mostly for want of file descriptors.
    pub(crate) accepts_failed: Counter,
    /// Connections that were not served, by reason.
    pub(crate) connections_refused: Family<ConnectionLabel, Counter>,
    /// Requests that were refused because of their source's rate.
    pub(crate) requests_limited: Counter,
    /// Requests of which a trusted proxy says in no readable way who has sent them.
    pub(crate) forwarded_unreadable: Counter,
    /// Requests that took too long.
    pub(crate) requests_timed_out: Counter,
}

impl Metrics {
    /// Counts the nodes anew.
    pub(crate) fn observe(&self, registry: &rules::Registry) {
        let set = |gauge: &Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.listed, registry.public().count());
        set(&self.reserve, registry.listings().filter(|listing| listing.record.is_reserve()).count());
        set(&self.silent, registry.listings().filter(|listing| registry.is_silent(listing)).count());
    }

    /// All counters in the Prometheus text format.
    pub(crate) fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("chappe_bootstrap");
        registry.register("records", "Records that were sent, by outcome", self.records.clone());
        registry.register("leaves", "Leaves that were sent, by outcome", self.leaves.clone());
        registry.register("dials", "Nodes that were dialled back, by outcome", self.dials.clone());
        registry.register("removals", "Removals that were sent, by outcome", self.removals.clone());
        registry.register("list_requests", "Requests for all public nodes, by outcome", self.list_requests.clone());
        registry.register("probes", "Probes of listed nodes, by outcome", self.probes.clone());
        registry.register("reserve_nodes", "Listed nodes that are in reserve", self.reserve.clone());
        registry.register("silent_nodes", "Listed nodes that don't answer", self.silent.clone());
        registry.register("listed_nodes", "Nodes in the directory", self.listed.clone());
        registry.register("directories_signed", "Directories that were signed", self.directories_signed.clone());
        registry.register("store_failing", "1 while the store fails", self.store_failing.clone());
        registry.register("failed_commits", "Commits that the store refused", self.failed_commits.clone());
        registry.register(
            "overtaken_commits",
            "Commits that were decided anew because another registry was faster",
            self.overtaken_commits.clone(),
        );
        registry.register("connections_opened", "Connections that were served", self.connections_opened.clone());
        registry.register("connections_closed", "Connections that have ended", self.connections_closed.clone());
        registry.register(
            "accepts_failed",
            "Connections that the system could not hand over",
            self.accepts_failed.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that were not served, by reason",
            self.connections_refused.clone(),
        );
        registry.register(
            "requests_limited",
            "Requests that were refused because of their source's rate",
            self.requests_limited.clone(),
        );
        registry.register(
            "forwarded_unreadable",
            "Requests of which a trusted proxy doesn't say readably who sent them",
            self.forwarded_unreadable.clone(),
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
