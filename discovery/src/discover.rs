//! The search for a node: the public interface.

use std::{fmt, sync::Arc};

use chappe_common::{federation::FederationId, keys::NodeId};
use futures_util::StreamExt as _;
use rand::seq::SliceRandom as _;
use tracing::Instrument as _;

use crate::{
    background_search::BackgroundSearch,
    cache::{Cache, Purpose},
    connection::Connection,
    proxy::Proxies,
    referral::Referrals,
    report::{DiscoverError, Report, SourceReport},
    search::{Search, SearchContext},
    source::{Source, SourceKind},
};

mod builder;

pub use self::builder::DiscoveryBuilder;

/// Searches for nodes. Clones share the cache and the referrals.
#[derive(Clone)]
pub struct Discovery {
    sources: Vec<Arc<dyn Source>>,
    referrals: Referrals,
    context: SearchContext,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|source| source.kind())).finish()
    }
}

/// A node that has proved its key, and how it was found.
#[derive(Debug)]
pub struct FoundNode {
    /// The connection to the node.
    pub connection: Connection,
    /// The source that named the node.
    pub via: SourceKind,
    /// The rest of the search: finish it in the background, or drop it.
    pub background: BackgroundSearch,
}

/// The result of a search.
#[derive(Debug)]
pub struct SearchOutcome {
    /// What was tried.
    pub report: Report,
    /// The node, or why none was found.
    pub found: Result<FoundNode, DiscoverError>,
}

impl Discovery {
    /// Starts a builder without any source.
    pub fn builder() -> DiscoveryBuilder {
        DiscoveryBuilder::default()
    }

    /// Connects to a node that proves its key, and drops the rest of the search. Nodes in `avoid` are used only if no
    /// other is left. Takes at most ten seconds.
    ///
    /// # Errors
    /// No node was found: a cause for each source.
    pub async fn connect(&self, avoid: &[NodeId]) -> Result<Connection, DiscoverError> {
        let found = self.search(avoid).await.found;
        self.context.cache.flush().await;
        found.map(|found| found.connection)
    }

    /// As [`Discovery::connect`], but also returns the report and the rest of the search.
    pub async fn search(&self, avoid: &[NodeId]) -> SearchOutcome {
        let mut search = self.start(avoid);
        let span = search.span.clone();
        let connection = search.run().instrument(span).await;
        let report = search.report.clone();
        let found = match connection {
            Some((connection, candidate)) => {
                let via = candidate.source;
                let background = BackgroundSearch::new(search, candidate, connection.node());
                Ok(FoundNode { connection, via, background })
            }
            None => {
                self.context.cache.flush().await;
                Err(report.error())
            }
        };
        SearchOutcome { report, found }
    }

    /// Queries every source once, without dialling, and returns their results: for diagnosis.
    pub async fn ask_all(&self) -> Vec<SourceReport> {
        let mut search = self.start(&[]);
        for index in 0..search.sources.len() {
            search.query_source(index);
        }
        let span = search.span.clone();
        let finish = async {
            while let Some(step) = search.steps.next().await {
                search.handle_step(step).await;
            }
        };
        finish.instrument(span).await;
        search.context.cache.flush().await;
        search.report.sources
    }

    /// The recently proven nodes in random order, each with one URL, to be passed on to others.
    pub fn remembered(&self) -> Vec<(NodeId, String)> {
        let mut nodes = self.context.cache.nodes((self.context.clock)());
        nodes.shuffle(&mut rand::rng());
        nodes
    }

    /// Records in memory that the client begins or ends to use a node. The end of the next search stores it.
    pub fn record_use(&self, node: NodeId, purpose: Purpose) {
        self.context.cache.record_use(node, purpose, (self.context.clock)());
    }

    /// The nodes that the client has used within a day, also in an earlier process with the same cache.
    pub fn recently_used(&self, purpose: Purpose) -> Vec<NodeId> {
        self.context.cache.recently_used(purpose, (self.context.clock)())
    }

    /// The nodes that contacts have passed on.
    pub const fn referrals(&self) -> &Referrals {
        &self.referrals
    }

    /// The federation whose lists are accepted, or `None` without a pinned root.
    pub fn federation(&self) -> Option<FederationId> {
        let roots = self.context.trust.roots();
        (!roots.is_empty()).then(|| roots.federation())
    }

    /// The proxies of outgoing connections.
    pub const fn proxies(&self) -> &Proxies {
        self.context.net.proxies()
    }

    /// How connections are made: resolver, TLS and proxies.
    pub fn net(&self) -> &crate::net::Net {
        &self.context.net
    }

    /// The node cache.
    pub fn cache(&self) -> &Cache {
        &self.context.cache
    }

    fn start(&self, avoid: &[NodeId]) -> Search {
        let is_asked = |source: &&Arc<dyn Source>| match source.kind() {
            // The built-in directory is only for the first start.
            SourceKind::Snapshot => self.context.cache.is_empty(),
            // An empty list of referrals would be reported as a failed source.
            SourceKind::Referral => !self.referrals.is_empty(),
            _ => true,
        };
        let sources = self.sources.iter().filter(is_asked).cloned().collect();
        Search::new(self.context.clone(), sources, avoid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_search_for_nodes_with_tls_alone_dials_no_other() {
        let discovery = Discovery::builder().wss_only().manual("ws://192.0.2.1:9".parse().expect("an address")).build();
        let outcome = discovery.expect("a client").search(&[]).await;
        assert!(outcome.report.dials.is_empty());
        assert!(outcome.found.expect_err("nobody").to_string().contains("names no node with TLS"));
    }

    #[tokio::test]
    async fn a_failed_search_says_why_for_each_source() {
        // Nothing listens on port 9 of loopback.
        let root = chappe_common::keys::SecretKey::from_bytes(&[1; 32]).public();
        let discovery = Discovery::builder()
            .registry(["http://127.0.0.1:9"], [root])
            .manual("ws://127.0.0.1:9".parse().expect("an address"))
            .build()
            .expect("a client");
        let error = discovery.connect(&[]).await.expect_err("nobody is there");
        assert_eq!(
            error.to_string(),
            "no node found: manual entry: 1 of its nodes tried, none connected; the last: connection refused; \
             registry: connection refused; cache: knows no node"
        );
        assert_eq!(DiscoverError::default().to_string(), "no node found: no source is configured");
    }
}
