//! What all parts of a running node share. Each field says who changes it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chappe_common::{
    directory::DirectoryError,
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    lease::{Inbox, SignedLease},
    record::{Abilities, MAX_CLOCK_SKEW, SignedRecord},
    time::UnixTime,
};
use chappe_discovery::revocations::KnownRevocations;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    clock::Clock,
    clock_watch::ClockWatch,
    config::NodeConfig,
    federation::{hello::Hello, links::Links, refused::Advice},
    held::Held,
    homes::HomeTable,
    local::Local,
    membership::{admission::Refusal, event::Event, records::Records, view::View},
    metrics::Metrics,
    placement::Placement,
    publish::command::Command,
    session::{SessionEvent, rates::SourceRates},
    tasks::Tasks,
    turns::Turns,
};

/// New runs of one node, each of which ends all that the former has registered in tables of hundreds of thousands: one that is
/// being set up starts anew some thirty times, and none does for long.
const NEW_RUNS: Quota =
    Quota::per_minute(NonZeroU32::new(6).expect("not zero")).allow_burst(NonZeroU32::new(30).expect("not zero"));

/// What is fixed when the node starts.
#[derive(Debug)]
pub(crate) struct Basics {
    /// The configuration.
    pub(crate) config: NodeConfig,
    /// The wall clock.
    pub(crate) clock: Clock,
    /// The node's key.
    pub(crate) key: SecretKey,
    /// The node's id.
    pub(crate) me: NodeId,
    /// Whom the node belongs to.
    pub(crate) federation: FederationId,
    /// The federation's roots; a node without any trusts itself.
    pub(crate) roots: Vec<PublicKey>,
    /// The URLs that clients use, as in the record.
    pub(crate) client_urls: Vec<String>,
    /// The addresses that nodes dial, as in the record. Changed where a name's addresses do.
    pub(crate) quic_addrs: ArcSwap<Vec<SocketAddr>>,
    /// As in the record.
    pub(crate) region: String,
    /// As in the record.
    pub(crate) abilities: Abilities,
    /// How long a record lives.
    pub(crate) record_lifetime: Duration,
    /// When the node started.
    pub(crate) started: Instant,
}

/// What all parts of a running node share.
#[derive(Debug)]
pub(crate) struct Core {
    /// What is fixed.
    pub(crate) basics: Basics,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// The node's own tasks.
    pub(crate) tasks: Tasks,
    /// Clients' connections: they end before the node's own tasks do.
    pub(crate) connections: Tasks,
    /// The sessions by id, code and inbox. Changed by the sessions.
    pub(crate) local: Local,
    /// What is kept for others. Changed by requests of any node; never held over an `.await`.
    homes: Mutex<HomeTable>,
    /// Links to other nodes.
    pub(crate) links: Links,
    /// Which online keys of registries are revoked.
    pub(crate) revocations: KnownRevocations,
    /// The signed records of nodes.
    pub(crate) records: Arc<Records>,
    /// Leases that were looked up, for the next message. Checked against time and view when used.
    pub(crate) found: Cache<Inbox, SignedLease>,
    /// How many leases that have to be verified each node may register.
    pub(crate) new_leases: DefaultKeyedRateLimiter<NodeId>,
    /// How often the run of a member may end and another begin.
    pub(crate) new_runs: DefaultKeyedRateLimiter<NodeId>,
    /// Turns at what others register here.
    pub(crate) home_turns: Turns,
    /// Turns at what clients attach.
    pub(crate) attach_turns: Turns,
    /// Room for leases that clients attach, until they are verified.
    pub(crate) attaching: Arc<Semaphore>,
    /// What clients make this node hold.
    pub(crate) held: Arc<Held>,
    /// The limits of sources.
    pub(crate) sources: SourceRates,
    /// This node's own record. Set by membership.
    pub(crate) own_record: ArcSwap<SignedRecord>,
    own_record_changed: watch::Sender<()>,
    /// The live members. Set by membership.
    pub(crate) view: ArcSwap<View>,
    view_changed: watch::Sender<()>,
    /// The membership task.
    pub(crate) membership: mpsc::Sender<Event>,
    /// The task that keeps leases and codes registered.
    pub(crate) publisher: mpsc::Sender<Command>,
    /// How this node's clock compares with others'. Fed by the first words of links.
    clock_watch: Mutex<ClockWatch>,
    /// What the operator was told about refusals.
    advice: Mutex<Advice>,
    draining: AtomicBool,
    clock_set: watch::Sender<()>,
    /// Why clients are sent elsewhere.
    unfit: Mutex<BTreeSet<Unfit>>,
}

