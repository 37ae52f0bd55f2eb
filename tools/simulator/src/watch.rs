//! Observations of all views: who declares whom down, and when each node knows a fact.

use std::time::Duration;

use chappe_common::keys::NodeId;
use chappe_node::membership::Engine;

use super::{node::Ix, time::Time};

/// A fact that a node may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A member isn't up.
    Gone(NodeId),
    /// A member is up.
    There(NodeId),
    /// So many others are up.
    Others(usize),
}

impl Fact {
    fn is_known_by(self, engine: &Engine) -> bool {
        match self {
            Self::Gone(node) => !engine.is_up(&node),
            Self::There(node) => engine.is_up(&node),
            Self::Others(count) => engine.len() >= count,
        }
    }
}

/// A member that was there and reachable was taken for down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unjust {
    /// When.
    pub at: Time,
    /// By whom.
    pub observer: Ix,
    /// Who.
    pub subject: Ix,
}

#[derive(Debug)]
struct Question {
    fact: Fact,
    since: Time,
    /// When each node first knew.
    known: Vec<Option<Time>>,
}

/// What has been seen.
#[derive(Debug, Default)]
pub(super) struct Watch {
    questions: Vec<Question>,
    /// Members that were taken for down, rightly or not.
    pub(super) lost: u64,
    pub(super) unjust: Vec<Unjust>,
    /// Honest members of which a run was ended that had not ended.
    pub(super) ended: u64,
}

impl Watch {
    /// Watches for a fact; its number.
    pub(super) fn ask(&mut self, fact: Fact, since: Time) -> usize {
        self.questions.push(Question { fact, since, known: Vec::new() });
        self.questions.len() - 1
    }

    /// A node's view has changed.
    pub(super) fn look(&mut self, node: Ix, engine: &Engine, now: Time) {
        for question in &mut self.questions {
            if question.known.len() <= node.index() {
                question.known.resize(node.index() + 1, None);
            }
            let known = &mut question.known[node.index()];
            if known.is_none() && question.fact.is_known_by(engine) {
                *known = Some(now);
            }
        }
    }

    /// After how long each of these nodes knew; none: it doesn't yet. From the first to the last.
    pub(super) fn answers(&self, number: usize, nodes: impl Iterator<Item = Ix>) -> Vec<Option<Duration>> {
        let question = &self.questions[number];
        let known = |node: Ix| question.known.get(node.index()).copied().flatten().map(|at| at - question.since);
        let mut answers: Vec<_> = nodes.map(known).collect();
        answers.sort_by_key(|answer| answer.unwrap_or(Duration::MAX));
        answers
    }

    /// Nothing is watched for any more.
    pub(super) fn clear(&mut self) {
        self.questions.clear();
    }
}
