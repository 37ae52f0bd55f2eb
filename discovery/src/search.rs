//! One search: the driver of the race, with sockets and a clock.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chappe_common::{keys::NodeId, time::UnixTime};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    cache::{Cache, Equivocation, LearnResult},
    connection::Connection,
    dial::{DialError, dial},
    net::Net,
    race::{Action, DialId, Race},
    report::{DialOutcome, DialReport, Report, SourceOutcome, SourceReport},
    source::{Candidate, Source, SourceError, SourceKind, SourceResponse},
    trust::Trust,
};

/// Capacity of the channel for dials' progress. If it is full, a dial only looks slower than it is.
const PROGRESS_QUEUE: usize = 64;

/// Returns the current time of day.
pub(crate) type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// What all searches of a [`Discovery`] share.
#[derive(Clone)]
pub(crate) struct SearchContext {
    pub(crate) cache: Arc<Cache>,
    pub(crate) net: Net,
    pub(crate) trust: Trust,
    pub(crate) clock: Clock,
    /// How many searches have started: numbers their spans.
    pub(crate) searches: Arc<AtomicU64>,
}

/// The result of one of a search's futures.
pub(crate) enum Step {
    Listed(usize, Result<SourceResponse, SourceError>),
    Dialled(DialId, Result<Box<Connection>, DialError>),
    Aborted,
}

/// A running search.
pub(crate) struct Search {
    /// The span in which every part of the search runs, the background phase included.
    pub(crate) span: tracing::Span,
    pub(crate) context: SearchContext,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) race: Race,
    pub(crate) began: Instant,
    pub(crate) steps: FuturesUnordered<BoxFuture<'static, Step>>,
    pub(crate) report: Report,
    /// All candidates so far, for confirmation.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) equivocations: Vec<Equivocation>,
    dials: HashMap<DialId, (usize, Candidate, AbortHandle)>,
    progress: (mpsc::Sender<DialId>, mpsc::Receiver<DialId>),
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("race", &self.race).finish_non_exhaustive()
    }
}

