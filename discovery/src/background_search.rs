//! The rest of a search after a node is found: sources that have not answered yet, and confirmation by a second node.

use chappe_common::{keys::NodeId, root_statements::ListOrigin};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::{
    dial::dial,
    names::Scope,
    race::confirm::{self, CONFIRM_TIMEOUT, Confirmation, Endorsements, Proven},
    report::{SourceOutcome, SourceReport},
    search::{Search, SearchContext},
    source::Candidate,
    trust,
};

/// How many nodes are dialled concurrently for confirmation.
const MAX_CONCURRENT_DIALS: usize = 2;

/// The rest of a search. Dropping it stops it; what it has learned by then stays in the cache.
#[derive(Debug)]
pub struct BackgroundSearch {
    search: Search,
    first: Candidate,
    node: NodeId,
}

/// The result of a [`BackgroundSearch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchSummary {
    /// Whether a second node confirms the choice.
    pub confirmation: Confirmation,
    /// All sources, including those that answered late.
    pub sources: Vec<SourceReport>,
}

impl BackgroundSearch {
    pub(crate) const fn new(search: Search, first: Candidate, node: NodeId) -> Self {
        Self { search, first, node }
    }

    /// Waits for the sources that were queried, and dials other nodes until one of them confirms the choice. Queries
    /// the remaining sources if no recent list is known, or if no other node could confirm. Ends at most
    /// [`CONFIRM_TIMEOUT`] after the start of the search.
    pub async fn finish(self) -> SearchSummary {
        let span = self.search.span.clone();
        self.run().instrument(span).await
    }

    async fn run(mut self) -> SearchSummary {
        let deadline = self.search.began + CONFIRM_TIMEOUT;
        let context = self.search.context.clone();
        let url = self.first.url.clone();
        context.cache.flush().await;
        tokio::join!(self.handle_remaining_steps(deadline), fetch_statements(&context, &url));
        let first = Proven { node: self.node, via: confirm::source_of(&self.first) };
        let mut dialled = Vec::new();
        let mut second = None;
        if context.cache.is_fresh((context.clock)()) {
            second = self.prove_second_node(first, &mut dialled, deadline).await;
        }
        if second.is_none() && self.query_unasked_sources() {
            self.handle_remaining_steps(deadline).await;
        }
        if second.is_none() {
            second = self.prove_second_node(first, &mut dialled, deadline).await;
        }
        context.cache.flush().await;
        let endorsements = self.search.race.endorsements();
        let confirmation = confirm::evaluate(first, second, dialled.len(), endorsements, self.search.equivocations);
        SearchSummary { confirmation, sources: self.search.report.sources }
    }

    /// Queries the sources that were not queried yet. Returns whether there are any.
    fn query_unasked_sources(&mut self) -> bool {
        let of_report = self.search.report.sources.iter().enumerate();
        let others = of_report.filter(|(_, source)| source.outcome == SourceOutcome::NotAsked);
        let others: Vec<_> = others.map(|(index, _)| index).collect();
        others.iter().for_each(|index| self.search.query_source(*index));
        !others.is_empty()
    }

    async fn prove_second_node(
        &mut self,
        first: Proven,
        dialled: &mut Vec<String>,
        deadline: Instant,
    ) -> Option<Proven> {
        let endorsements = self.search.race.endorsements().clone();
        let fresh = self.search.candidates.iter().filter(|candidate| !dialled.contains(&candidate.url)).cloned();
        let seconds = confirm::confirming_candidates(&self.first, self.node, fresh, &endorsements, &mut rand::rng());
        dialled.extend(seconds.iter().map(|candidate| candidate.url.clone()));
        let context = self.search.context.clone();
        first_proven(&context, seconds, first, &endorsements, deadline).await
    }

    async fn handle_remaining_steps(&mut self, deadline: Instant) {
        while let Ok(Some(step)) = timeout_at(deadline, self.search.steps.next()).await {
            self.search.handle_step(step).await;
        }
    }
}

/// Asks the found node for the roots' statements, because a thief of an online key may control the registry as well. The
/// request goes to the URL that was just dialled, so it reaches no new host.
async fn fetch_statements(context: &SearchContext, url: &str) {
    if context.trust.roots().is_empty() {
        return;
    }
    match trust::fetch_from_node(url, Scope::Private, &context.net).await {
        Ok(statements) => {
            context.trust.learn(statements, ListOrigin::Peer((context.clock)()));
        }
        Err(error) => tracing::debug!(%error, "cannot fetch the roots' statements from the node"),
    }
}

/// Dials `seconds` until one of them proves its key.
async fn first_proven(
    context: &SearchContext,
    seconds: Vec<Candidate>,
    first: Proven,
    endorsements: &Endorsements,
    deadline: Instant,
) -> Option<Proven> {
    let dialling = futures_util::stream::iter(seconds)
        .map(|candidate| async move {
            context.cache.record_dial(&candidate, (context.clock)());
            let dialled = dial(&candidate, &context.net, || {}).await;
            (candidate, dialled)
        })
        .buffer_unordered(MAX_CONCURRENT_DIALS);
    tokio::pin!(dialling);
    loop {
        let (candidate, dialled) = timeout_at(deadline, dialling.next()).await.ok()??;
        let now = (context.clock)();
        match dialled {
            Ok(connection) => {
                let node = connection.node();
                context.cache.record_proof(node, &candidate, now);
                connection.close().await;
                // Only a source other than the first node's makes this a confirmation.
                let ever = endorsements.get(&node).map(|endorsement| endorsement.ever).unwrap_or_default();
                let via = ever.union(candidate.origins).iter().find(|origin| *origin != first.via);
                return Some(Proven { node, via: via.unwrap_or(candidate.source) });
            }
            Err(_) => context.cache.record_failure(&candidate, now),
        }
    }
}
