//! The report of a search: what was tried, how long each step took, and why it failed.

use std::{fmt, time::Duration};

use chappe_common::keys::NodeId;

use crate::{
    dial::DialError,
    source::{SourceError, SourceKind},
};

/// The result of querying a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOutcome {
    /// It was not queried before the search ended.
    NotAsked,
    /// It had not answered when the search ended.
    NoAnswer,
    /// It named this number of candidates.
    Listed(usize),
    /// It named no node.
    Failed(SourceError),
}

/// A source in a search. Points in time are durations since the search began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// The kind of source.
    pub kind: SourceKind,
    /// A host that distinguishes sources of the same kind.
    pub label: Option<String>,
    /// When it was queried.
    pub asked_at: Option<Duration>,
    /// When it answered.
    pub answered_at: Option<Duration>,
    /// The result.
    pub outcome: SourceOutcome,
}

/// The result of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialOutcome {
    /// It was still running when the search ended.
    Unfinished,
    /// It made no progress while others waited.
    Abandoned,
    /// It failed before or during the proof.
    Failed(DialError),
    /// The node has proved its key.
    Proved,
}

/// A dial in a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialReport {
    /// The URL.
    pub url: String,
    /// The expected node, or `None` for a URL that a person entered without a key.
    pub node: Option<NodeId>,
    /// The source that named it.
    pub source: SourceKind,
    /// When it began.
    pub began_at: Duration,
    /// When it ended.
    pub ended_at: Option<Duration>,
    /// The result.
    pub outcome: DialOutcome,
}

/// The steps of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All sources.
    pub sources: Vec<SourceReport>,
    /// All dials, in the order in which they began.
    pub dials: Vec<DialReport>,
    /// Time until the first node proved its key, or until the search gave up.
    pub took: Duration,
}

/// Why a source has led to no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CauseError {
    /// It named no node.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// It named nodes, and all dials to them failed.
    #[error("{tried} of its nodes tried, none connected; the last: {last}")]
    Dials {
        /// Number of failed dials.
        tried: usize,
        /// Why the last one failed.
        last: DialError,
    },
    /// It named nodes, but time ran out before a dial to one of them ended.
    #[error("its nodes did not answer in time")]
    OutOfTime,
}

/// A source and why it has led to no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The source.
    pub source: SourceKind,
    /// A host that distinguishes sources of the same kind.
    pub label: Option<String>,
    /// The reason.
    pub error: CauseError,
}

/// No node was found. Nothing has changed. Retry with growing delays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverError {
    /// One cause for each source; empty if no source is configured.
    pub causes: Vec<Cause>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if let Some(label) = &self.label {
            write!(f, " ({label})")?;
        }
        write!(f, ": {}", self.error)
    }
}

impl fmt::Display for DiscoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node found")?;
        for (i, cause) in self.causes.iter().enumerate() {
            write!(f, "{} {cause}", if i == 0 { ":" } else { ";" })?;
        }
        if self.causes.is_empty() {
            f.write_str(": no source is configured")?;
        }
        Ok(())
    }
}

impl std::error::Error for DiscoverError {}

impl Report {
    /// Why no node was found, with a cause for each source.
    pub fn error(&self) -> DiscoverError {
        let causes = self.sources.iter().map(|source| Cause {
            source: source.kind,
            label: source.label.clone(),
            error: match &source.outcome {
                SourceOutcome::Failed(error) => error.clone().into(),
                SourceOutcome::NotAsked | SourceOutcome::NoAnswer => SourceError::Timeout.into(),
                SourceOutcome::Listed(_) => self.dials_of(source.kind),
            },
        });
        DiscoverError { causes: causes.collect() }
    }

    fn dials_of(&self, kind: SourceKind) -> CauseError {
        let mut failed = self.dials.iter().filter(|dial| dial.source == kind).filter_map(|dial| match &dial.outcome {
            DialOutcome::Failed(error) => Some(error.clone()),
            DialOutcome::Abandoned => Some(DialError::Timeout),
            DialOutcome::Unfinished | DialOutcome::Proved => None,
        });
        let tried = failed.clone().count();
        failed.next_back().map_or(CauseError::OutOfTime, |last| CauseError::Dials { tried, last })
    }
}
