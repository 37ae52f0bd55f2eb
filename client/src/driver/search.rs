//! The search for a node: when it starts, how long it pauses, and which nodes it avoids. At most one runs.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chappe_common::keys::NodeId;
use chappe_discovery::{BackgroundSearch, Discovery, SearchOutcome, SearchSummary, cache::Purpose};
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use rand::RngExt as _;

use crate::nodes_in_use::{NodeClaim, NodesInUse};

/// The shortest time between two searches without backoff. A node that accepts a client and drops it must not keep the
/// client reconnecting in a loop.
const IMMEDIATE_EVERY: Duration = Duration::from_secs(5);
/// The pauses after searches that find no node: long enough not to burden an overloaded network.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A search without backoff starts within this time, at random.
const FIRST_JITTER: Duration = Duration::from_millis(300);
/// The most nodes that a search avoids.
const MAX_AVOID: usize = 8;
/// After this many nodes in a row that did not attach the inboxes, [`Search::has_failed_repeatedly`] returns true. The
/// cause may be on this side, such as a clock that is ahead. The search continues.
const MAX_UNATTACHED: u32 = 3;

pub(crate) struct SearchConfig {
    pub(crate) discovery: Discovery,
    /// Nodes to which any other is preferred at first.
    pub(crate) avoid: Vec<NodeId>,
    /// Those of pairing codes are avoided, too.
    pub(crate) nodes_in_use: NodesInUse,
    /// Whether referrals may name nodes in private networks.
    pub(crate) private: bool,
}

/// What a search has come to.
pub(super) enum SearchEvent {
    Finished(Box<Finished>),
    /// The background phase has ended: other sources have confirmed the node or not.
    Checked {
        node: NodeId,
        summary: SearchSummary,
    },
}

/// A search that is over.
pub(super) struct Finished {
    pub(super) outcome: SearchOutcome,
    /// The nodes of pairing codes that were known when the search began. It avoided them, so they may be used if found.
    pub(super) accepted: Vec<NodeId>,
}

pub(super) struct Search {
    config: SearchConfig,
    connecting: Option<BoxFuture<'static, Finished>>,
    background: Option<BoxFuture<'static, (NodeId, SearchSummary)>>,
    /// The pauses between searches after sessions that were lost.
    backoff: ExponentialBackoff,
    /// The pauses between searches that find no node.
    retry: ExponentialBackoff,
    /// When a search last started without backoff.
    immediate_at: Option<Instant>,
    /// How many nodes in a row did not attach the inboxes.
    unattached: u32,
}

/// From 250 ms to 30 s, with jitter, so that the clients of a failed node don't all reach the next one together.
fn backoff() -> ExponentialBackoff {
    exponential(Duration::from_millis(250), Duration::from_secs(30))
}

fn retry() -> ExponentialBackoff {
    exponential(FIRST_RETRY, LONGEST_RETRY)
}

fn exponential(first: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Search {
    pub(super) fn new(config: SearchConfig) -> Self {
        Self {
            config,
            connecting: None,
            background: None,
            backoff: backoff(),
            retry: retry(),
            immediate_at: None,
            unattached: 0,
        }
    }

    pub(super) const fn discovery(&self) -> &Discovery {
        &self.config.discovery
    }

    /// Claims the node that a search has found, or returns `None` if a code was registered there meanwhile.
    pub(super) fn claim(&self, node: NodeId, accepted: &[NodeId]) -> Option<NodeClaim> {
        self.config.nodes_in_use.claim(node, Purpose::Inboxes, accepted)
    }

    pub(super) const fn accepts_private(&self) -> bool {
        self.config.private
    }

    /// Starts a search, unless one is running.
    pub(super) fn start(&mut self, now: Instant) {
        if self.connecting.is_some() {
            return;
        }
        let immediate = self.immediate_at.is_none_or(|at| now.saturating_duration_since(at) >= IMMEDIATE_EVERY);
        let pause = if immediate {
            self.immediate_at = Some(now);
            // A node that fails drops all its clients at once; they must not return at once.
            FIRST_JITTER.mul_f64(rand::rng().random_range(0.0..1.0))
        } else {
            self.backoff.next().unwrap_or_default()
        };
        self.start_after(pause);
    }

    /// Starts a search after one that found no node. Returns the pause before it.
    pub(super) fn start_retry(&mut self) -> Duration {
        let pause = self.retry.next().unwrap_or_default().min(LONGEST_RETRY);
        self.start_after(pause);
        pause
    }

    fn start_after(&mut self, pause: Duration) {
        let SearchConfig { discovery, avoid, nodes_in_use, .. } = &self.config;
        let (discovery, mut avoid, nodes_in_use) = (discovery.clone(), avoid.clone(), nodes_in_use.clone());
        let search = async move {
            tokio::time::sleep(pause).await;
            let accepted = nodes_in_use.to_avoid(Purpose::Inboxes);
            avoid.extend(&accepted);
            Finished { outcome: discovery.search(&avoid).await, accepted }
        };
        self.connecting = Some(search.boxed());
    }

    /// Stops both phases of a search. One that is no longer polled could hold the lock of the cache's file.
    pub(super) fn stop(&mut self) {
        self.connecting = None;
        self.background = None;
    }

    /// Continues the search for `node` in the background, to confirm it by other sources.
    pub(super) fn handle_found(&mut self, node: NodeId, background: BackgroundSearch) {
        self.retry = retry();
        self.background = Some(background.finish().map(move |summary| (node, summary)).boxed());
    }

    /// Waits for the running search or the background phase of the last one. Never resolves without them.
    pub(super) async fn next(&mut self) -> SearchEvent {
        tokio::select! {
            biased;
            finished = finished_or_never(&mut self.connecting) => {
                self.connecting = None;
                SearchEvent::Finished(Box::new(finished))
            }
            (node, summary) = finished_or_never(&mut self.background) => {
                self.background = None;
                SearchEvent::Checked { node, summary }
            }
        }
    }

    pub(super) fn avoid(&mut self, node: NodeId) {
        let avoid = &mut self.config.avoid;
        avoid.retain(|known| *known != node);
        avoid.push(node);
        if avoid.len() > MAX_AVOID {
            avoid.remove(0);
        }
    }

    /// A session is ready: the failures before it no longer count.
    pub(super) fn handle_ready(&mut self) {
        self.unattached = 0;
        self.config.avoid.clear();
    }

    /// A node did not attach the inboxes.
    pub(super) const fn handle_unattached(&mut self) {
        self.unattached = self.unattached.saturating_add(1);
    }

    /// Whether [`MAX_UNATTACHED`] nodes in a row did not attach the inboxes.
    pub(super) const fn has_failed_repeatedly(&self) -> bool {
        self.unattached >= MAX_UNATTACHED
    }

    /// Whether [`Self::has_failed_repeatedly`] will hold if the current node does not attach the inboxes either.
    pub(super) const fn is_last_attempt(&self) -> bool {
        self.unattached + 1 >= MAX_UNATTACHED
    }
}

async fn finished_or_never<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => future::pending().await,
    }
}