/// Why a node that runs can't serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Unfit {
    /// Other nodes know a later run with this node's key, and refuse this one.
    #[error(
        "other nodes know a later run with this node's key: is another process running with a copy of node.data_dir?"
    )]
    Overtaken,
    /// Nobody answers, and a registry lists nodes that this one was a member with.
    #[error("no other node answers, though the registry lists some: see whether federation.advertise is reached")]
    CutOff,
    /// This clock is wrong.
    #[error("this machine's clock is wrong by the clocks of other nodes (see timedatectl)")]
    Clock,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// A word for programs.
    pub(crate) status: &'static str,
    /// Whether clients should be sent here.
    pub(crate) is_fit: bool,
    /// What is wrong, for people.
    pub(crate) problems: Vec<String>,
}

impl Core {
    /// The shared state of a node that is about to start.
    pub(crate) fn new(
        basics: Basics,
        links: Links,
        records: Arc<Records>,
        revocations: KnownRevocations,
        own_record: SignedRecord,
        membership: mpsc::Sender<Event>,
        publisher: mpsc::Sender<Command>,
    ) -> Self {
        let homes = HomeTable::new(basics.config.federation.max_leases, basics.config.times.registration);
        let sources = SourceRates::new(&basics.config.limits);
        let attaching = basics.config.limits.max_attaching;
        let held = basics.config.limits.max_held;
        let found = Cache::new(basics.config.federation.max_found);
        let rate = NonZeroU32::new(basics.config.federation.new_leases_per_minute).unwrap_or(NonZeroU32::MIN);
        let new_leases = RateLimiter::dashmap(Quota::per_minute(rate));
        let tasks = Tasks::default();
        let view = View::new(&Placement::genesis(basics.federation), std::iter::once((&*own_record, true)));
        Self {
            basics,
            metrics: Metrics::default(),
            connections: tasks.sibling(),
            tasks,
            local: Local::default(),
            homes: Mutex::new(homes),
            links,
            records,
            revocations,
            found,
            new_leases,
            new_runs: RateLimiter::dashmap(NEW_RUNS),
            home_turns: Turns::default(),
            attach_turns: Turns::default(),
            attaching: Arc::new(Semaphore::new(attaching)),
            held: Held::new(held),
            sources,
            own_record: ArcSwap::from_pointee(own_record),
            own_record_changed: watch::Sender::new(()),
            view: ArcSwap::from_pointee(view),
            view_changed: watch::Sender::new(()),
            membership,
            publisher,
            clock_watch: Mutex::default(),
            advice: Mutex::default(),
            draining: AtomicBool::new(false),
            clock_set: watch::Sender::new(()),
            unfit: Mutex::default(),
        }
    }

    /// What is kept for others.
    pub(crate) fn homes(&self) -> MutexGuard<'_, HomeTable> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces this node's own record.
    pub(crate) fn set_own_record(&self, record: SignedRecord) {
        self.own_record.store(Arc::new(record));
        self.own_record_changed.send_replace(());
    }

    /// Replaces the view of the live members.
    pub(crate) fn set_view(&self, view: View) {
        self.homes().share_among(view.len(), self.me);
        self.view.store(Arc::new(view));
        self.view_changed.send_replace(());
        // Other nodes are witnesses now.
        self.judge_clock(self.clock_offset());
    }

    /// Told whenever the own record changes.
    pub(crate) fn own_record_changes(&self) -> watch::Receiver<()> {
        self.own_record_changed.subscribe()
    }

    /// Told whenever this machine's clock was set.
    pub(crate) fn clock_sets(&self) -> watch::Receiver<()> {
        self.clock_set.subscribe()
    }

    /// Told whenever the view changes.
    pub(crate) fn view_changes(&self) -> watch::Receiver<()> {
        self.view_changed.subscribe()
    }

    /// Forgets all that a node registered here before `epoch`: it went down, or has started anew.
    pub(crate) fn forget_before(&self, node: NodeId, epoch: u64) {
        self.homes().drop_before(node, epoch);
        self.found.retain(|_, lease| lease.node != node);
    }

    /// What this node says first on a link.
    pub(crate) fn hello(&self) -> Hello {
        Hello::Record {
            record: self.own_record.load().as_bytes().clone(),
            ticket: self.config.federation.ticket.as_ref().map(|ticket| ticket.as_bytes().clone()),
            clock: self.clock.now(),
        }
    }

    /// Another node's clock shows this time.
    pub(crate) fn note_clock(&self, node: NodeId, theirs: UnixTime) {
        let mut watch = self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = watch.note(Instant::now(), node, self.clock.now(), theirs);
        drop(watch);
        self.judge_clock(self.clock_offset());
        if let Some(wrong) = wrong {
            let direction = if wrong > 0 { "ahead of" } else { "behind" };
            tracing::error!(
                "this machine's clock is {} s {direction} the clocks of other nodes: they refuse this node's records, or \
                 it refuses theirs, until the system's time is right (see timedatectl)",
                wrong.unsigned_abs()
            );
        }
    }

