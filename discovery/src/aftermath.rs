//! What is left of a search when a node is found: the sources that have not answered, and a second opinion.

use chappe_common::keys::NodeId;
use futures_util::StreamExt as _;
use tokio::time::{sleep_until, timeout_at};

use crate::{
    dial::dial,
    discover::Search,
    race::confirm::{self, CONFIRM_TIMEOUT, Confirmation, Proven},
    report::{SourceOutcome, SourceReport},
    source::Candidate,
};

/// How many second nodes are dialled at once.
const AT_ONCE: usize = 2;

/// The rest of a search. Dropped, it ends; the cache then knows what was heard until then.
#[derive(Debug)]
pub struct Rest {
    search: Search,
    first: Candidate,
    node: NodeId,
}

/// What the rest of a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aftermath {
    /// Whether another source bears the choice out.
    pub confirmation: Confirmation,
    /// All sources, with those that answered late.
    pub sources: Vec<SourceReport>,
}

impl Rest {
    pub(crate) const fn new(search: Search, first: Candidate, node: NodeId) -> Self {
        Self { search, first, node }
    }

    /// Hears the sources that have been asked, asks the others where nothing fresh is known or nobody else could
    /// confirm the choice, and has a second node prove its key. Takes [`CONFIRM_TIMEOUT`] since the search began at most.
    pub async fn finish(mut self) -> Aftermath {
        let deadline = self.search.began + CONFIRM_TIMEOUT;
        self.search.discovery.cache.flush().await;
        self.hear(deadline).await;
        let fresh = self.search.discovery.cache.is_fresh((self.search.discovery.clock)());
        if !fresh || self.seconds().is_empty() {
            for index in 0..self.search.sources.len() {
                if self.search.report.sources[index].outcome == SourceOutcome::NotAsked {
                    self.search.list(index);
                }
            }
            self.hear(deadline).await;
        }
        let seconds = self.seconds();
        let dialled = seconds.len();
        let second = self.second(seconds, deadline).await;
        self.search.discovery.cache.flush().await;
        let first = Proven { node: self.node, via: confirm::via(&self.first) };
        let named = self.search.race.named();
        let confirmation = confirm::judge(first, second, dialled, named, self.search.equivocations);
        Aftermath { confirmation, sources: self.search.report.sources }
    }

    async fn hear(&mut self, deadline: tokio::time::Instant) {
        while let Ok(Some(step)) = timeout_at(deadline, self.search.steps.next()).await {
            self.search.take(step).await;
        }
    }

    fn seconds(&self) -> Vec<Candidate> {
        let (all, named) = (self.search.all.iter().cloned(), self.search.race.named());
        confirm::seconds(&self.first, self.node, all, named, &mut rand::rng())
    }

    async fn second(&self, seconds: Vec<Candidate>, deadline: tokio::time::Instant) -> Option<Proven> {
        let discovery = &self.search.discovery;
        let dialling = futures_util::stream::iter(seconds)
            .map(|candidate| async move {
                let dialled = dial(&candidate, &discovery.net, || {}).await;
                (candidate, dialled)
            })
            .buffer_unordered(AT_ONCE);
        tokio::pin!(dialling);
        loop {
            let (candidate, dialled) = tokio::select! {
                biased;
                () = sleep_until(deadline) => return None,
                next = dialling.next() => next?,
            };
            let now = (discovery.clock)();
            match dialled {
                Ok(connection) => {
                    let node = connection.node();
                    discovery.cache.proved(node, &candidate, now);
                    connection.close().await;
                    // The word of another source than the first one's is what makes it a second opinion.
                    let named = self.search.race.named().get(&node).map(|word| word.ever).unwrap_or_default();
                    let first = confirm::via(&self.first);
                    let via = named.union(candidate.origins).iter().find(|origin| *origin != first);
                    return Some(Proven { node, via: via.unwrap_or(candidate.source) });
                }
                Err(_) => discovery.cache.failed(&candidate, now),
            }
        }
    }
}
