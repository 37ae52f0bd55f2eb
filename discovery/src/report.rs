//! What a search came to: what was tried, how long each took, and why it led to nothing where it did.

use std::{fmt, time::Duration};

use chappe_common::keys::NodeId;

use crate::{
    dial::DialError,
    source::{SourceError, SourceKind},
};

/// What came of asking a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOutcome {
    /// It was not its turn.
    NotAsked,
    /// It had not answered when the search ended.
    NoAnswer,
    /// It named so many candidates.
    Listed(usize),
    /// It named nobody.
    Failed(SourceError),
}

/// A source in a search. Points in time are durations since the search began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Which it is.
    pub kind: SourceKind,
    /// Which of several of its kind: a host.
    pub label: Option<String>,
    /// When it was asked.
    pub asked_at: Option<Duration>,
    /// When it had answered.
    pub answered_at: Option<Duration>,
    /// What came of it.
    pub outcome: SourceOutcome,
}

/// What came of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialOutcome {
    /// It was under way when the search ended.
    Unfinished,
    /// It was too slow, and others waited.
    Abandoned,
    /// No connection, or no proof.
    Failed(DialError),
    /// The node has proved its key.
    Proved,
}

/// A dial in a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialReport {
    /// The URL.
    pub url: String,
    /// The node that was expected there; none where a person named a URL alone.
    pub node: Option<NodeId>,
    /// Who named it.
    pub source: SourceKind,
    /// When it began.
    pub began_at: Duration,
    /// When it ended.
    pub ended_at: Option<Duration>,
    /// What came of it.
    pub outcome: DialOutcome,
}

/// A search, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All sources.
    pub sources: Vec<SourceReport>,
    /// All dials, in the order in which they began.
    pub dials: Vec<DialReport>,
    /// How long it took until the first node had proved its key, or until the search was given up.
    pub took: Duration,
}

/// What went wrong with one source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CauseError {
    /// It named nobody.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// It named nodes, and none of those that were dialled is connected; this is what the last of them said.
    #[error("{tried} of its nodes tried, none connected; the last: {last}")]
    Dials {
        /// How many dials failed.
        tried: usize,
        /// Why the last one failed.
        last: DialError,
    },
    /// It named nodes, and the time was over before one of them was dialled to the end.
    #[error("its nodes did not answer in time")]
    OutOfTime,
}

/// A source and what went wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The source.
    pub source: SourceKind,
    /// Which of several of its kind: a host.
    pub label: Option<String>,
    /// What went wrong.
    pub error: CauseError,
}

/// No node is connected. Nothing has changed; worth another try with growing pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverError {
    /// One for each source; none where there is no source.
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
    /// Why no node was found: a cause for each source.
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
