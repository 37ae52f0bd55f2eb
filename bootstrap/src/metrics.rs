//! What the registry counts. Labels are reasons from fixed lists; no key, address or URL is one.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

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
    /// Nodes in the directory.
    pub(crate) listed: Gauge,
    /// Directories that were signed.
    pub(crate) directories_signed: Counter,
    /// Commits that the store refused.
    pub(crate) failed_commits: Counter,
    /// Connections that were served.
    pub(crate) connections_opened: Counter,
    /// Connections that have ended.
    pub(crate) connections_closed: Counter,
    /// Connections that were not served, by reason.
    pub(crate) connections_refused: Family<ConnectionLabel, Counter>,
    /// Requests that were refused because of their source's rate.
    pub(crate) requests_limited: Counter,
    /// Requests that took too long.
    pub(crate) requests_timed_out: Counter,
}

impl Metrics {
    /// All counters in the Prometheus text format.
    pub(crate) fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("chappe_bootstrap");
        registry.register("records", "Records that were sent, by outcome", self.records.clone());
        registry.register("leaves", "Leaves that were sent, by outcome", self.leaves.clone());
        registry.register("dials", "Nodes that were dialled back, by outcome", self.dials.clone());
        registry.register("listed_nodes", "Nodes in the directory", self.listed.clone());
        registry.register("directories_signed", "Directories that were signed", self.directories_signed.clone());
        registry.register("failed_commits", "Commits that the store refused", self.failed_commits.clone());
        registry.register("connections_opened", "Connections that were served", self.connections_opened.clone());
        registry.register("connections_closed", "Connections that have ended", self.connections_closed.clone());
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
        registry.register("requests_timed_out", "Requests that took too long", self.requests_timed_out.clone());
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}
