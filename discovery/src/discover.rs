//! The search: all sources at once, a few dials at once, and the first node that proves its key wins.

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    time::UnixTime,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::seq::SliceRandom as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    cache::Cache,
    connection::Connection,
    dial::{DialError, dial},
    link::{Link, Links},
    manual::{Manual, ManualNode},
    registry::{Registry, RegistryError},
    source::{Candidate, Listing, Source, SourceError, SourceKind},
};

/// How long a search may take; after that people take it for broken.
pub const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How many dials run at once: enough that a few dead nodes don't hold up the search, few enough for a phone.
const MAX_DIALS: usize = 4;

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
    /// What went wrong.
    pub error: CauseError,
}

/// No node is connected. Nothing has changed; worth another try with growing pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverError {
    /// One for each source; none where there is no source.
    pub causes: Vec<Cause>,
}

impl fmt::Display for DiscoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node found")?;
        for (i, cause) in self.causes.iter().enumerate() {
            write!(f, "{} {}: {}", if i == 0 { ":" } else { ";" }, cause.source, cause.error)?;
        }
        if self.causes.is_empty() {
            f.write_str(": no source is configured")?;
        }
        Ok(())
    }
}

impl std::error::Error for DiscoverError {}

/// Says which sources a search asks.
#[derive(Debug, Default)]
pub struct DiscoveryBuilder {
    roots: Vec<PublicKey>,
    registries: Vec<String>,
    manual: Vec<ManualNode>,
    links: Vec<Link>,
    cache: Option<PathBuf>,
}

impl DiscoveryBuilder {
    /// Asks the registry at these base URLs, and believes directories that rest on these roots.
    #[must_use]
    pub fn registry(
        mut self,
        urls: impl IntoIterator<Item = String>,
        roots: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        self.registries.extend(urls);
        self.roots.extend(roots);
        self
    }

    /// Adds a node that a person named.
    #[must_use]
    pub fn manual(mut self, node: ManualNode) -> Self {
        self.manual.push(node);
        self
    }

    /// Adds the nodes of a link or QR code.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// Remembers nodes in this file; without it they are remembered until the process ends.
    #[must_use]
    pub fn cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// Reads the cache and sets up the sources. Blocks on the disk.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn build(self) -> Result<Discovery, RegistryError> {
        let federation = FederationId::of_roots(&self.roots);
        let cache = Arc::new(match self.cache {
            Some(path) => Cache::open_or_empty(path, federation),
            None => Cache::in_memory(federation),
        });
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        if !self.manual.is_empty() {
            sources.push(Arc::new(Manual::new(self.manual)));
        }
        if !self.links.is_empty() {
            sources.push(Arc::new(Links::new(self.links)));
        }
        if !self.registries.is_empty() {
            sources.push(Arc::new(Registry::new(self.registries, self.roots)?));
            // What the cache holds is what a registry once listed.
            sources.push(cache.clone());
        }
        Ok(Discovery { sources, cache })
    }
}

/// The search for a node that works.
#[derive(Clone)]
pub struct Discovery {
    sources: Vec<Arc<dyn Source>>,
    cache: Arc<Cache>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|source| source.kind())).finish()
    }
}

/// What one of the futures of a search came to.
enum Step {
    Listed(SourceKind, Result<Listing, SourceError>),
    Dialled(SourceKind, Result<Box<Connection>, DialError>),
}

/// What is known of one source in the course of a search.
struct Report {
    source: SourceKind,
    listed: Option<Result<(), SourceError>>,
    dials: Option<(usize, DialError)>,
}

impl Discovery {
    /// A search without any source, to add some to.
    pub fn builder() -> DiscoveryBuilder {
        DiscoveryBuilder::default()
    }

    /// Connects to a node that proves its key: any that a source names, in random order, those in `avoid` only when
    /// no other is left. At most [`SEARCH_TIMEOUT`].
    ///
    /// # Errors
    /// Says for each source why it came to nothing.
    pub async fn connect(&self, avoid: &[NodeId]) -> Result<Connection, DiscoverError> {
        let deadline = Instant::now() + SEARCH_TIMEOUT;
        let mut steps: FuturesUnordered<BoxFuture<'_, Step>> = FuturesUnordered::new();
        let mut reports: Vec<Report> = Vec::new();
        for source in &self.sources {
            reports.push(Report { source: source.kind(), listed: None, dials: None });
            steps.push(self.list(source.as_ref()).boxed());
        }
        let mut pending = Pending::new(avoid);
        while let Ok(Some(step)) = timeout_at(deadline, steps.next()).await {
            match step {
                Step::Listed(kind, listed) => {
                    let report = reports.iter_mut().find(|report| report.source == kind);
                    let listed = listed.map(|listing| pending.add(listing.candidates));
                    report.expect("every source has its report").listed = Some(listed);
                }
                Step::Dialled(_, Ok(connection)) => return Ok(*connection),
                Step::Dialled(kind, Err(error)) => {
                    pending.dialling -= 1;
                    let report = reports.iter_mut().find(|report| report.source == kind);
                    let dials = &mut report.expect("every source has its report").dials;
                    *dials = Some((dials.map_or(1, |(tried, _)| tried + 1), error));
                }
            }
            let unlisted = reports.iter().any(|report| report.listed.is_none());
            while let Some(candidate) = pending.next(unlisted) {
                steps.push(
                    async move {
                        let connection = dial(&candidate).await.map(Box::new);
                        if let Err(error) = &connection {
                            tracing::debug!(source = %candidate.source, %error, "a dial failed");
                        }
                        Step::Dialled(candidate.source, connection)
                    }
                    .boxed(),
                );
            }
        }
        Err(DiscoverError { causes: reports.into_iter().map(cause).collect() })
    }

