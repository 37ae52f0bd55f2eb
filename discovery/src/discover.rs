//! The search: does what the race says, with sockets and a clock.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use url::{Host, Url};

use crate::{
    aftermath::Rest,
    builder::{Clock, DiscoveryBuilder},
    cache::{Cache, Equivocation, Learned},
    connection::Connection,
    dial::{DialError, dial},
    net::Net,
    proxy::Proxies,
    race::{Action, DialId, Race},
    referral::Referrals,
    report::{DialOutcome, DialReport, DiscoverError, Report, SourceOutcome, SourceReport},
    source::{Candidate, Listing, Source, SourceError, SourceKind},
};

/// How many steps of dials wait to be looked at; one that doesn't fit makes a dial seem slower than it is.
const STEPS: usize = 64;

/// The search for a node that works. Clones share the cache and the referrals.
#[derive(Clone)]
pub struct Discovery {
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) referrals: Referrals,
    pub(crate) cache: Arc<Cache>,
    pub(crate) net: Net,
    pub(crate) roots: Vec<PublicKey>,
    pub(crate) wss_only: bool,
    pub(crate) clock: Clock,
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
    /// What is left of the search: to be finished in the background, or dropped.
    pub rest: Rest,
}

/// A search that is over.
#[derive(Debug)]
pub struct Outcome {
    /// What was tried.
    pub report: Report,
    /// What came of it.
    pub found: Result<Found, DiscoverError>,
}

/// What one of the futures of a search came to.
pub(crate) enum Step {
    Listed(usize, Result<Listing, SourceError>),
    Dialled(DialId, Result<Box<Connection>, DialError>),
    Aborted,
}

/// A search under way.
pub(crate) struct Search {
    pub(crate) discovery: Discovery,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) race: Race,
    pub(crate) began: Instant,
    pub(crate) steps: FuturesUnordered<BoxFuture<'static, Step>>,
    pub(crate) report: Report,
    /// All who were named, for confirming.
    pub(crate) all: Vec<Candidate>,
    pub(crate) equivocations: Vec<Equivocation>,
    dials: HashMap<DialId, (usize, Candidate, AbortHandle)>,
    progress: (mpsc::Sender<DialId>, mpsc::Receiver<DialId>),
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("race", &self.race).finish_non_exhaustive()
    }
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
        self.cache.flush().await;
        found.map(|found| found.connection)
    }

    /// The same, with everything that was tried, and what is left of the search.
    pub async fn search(&self, avoid: &[NodeId]) -> Outcome {
        let mut search = Search::new(self.clone(), avoid);
        let connection = search.run().await;
        let report = search.report.clone();
        let found = match connection {
            Some((connection, candidate)) => {
                let via = candidate.source;
                let rest = Rest::new(search, candidate, connection.node());
                Ok(Found { connection, via, rest })
            }
            None => {
                self.cache.flush().await;
                Err(report.error())
            }
        };
        Outcome { report, found }
    }

    /// Asks every source once, dials nobody, and says what each said: for finding out what is wrong.
    pub async fn ask_all(&self) -> Vec<SourceReport> {
        let mut search = Search::new(self.clone(), &[]);
        for index in 0..search.sources.len() {
            search.list(index);
        }
        while let Some(step) = search.steps.next().await {
            search.take(step).await;
        }
        search.discovery.cache.flush().await;
        search.report.sources
    }

    /// Some nodes that are remembered, in random order, with a URL of each: to be passed on.
    pub fn remembered(&self) -> Vec<(NodeId, String)> {
        let mut nodes = self.cache.nodes((self.clock)());
        nodes.shuffle(&mut rand::rng());
        nodes
    }

    /// The list of nodes that contacts passed on.
    pub const fn referrals(&self) -> &Referrals {
        &self.referrals
    }

    /// The federation whose lists are believed; `None` without a pinned root.
    pub fn federation(&self) -> Option<FederationId> {
        (!self.roots.is_empty()).then(|| FederationId::of_roots(&self.roots))
    }

    /// The proxies through which others are reached.
    pub const fn proxies(&self) -> &Proxies {
        self.net.proxies()
    }

    /// What is remembered.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }
}

