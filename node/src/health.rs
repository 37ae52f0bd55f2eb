//! Whether this node can serve clients, and what its operator is told about it.

mod advice;
mod clock_watch;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use chappe_common::{directory::DirectoryError, keys::NodeId, record::MAX_CLOCK_SKEW, time::UnixTime};
use tokio::sync::watch;

use self::{advice::Advice, clock_watch::ClockWatch};
use crate::{context::Context, members::Members, membership::admission::Refusal};

/// Why a running node can't serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Unfit {
    /// Other nodes know a later run with this node's key, and refuse this one.
    #[error(
        "other nodes know a later run with this node's key: is another process running with a copy of node.data_dir?"
    )]
    Overtaken,
    /// No node answers, although a registry lists nodes that this one was a member with.
    #[error("no other node answers, though the registry lists some: see whether federation.advertise is reached")]
    CutOff,
    /// This machine's clock is wrong.
    #[error("this machine's clock is wrong by the clocks of other nodes (see timedatectl)")]
    Clock,
}

/// The node's condition as `/health` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// A word for programs.
    pub(crate) status: &'static str,
    /// Whether clients should be sent here.
    pub(crate) is_fit: bool,
    /// What is wrong, for people.
    pub(crate) problems: Vec<String>,
}

/// The node's fitness to serve clients.
#[derive(Debug)]
pub(crate) struct Health {
    context: Arc<Context>,
    members: Arc<Members>,
    /// Why clients are sent elsewhere.
    unfit: Mutex<BTreeSet<Unfit>>,
    became_unfit: watch::Sender<()>,
    draining: AtomicBool,
    /// How this node's clock compares with others'.
    clock_watch: Mutex<ClockWatch>,
    clock_set: watch::Sender<()>,
    /// What the operator was told.
    advice: Mutex<Advice>,
}

impl Health {
    /// The health of a node that starts.
    pub(crate) fn new(context: Arc<Context>, members: Arc<Members>) -> Self {
        Self {
            context,
            members,
            unfit: Mutex::default(),
            became_unfit: watch::Sender::new(()),
            draining: AtomicBool::new(false),
            clock_watch: Mutex::default(),
            clock_set: watch::Sender::new(()),
            advice: Mutex::default(),
        }
    }

    /// Sets or clears a reason to send clients elsewhere.
    pub(crate) fn set_unfit(&self, reason: Unfit, holds: bool) {
        let mut unfit = self.unfit();
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
            (true, false) => self.became_unfit.send_replace(()),
            (false, true) => tracing::info!("clients are taken again"),
            _ => {}
        }
    }

    /// Notified when the first reason to send clients elsewhere appears.
    pub(crate) fn unfit_changes(&self) -> watch::Receiver<()> {
        self.became_unfit.subscribe()
    }

    /// Whether clients are sent elsewhere, since the node stops or can't serve them.
    pub(crate) fn sends_away(&self) -> bool {
        self.is_draining() || !self.unfit().is_empty()
    }

    /// Accepts no more clients from now on.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the node is about to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The node's condition, for load balancers and operators.
    pub(crate) fn condition(&self) -> Condition {
        let failure = self.context.tasks.failure();
        let unfit = self.unfit().clone();
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

    /// Records the time that another node's clock shows.
    pub(crate) fn note_clock(&self, node: NodeId, theirs: UnixTime) {
        let wrong = self.clock_watch().note(Instant::now(), node, self.context.clock.now(), theirs);
        self.judge_clock();
        if let Some(wrong) = wrong {
            let direction = if wrong > 0 { "ahead of" } else { "behind" };
            tracing::error!(
                "this machine's clock is {} s {direction} the clocks of other nodes: they refuse this node's records, or \
                 it refuses theirs, until the system's time is right (see timedatectl)",
                wrong.unsigned_abs()
            );
        }
    }

    /// Checks whether this machine's clock was set since the last check. Returns by how many seconds, positive if it was
    /// set ahead.
    pub(crate) fn check_clock_step(&self) -> Option<i64> {
        let step = self.clock_watch().look(Instant::now(), self.context.clock.millis());
        if let Some(step) = step {
            self.context.metrics.clock_steps.inc();
            tracing::warn!(seconds = step, "this machine's clock was set; comparing it with other nodes' clocks");
            // Earlier comparisons say nothing any more.
            self.set_unfit(Unfit::Clock, false);
            self.clock_set.send_replace(());
        }
        step
    }

    /// Notified whenever this machine's clock was set.
    pub(crate) fn clock_sets(&self) -> watch::Receiver<()> {
        self.clock_set.subscribe()
    }

    /// Decides by what is known now whether this clock is right. Called after the members have changed too, since only
    /// members count.
    pub(crate) fn judge_clock(&self) {
        let is_wrong = self.clock_offset().is_some_and(|offset| offset.unsigned_abs() > MAX_CLOCK_SKEW.as_secs());
        self.set_unfit(Unfit::Clock, is_wrong);
    }

    /// Seconds by which other nodes' clocks are ahead of this one. `None` if too few were seen. Only members count, since
    /// a listed stranger can refuse links and lie about the time. A node without other members listens to all.
    pub(crate) fn clock_offset(&self) -> Option<i64> {
        let view = self.members.view.load();
        let is_alone = view.len() <= 1;
        self.clock_watch().offset(Instant::now(), |node| is_alone || view.contains(node))
    }

    /// Tells the operator that another node has refused this one, and what to do about it.
    pub(crate) fn note_refusal(&self, node: NodeId, refusal: Refusal) {
        let advice = self.advice().about(Instant::now(), refusal);
        if let Some(advice) = advice {
            tracing::warn!(by = node.short(), "refused: {refusal}; {advice}");
        }
    }

    /// This clock and the registry's differ so much that its directory is not usable.
    pub(crate) fn note_directory_clock(&self, error: DirectoryError) {
        const ADVICE: &str = "nobody is found by it until the system's time is right (see timedatectl)";
        // With members around, the node does not depend on it.
        if self.members.view.load().len() <= 1 && self.is_due(ADVICE) {
            tracing::error!("{error}: {ADVICE}");
        }
    }

    /// A client was refused because all connections are taken.
    pub(crate) fn note_full(&self, connections: usize) {
        const ADVICE: &str =
            "client.max_connections is reached, and clients go elsewhere: raise it, or find out who connects";
        if self.is_due(ADVICE) {
            tracing::warn!(connections, "{ADVICE}");
        }
    }

    /// The system refused to accept a connection.
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

    /// Whether the operator has not been told this recently.
    fn is_due(&self, advice: &'static str) -> bool {
        self.advice().is_due(Instant::now(), advice)
    }

    fn unfit(&self) -> MutexGuard<'_, BTreeSet<Unfit>> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_watch(&self) -> MutexGuard<'_, ClockWatch> {
        self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advice(&self) -> MutexGuard<'_, Advice> {
        self.advice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
