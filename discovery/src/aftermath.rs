//! What is left of a search when a node is found: the sources that have not answered, and a second opinion.

use chappe_common::keys::NodeId;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    dial::dial,
    discover::{Discovery, Search},
    race::confirm::{self, CONFIRM_TIMEOUT, Confirmation, Named, Proven},
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
        let first = Proven { node: self.node, via: confirm::via(&self.first) };
        let named = self.search.race.named().clone();
        let discovery = self.search.discovery.clone();
        let second = second(&discovery, seconds, first, &named, deadline).await;
        self.search.discovery.cache.flush().await;
        let confirmation = confirm::judge(first, second, dialled, &named, self.search.equivocations);
        Aftermath { confirmation, sources: self.search.report.sources }
    }

    async fn hear(&mut self, deadline: Instant) {
        while let Ok(Some(step)) = timeout_at(deadline, self.search.steps.next()).await {
            self.search.take(step).await;
        }
    }

    fn seconds(&self) -> Vec<Candidate> {
        let (all, named) = (self.search.all.iter().cloned(), self.search.race.named());
        confirm::seconds(&self.first, self.node, all, named, &mut rand::rng())
    }
}

/// The first of `seconds` that proves its key.
async fn second(
    discovery: &Discovery,
    seconds: Vec<Candidate>,
    first: Proven,
    named: &Named,
    deadline: Instant,
) -> Option<Proven> {
    let dialling = futures_util::stream::iter(seconds)
        .map(|candidate| async move {
            let dialled = dial(&candidate, &discovery.net, || {}).await;
            (candidate, dialled)
        })
        .buffer_unordered(AT_ONCE);
    tokio::pin!(dialling);
    loop {
        let (candidate, dialled) = timeout_at(deadline, dialling.next()).await.ok()??;
        let now = (discovery.clock)();
        match dialled {
            Ok(connection) => {
                let node = connection.node();
                discovery.cache.proved(node, &candidate, now);
                connection.close().await;
                // The word of another source than the first one's is what makes it a second opinion.
                let ever = named.get(&node).map(|word| word.ever).unwrap_or_default();
                let via = ever.union(candidate.origins).iter().find(|origin| *origin != first.via);
                return Some(Proven { node, via: via.unwrap_or(candidate.source) });
            }
            Err(_) => discovery.cache.failed(&candidate, now),
        }
    }
}