impl Search {
    fn new(discovery: Discovery, avoid: &[NodeId]) -> Self {
        let warm = !discovery.cache.is_empty();
        let wanted = |source: &&Arc<dyn Source>| match source.kind() {
            // What was built in is for a first start.
            SourceKind::Snapshot => !warm,
            // Nobody has passed anything on: no more a source than a link that was never opened.
            SourceKind::Referral => !discovery.referrals.is_empty(),
            _ => true,
        };
        let sources: Vec<_> = discovery.sources.iter().filter(wanted).cloned().collect();
        let rng = StdRng::from_rng(&mut rand::rng());
        let race = Race::new(sources.iter().map(|source| source.kind()), avoid, warm, rng);
        let reports = sources.iter().map(|source| SourceReport {
            kind: source.kind(),
            label: source.label(),
            asked_at: None,
            answered_at: None,
            outcome: SourceOutcome::NotAsked,
        });
        Self {
            report: Report { sources: reports.collect(), ..Report::default() },
            discovery,
            sources,
            race,
            began: Instant::now(),
            steps: FuturesUnordered::new(),
            all: Vec::new(),
            equivocations: Vec::new(),
            dials: HashMap::new(),
            progress: mpsc::channel(STEPS),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn run(&mut self) -> Option<(Connection, Candidate)> {
        loop {
            let mut done = false;
            let now = self.now();
            while let Some(action) = self.race.poll(now) {
                match action {
                    Action::List(index) => self.list(index),
                    Action::Dial(id, candidate) => self.dial(id, candidate),
                    Action::Abandon(id) => self.abandon(id),
                    Action::Done => {
                        done = true;
                        break;
                    }
                }
            }
            if done {
                self.report.took = self.now();
                return None;
            }
            let wake = self.race.next_timeout(now).map(|at| self.began + at);
            tokio::select! {
                biased;
                () = wait_until(wake) => {}
                Some(id) = self.progress.1.recv() => {
                    let now = self.now();
                    self.race.progressed(id, now);
                }
                Some(step) = self.steps.next() => {
                    if let Some(won) = self.take(step).await {
                        self.report.took = self.now();
                        self.end_dials();
                        return Some(won);
                    }
                }
            }
        }
    }

    /// Asks a source.
    pub(crate) fn list(&mut self, index: usize) {
        let (source, now) = (self.sources[index].clone(), (self.discovery.clock)());
        let report = &mut self.report.sources[index];
        report.asked_at = Some(self.began.elapsed());
        report.outcome = SourceOutcome::NoAnswer;
        self.steps.push(async move { Step::Listed(index, source.list(now).await) }.boxed());
    }

    fn dial(&mut self, id: DialId, candidate: Candidate) {
        let (net, progress) = (self.discovery.net.clone(), self.progress.0.clone());
        let at = self.report.dials.len();
        self.report.dials.push(DialReport {
            url: candidate.url.clone(),
            node: candidate.node,
            source: candidate.source,
            began_at: self.began.elapsed(),
            ended_at: None,
            outcome: DialOutcome::Unfinished,
        });
        let target = candidate.clone();
        let (dialling, handle) = abortable(async move {
            // A step that is not noticed makes the dial seem slower than it is, and no more.
            let progressed = move || {
                let _ = progress.try_send(id);
            };
            dial(&target, &net, progressed).await.map(Box::new)
        });
        self.dials.insert(id, (at, candidate, handle));
        self.steps.push(
            dialling.map(move |dialled| dialled.map_or(Step::Aborted, |dialled| Step::Dialled(id, dialled))).boxed(),
        );
    }

    fn abandon(&mut self, id: DialId) {
        if let Some((at, _, handle)) = self.dials.remove(&id) {
            handle.abort();
            self.report.dials[at].ended_at = Some(self.began.elapsed());
            self.report.dials[at].outcome = DialOutcome::Abandoned;
        }
    }

    /// Who has won has won; the others need not go on.
    fn end_dials(&mut self) {
        for (_, _, handle) in self.dials.values() {
            handle.abort();
        }
        self.dials.clear();
    }

    /// Takes note of what a future came to; a connection where it is one.
    pub(crate) async fn take(&mut self, step: Step) -> Option<(Connection, Candidate)> {
        match step {
            Step::Aborted => None,
            Step::Listed(index, listed) => {
                self.listed(index, listed).await;
                None
            }
            Step::Dialled(id, dialled) => {
                let (at, candidate, _) = self.dials.remove(&id)?;
                let now = (self.discovery.clock)();
                let report = &mut self.report.dials[at];
                report.ended_at = Some(self.began.elapsed());
                match dialled {
                    Ok(connection) => {
                        report.outcome = DialOutcome::Proved;
                        self.discovery.cache.proved(connection.node(), &candidate, now);
                        self.race.proved(id);
                        Some((*connection, candidate))
                    }
                    Err(error) => {
                        tracing::debug!(source = %candidate.source, %error, "a dial failed");
                        report.outcome = DialOutcome::Failed(error);
                        self.discovery.cache.failed(&candidate, now);
                        self.race.failed(id);
                        None
                    }
                }
            }
        }
    }

    async fn listed(&mut self, index: usize, listed: Result<Listing, SourceError>) {
        let now = (self.discovery.clock)();
        let learned = match listed {
            Ok(listing) if listing.lists.is_empty() && listing.revocations.is_empty() => {
                Ok(Learned { candidates: listing.candidates, ..Learned::default() })
            }
            Ok(listing) => self.discovery.cache.learn(listing, now).await,
            Err(error) => Err(error),
        };
        let learned = learned.and_then(|mut learned| {
            if learned.candidates.is_empty() {
                return Err(SourceError::Empty);
            }
            if self.discovery.wss_only {
                learned.candidates.retain(|candidate| candidate.has_tls() || is_this_machine(&candidate.url));
            }
            if learned.candidates.is_empty() { Err(SourceError::Insecure) } else { Ok(learned) }
        });
        let at = self.began.elapsed();
        let report = &mut self.report.sources[index];
        report.answered_at = Some(at);
        match learned {
            Ok(learned) => {
                report.outcome = SourceOutcome::Listed(learned.candidates.len());
                self.equivocations.extend(learned.equivocations);
                self.all.extend(learned.candidates.iter().cloned());
                self.race.listed(index, learned.candidates, at);
            }
            Err(error) => {
                tracing::debug!(source = %report.kind, %error, "a source names nobody");
                report.outcome = SourceOutcome::Failed(error);
                self.race.unlisted(index, at);
            }
        }
    }
}

/// Whether a URL's host is this machine, to which nobody is on the way.
pub(crate) fn is_this_machine(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn wait_until(wake: Option<Instant>) -> impl Future<Output = ()> {
    let wake = wake.map(sleep_until);
    async {
        match wake {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_in_each_spelling() {
        for (url, is_here) in [
            ("ws://127.0.0.1:1", true),
            ("ws://127.1:1", true),
            ("ws://[::1]", true),
            ("ws://node.localhost", true),
            ("ws://localhost.example", false),
            ("ws://10.0.0.1", false),
        ] {
            assert_eq!(is_this_machine(url), is_here, "{url}");
        }
    }

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
