//! The search for a node that works, as its user has it.

use std::{fmt, sync::Arc};

use chappe_common::{federation::FederationId, keys::NodeId};
use futures_util::StreamExt as _;
use rand::seq::SliceRandom as _;

use crate::{
    background_search::BackgroundSearch,
    cache::Cache,
    connection::Connection,
    proxy::Proxies,
    referral::Referrals,
    report::{DiscoverError, Report, SourceReport},
    search::{Search, SearchContext},
    source::{Source, SourceKind},
};

mod builder;

pub use self::builder::DiscoveryBuilder;

/// The search for a node that works. Clones share the cache and the referrals.
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
pub struct Found {
    /// The connection to it.
    pub connection: Connection,
    /// Who named it.
    pub via: SourceKind,
    /// The remainder of the search, to be finished in the background or dropped.
    pub background: BackgroundSearch,
}

/// A search that is over.
#[derive(Debug)]
pub struct Outcome {
    /// What was tried.
    pub report: Report,
    /// What came of it.
    pub found: Result<Found, DiscoverError>,
}

impl Discovery {
    /// A search without any source, to add some to.
    pub fn builder() -> DiscoveryBuilder {
        DiscoveryBuilder::default()
    }

    /// Connects to a node that proves its key, and drops what is left of the search. Those in `avoid` are taken only when
    /// no other is left. Ten seconds at most.
    ///
    /// # Errors
    /// Says for each source why it came to nothing.
    pub async fn connect(&self, avoid: &[NodeId]) -> Result<Connection, DiscoverError> {
        let found = self.search(avoid).await.found;
        self.context.cache.flush().await;
        found.map(|found| found.connection)
    }

    /// The same, with everything that was tried, and what is left of the search.
    pub async fn search(&self, avoid: &[NodeId]) -> Outcome {
        let mut search = self.start(avoid);
        let connection = search.run().await;
        let report = search.report.clone();
        let found = match connection {
            Some((connection, candidate)) => {
                let via = candidate.source;
                let background = BackgroundSearch::new(search, candidate, connection.node());
                Ok(Found { connection, via, background })
            }
            None => {
                self.context.cache.flush().await;
                Err(report.error())
            }
        };
        Outcome { report, found }
    }

    /// Asks every source once, dials nobody, and says what each said: for finding out what is wrong.
    pub async fn ask_all(&self) -> Vec<SourceReport> {
        let mut search = self.start(&[]);
        for index in 0..search.sources.len() {
            search.list(index);
        }
        while let Some(step) = search.steps.next().await {
            search.take(step).await;
        }
        search.context.cache.flush().await;
        search.report.sources
    }

    /// Some nodes that are remembered, in random order, with a URL of each: to be passed on.
    pub fn remembered(&self) -> Vec<(NodeId, String)> {
        let mut nodes = self.context.cache.nodes((self.context.clock)());
        nodes.shuffle(&mut rand::rng());
        nodes
    }

    /// The list of nodes that contacts passed on.
    pub const fn referrals(&self) -> &Referrals {
        &self.referrals
    }

    /// The federation whose lists are believed; `None` without a pinned root.
    pub fn federation(&self) -> Option<FederationId> {
        (!self.context.roots.is_empty()).then(|| FederationId::of_roots(&self.context.roots))
    }

    /// The proxies through which others are reached.
    pub const fn proxies(&self) -> &Proxies {
        self.context.net.proxies()
    }

    /// What is remembered.
    pub fn cache(&self) -> &Cache {
        &self.context.cache
    }

    fn start(&self, avoid: &[NodeId]) -> Search {
        let is_asked = |source: &&Arc<dyn Source>| match source.kind() {
            // The directory that was built in is for a first start.
            SourceKind::Snapshot => self.context.cache.is_empty(),
            // Without referrals it would be reported as a source that knows nobody.
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
        // Port 9 of loopback: nothing listens there.
        let root = chappe_common::keys::SecretKey::from_bytes(&[1; 32]).public();
        let discovery = Discovery::builder()
            .registry(["http://127.0.0.1:9"], [root])
            .manual("ws://127.0.0.1:9".parse().expect("an address"))
            .build()
            .expect("a client");
        let error = discovery.connect(&[]).await.expect_err("nobody is there");
        assert_eq!(
            error.to_string(),
            "no node found: manual entry: 1 of its nodes tried, none connected; the last: the connection is refused; \
             registry: the connection is refused; cache: knows no node"
        );
        assert_eq!(DiscoverError::default().to_string(), "no node found: no source is configured");
    }
}