    /// Looks whether this clock was set. By how many seconds, ahead where positive.
    pub(crate) fn look_at_clock(&self) -> Option<i64> {
        let mut watch = self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner);
        let step = watch.look(Instant::now(), self.clock.millis());
        drop(watch);
        if let Some(step) = step {
            self.metrics.clock_steps.inc();
            tracing::warn!(seconds = step, "this machine's clock was set; comparing it with other nodes' clocks");
            // Whoever is asked now knows better than what was seen before.
            self.judge_clock(None);
            self.clock_set.send_replace(());
        }
        step
    }

    fn judge_clock(&self, offset: Option<i64>) {
        self.set_unfit(Unfit::Clock, offset.is_some_and(|offset| offset.unsigned_abs() > MAX_CLOCK_SKEW.as_secs()));
    }

    /// Says whether there is a reason to send clients elsewhere. They are told when the first comes.
    pub(crate) fn set_unfit(&self, reason: Unfit, holds: bool) {
        let mut unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        let was_fit = unfit.is_empty();
        let changed = if holds { unfit.insert(reason) } else { unfit.remove(&reason) };
        let is_fit = unfit.is_empty();
        drop(unfit);
        if !changed {
            return;
        }
        if holds {
            tracing::error!("clients are sent elsewhere: {reason}");
        }
        match (was_fit, is_fit) {
            (true, false) => self.local.for_each(|session| {
                // A session whose queue is full ends by that.
                let _ = session.try_send(SessionEvent::GoingAway);
            }),
            (false, true) => tracing::info!("clients are taken again"),
            _ => {}
        }
    }

    /// Whether clients are sent elsewhere, since the node stops or can't serve them.
    pub(crate) fn sends_away(&self) -> bool {
        self.is_draining() || !self.unfit.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Seconds by which other nodes' clocks are ahead of this one. `None` if too few were seen. Only members count, since a
    /// listed stranger can refuse links and lie about the time; a node that has no other members listens to all.
    pub(crate) fn clock_offset(&self) -> Option<i64> {
        let view = self.view.load();
        let is_alone = view.len() <= 1;
        let watch = self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.offset(Instant::now(), |node| is_alone || view.contains(node))
    }

    /// Another node has refused this one.
    pub(crate) fn note_refusal(&self, node: NodeId, refusal: Refusal) {
        let mut advice = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        let told = advice.about(Instant::now(), refusal);
        drop(advice);
        if let Some(advice) = told {
            tracing::warn!(by = node.short(), "refused: {refusal}; {advice}");
        }
        if refusal == Refusal::Stale {
            // Where there is no room now, the next dial says so again.
            let _ = self.membership.try_send(Event::Overtaken(node));
        }
    }

    /// This clock and the registry's differ so much that its directory says nothing.
    pub(crate) fn note_directory_clock(&self, error: DirectoryError) {
        const ADVICE: &str = "nobody is found by it until the system's time is right (see timedatectl)";
        let mut advice = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        // With members around, the node does not depend on it.
        let due = self.view.load().len() <= 1 && advice.is_due(Instant::now(), ADVICE);
        drop(advice);
        if due {
            tracing::error!("{error}: {ADVICE}");
        }
    }

    /// A client found no place.
    pub(crate) fn note_full(&self) {
        const ADVICE: &str =
            "client.max_connections is reached, and clients go elsewhere: raise it, or find out who connects";
        if self.is_due(ADVICE) {
            tracing::warn!(connections = self.connections.len(), "{ADVICE}");
        }
    }

    /// The system has no connection to give.
    pub(crate) fn note_accept(&self, error: &std::io::Error) {
        const ADVICE: &str = "cannot accept connections; trying again";
        if self.is_due(ADVICE) {
            tracing::warn!(%error, "{ADVICE}");
        }
    }

    /// A name of this node has no address at the moment.
    pub(crate) fn note_unresolved(&self, error: &(dyn std::error::Error + 'static)) {
        const ADVICE: &str = "cannot resolve this node's own name; the last address stays";
        if self.is_due(ADVICE) {
            tracing::warn!(error, "{ADVICE}");
        }
    }

    /// Whether the operator was not told so a moment ago.
    fn is_due(&self, advice: &'static str) -> bool {
        self.advice.lock().unwrap_or_else(PoisonError::into_inner).is_due(Instant::now(), advice)
    }

    /// Takes no more clients from now on.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// How the node is, for load balancers and operators.
    pub(crate) fn condition(&self) -> Condition {
        let failure = self.tasks.failure();
        let unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let status = match (&failure, self.is_draining()) {
            (Some(_), _) => "failing",
            (None, true) => "draining",
            (None, false) if unfit.is_empty() => "healthy",
            (None, false) => "cut_off",
        };
        let failures = failure.iter().map(ToString::to_string);
        let problems: Vec<_> = failures.chain(unfit.iter().map(ToString::to_string)).collect();
        Condition { status, is_fit: problems.is_empty(), problems }
    }

    /// Whether the node is about to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

impl Deref for Core {
    type Target = Basics;

    fn deref(&self) -> &Basics {
        &self.basics
    }
}