impl Search {
    pub(crate) fn new(context: SearchContext, sources: Vec<Arc<dyn Source>>, avoid: &[NodeId]) -> Self {
        let warm = !context.cache.is_empty();
        let rng = StdRng::from_rng(&mut rand::rng());
        let race = Race::new(sources.iter().map(|source| source.kind()), avoid, warm, rng);
        let reports = sources.iter().map(|source| SourceReport {
            kind: source.kind(),
            label: source.label(),
            asked_at: None,
            answered_at: None,
            outcome: SourceOutcome::NotAsked,
        });
        let number = context.searches.fetch_add(1, Ordering::Relaxed);
        Self {
            span: tracing::debug_span!("search", number),
            report: Report { sources: reports.collect(), ..Report::default() },
            context,
            sources,
            race,
            began: Instant::now(),
            steps: FuturesUnordered::new(),
            candidates: Vec::new(),
            equivocations: Vec::new(),
            dials: HashMap::new(),
            progress: mpsc::channel(PROGRESS_QUEUE),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Queries sources and dials candidates until a node has proved its key, or nothing is left to try.
    pub(crate) async fn run(&mut self) -> Option<(Connection, Candidate)> {
        loop {
            let mut done = false;
            let now = self.now();
            while let Some(action) = self.race.poll_action(now) {
                match action {
                    Action::Query(index) => self.query_source(index),
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
            let wake = self.race.poll_timeout(now).map(|at| self.began + at);
            tokio::select! {
                biased;
                () = sleep_until_opt(wake) => {}
                Some(id) = self.progress.1.recv() => {
                    let now = self.now();
                    self.race.handle_progress(id, now);
                }
                Some(step) = self.steps.next() => {
                    if let Some(won) = self.handle_step(step).await {
                        self.report.took = self.now();
                        self.abort_dials();
                        return Some(won);
                    }
                }
            }
        }
    }

    /// Starts a query of the source with this index.
    pub(crate) fn query_source(&mut self, index: usize) {
        let (source, now) = (self.sources[index].clone(), (self.context.clock)());
        let report = &mut self.report.sources[index];
        report.asked_at = Some(self.began.elapsed());
        report.outcome = SourceOutcome::NoAnswer;
        self.steps.push(async move { Step::Listed(index, source.list(now).await) }.boxed());
    }

    fn dial(&mut self, id: DialId, candidate: Candidate) {
        let (net, progress) = (self.context.net.clone(), self.progress.0.clone());
        let at = self.report.dials.len();
        self.report.dials.push(DialReport {
            url: candidate.url.clone(),
            node: candidate.node,
            source: candidate.source,
            began_at: self.began.elapsed(),
            ended_at: None,
            outcome: DialOutcome::Unfinished,
        });
        self.context.cache.record_dial(&candidate, (self.context.clock)());
        let target = candidate.clone();
        let (dialling, handle) = abortable(async move {
            // A lost notification only makes the dial look slower than it is.
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

    /// Aborts the other dials once a node has won.
    fn abort_dials(&mut self) {
        for (_, _, handle) in self.dials.values() {
            handle.abort();
        }
        self.dials.clear();
    }

    /// Handles the result of a future. Returns the connection if a node has proved its key.
    pub(crate) async fn handle_step(&mut self, step: Step) -> Option<(Connection, Candidate)> {
        match step {
            Step::Aborted => None,
            Step::Listed(index, listed) => {
                self.handle_response(index, listed).await;
                None
            }
            Step::Dialled(id, dialled) => {
                let (at, candidate, _) = self.dials.remove(&id)?;
                let now = (self.context.clock)();
                let report = &mut self.report.dials[at];
                report.ended_at = Some(self.began.elapsed());
                match dialled {
                    Ok(connection) => {
                        report.outcome = DialOutcome::Proved;
                        self.context.cache.record_proof(connection.node(), &candidate, now);
                        self.race.handle_proof(id);
                        Some((*connection, candidate))
                    }
                    Err(error) => {
                        tracing::debug!(source = %candidate.source, %error, "a dial failed");
                        report.outcome = DialOutcome::Failed(error);
                        self.context.cache.record_failure(&candidate, now);
                        self.race.handle_dial_failed(id);
                        None
                    }
                }
            }
        }
    }

    async fn handle_response(&mut self, index: usize, listed: Result<SourceResponse, SourceError>) {
        let now = (self.context.clock)();
        let learned = match listed {
            Ok(response) if response.lists.is_empty() => {
                Ok(LearnResult { candidates: response.candidates, ..LearnResult::default() })
            }
            Ok(response) => self.context.cache.learn(response, now).await,
            Err(error) => Err(error),
        };
        let learned = learned.and_then(|mut learned| {
            if learned.candidates.is_empty() {
                return Err(SourceError::Empty);
            }
            learned.candidates.retain(|candidate| self.context.net.check_tls(&candidate.url).is_ok());
            if learned.candidates.is_empty() {
                return Err(SourceError::Insecure);
            }
            // A contact or a link may name a node that is long gone. What a person entered is always tried.
            let cache = &self.context.cache;
            let is_due = |candidate: &Candidate| candidate.source == SourceKind::Manual || cache.is_due(candidate, now);
            learned.candidates.retain(is_due);
            if learned.candidates.is_empty() { Err(SourceError::Empty) } else { Ok(learned) }
        });
        let at = self.began.elapsed();
        let report = &mut self.report.sources[index];
        report.answered_at = Some(at);
        match learned {
            Ok(learned) => {
                report.outcome = SourceOutcome::Listed(learned.candidates.len());
                self.equivocations.extend(learned.equivocations);
                self.candidates.extend(learned.candidates.iter().cloned());
                self.race.handle_candidates(index, learned.candidates, at);
            }
            Err(error) => {
                tracing::debug!(source = %report.kind, %error, "a source named no node");
                report.outcome = SourceOutcome::Failed(error);
                self.race.handle_source_failed(index, at);
            }
        }
    }
}

fn sleep_until_opt(wake: Option<Instant>) -> impl Future<Output = ()> {
    let wake = wake.map(sleep_until);
    async {
        match wake {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    }
}