    /// Asks every source again and remembers what they say, so that the cache stays fresh although a search ends at the
    /// first node that works.
    pub async fn refresh(&self) {
        let mut lists: FuturesUnordered<_> = self.sources.iter().map(|source| self.list(source.as_ref())).collect();
        while lists.next().await.is_some() {}
    }

    /// Some nodes that are remembered, in random order, with a URL of each: to be passed on.
    pub fn remembered(&self) -> Vec<(NodeId, String)> {
        let mut nodes = self.cache.nodes(SystemTime::now().into());
        nodes.shuffle(&mut rand::rng());
        nodes
    }

    async fn list(&self, source: &dyn Source) -> Step {
        let now = UnixTime::from(SystemTime::now());
        let listed = match source.list(now).await {
            Ok(listing) if listing.directory.is_some() => self.cache.remember(listing, now).await,
            listed => listed,
        };
        let listed = listed.and_then(
            |listing| {
                if listing.candidates.is_empty() { Err(SourceError::Empty) } else { Ok(listing) }
            },
        );
        Step::Listed(source.kind(), listed)
    }
}

/// The candidates that are still to be dialled.
struct Pending {
    avoid: HashSet<NodeId>,
    seen: HashSet<(String, Option<NodeId>)>,
    first: Vec<Candidate>,
    last: Vec<Candidate>,
    dialling: usize,
}

impl Pending {
    fn new(avoid: &[NodeId]) -> Self {
        let avoid = avoid.iter().copied().collect();
        Self { avoid, seen: HashSet::new(), first: Vec::new(), last: Vec::new(), dialling: 0 }
    }

    fn add(&mut self, candidates: Vec<Candidate>) {
        for candidate in candidates {
            // The key counts too: an old record must not hide the new node at its address.
            if self.seen.insert((candidate.url.clone(), candidate.node)) {
                let avoided = candidate.node.is_some_and(|node| self.avoid.contains(&node));
                if avoided { &mut self.last } else { &mut self.first }.push(candidate);
            }
        }
        // At random, so that clients spread over the nodes and no source decides who serves whom.
        self.first.shuffle(&mut rand::rng());
        self.last.shuffle(&mut rand::rng());
    }

    /// The next to dial. The avoided ones wait until all sources have answered and all other dials have failed.
    fn next(&mut self, unlisted: bool) -> Option<Candidate> {
        if self.dialling >= MAX_DIALS {
            return None;
        }
        let candidate = match self.first.pop() {
            Some(candidate) => candidate,
            None if unlisted || self.dialling > 0 => return None,
            None => self.last.pop()?,
        };
        self.dialling += 1;
        Some(candidate)
    }
}

fn cause(report: Report) -> Cause {
    let error = match (report.listed, report.dials) {
        (_, Some((tried, last))) => CauseError::Dials { tried, last },
        (Some(Err(error)), None) => error.into(),
        (Some(Ok(())), None) => CauseError::OutOfTime,
        (None, None) => SourceError::Timeout.into(),
    };
    Cause { source: report.source, error }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    fn candidate(n: u8) -> Candidate {
        let node = SecretKey::from_bytes(&[n; 32]).node_id();
        Candidate { url: format!("ws://127.0.0.1:{n}"), node: Some(node), source: SourceKind::Registry }
    }

    #[test]
    fn an_avoided_node_is_dialled_only_when_nothing_else_is_left() {
        let avoided = candidate(1);
        let mut pending = Pending::new(&[avoided.node.expect("a pinned node")]);
        pending.add(vec![avoided.clone(), candidate(2)]);
        assert_eq!(pending.next(false), Some(candidate(2)));
        assert_eq!(pending.next(false), None, "the other dial is still running");
        pending.dialling -= 1;
        assert_eq!(pending.next(true), None, "a source may still name another");
        assert_eq!(pending.next(false), Some(avoided));
    }

    #[test]
    fn four_dials_run_at_once_and_no_url_twice() {
        let mut pending = Pending::new(&[]);
        pending.add((1..=9).map(candidate).collect());
        pending.add((1..=9).map(candidate).collect());
        let mut urls = HashSet::new();
        for _ in 0..9 {
            if pending.dialling == MAX_DIALS {
                assert_eq!(pending.next(false), None);
                pending.dialling -= 1;
            }
            urls.insert(pending.next(false).expect("one is left").url);
        }
        assert_eq!(urls.len(), 9);
        pending.dialling = 0;
        assert_eq!(pending.next(false), None);
    }

    #[tokio::test]
    async fn a_failed_search_says_why_for_each_source() {
        // Port 9 of loopback: nothing listens there.
        let discovery = Discovery::builder()
            .registry(["http://127.0.0.1:9".to_owned()], [])
            .manual("ws://127.0.0.1:9".parse().expect("an address"))
            .build()
            .expect("a client");
        let error = discovery.connect(&[]).await.expect_err("nobody is there");
        assert_eq!(
            error.to_string(),
            "no node found: manual entry: 1 of its nodes tried, none connected; the last: cannot be reached; \
             registry: cannot be reached; cache: knows no node"
        );
        assert_eq!(DiscoverError::default().to_string(), "no node found: no source is configured");
    }
}
