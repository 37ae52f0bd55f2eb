//! Whether this node can serve clients, and the warnings for its operator.

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

use self::{advice::AdviceLimiter, clock_watch::ClockWatch};
use crate::{
    clock::rfc3339, context::Context, members::Members, membership::admission::AdmissionRefusal, metrics::ProxyFault,
};

/// Why a running node can't serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Unfit {
    /// Other nodes know a later run with this node's key, and refuse this one.
    #[error(
        "other nodes know a later run with this node's key: is another process running with a copy of node.data_dir?"
    )]
    Overtaken,
    /// No node answers, although a registry lists former members.
    #[error("no other node answers, although the registry lists some: check that federation.advertise is reachable")]
    CutOff,
    #[error("this machine's clock is wrong: it differs from the clocks of other nodes (see timedatectl)")]
    Clock,
    /// The node obtains its certificate by ACME, and has none that is valid.
    #[error(
        "this node has no valid certificate for the wss:// URLs in client.urls: the log has the reason (client.acme)"
    )]
    Certificate,
    /// The budget of the month is used up.
    #[error("the budget of the month is used up (budget.monthly_bytes): this node sleeps until {}", rfc3339(*until))]
    Budget {
        /// When the node wakes.
        until: UnixTime,
    },
    /// The budget of the month before was used up, so the node leaves the first part of this month to other nodes.
    #[error(
        "the budget of the month before was used up (budget.monthly_bytes): this node waits for its turn in this month, \
         until {}",
        rfc3339(*until)
    )]
    BudgetTurn {
        /// When the node wakes.
        until: UnixTime,
    },
}

/// The node's condition as `/health` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) status: &'static str,
    /// Whether the node accepts clients.
    pub(crate) is_fit: bool,
    /// Descriptions for people.
    pub(crate) problems: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Health {
    context: Arc<Context>,
    members: Arc<Members>,
    /// Current reasons to send clients elsewhere.
    unfit: Mutex<BTreeSet<Unfit>>,
    became_unfit: watch::Sender<()>,
    draining: AtomicBool,
    /// Compares this node's clock with those of other nodes.
    clock_watch: Mutex<ClockWatch>,
    clock_set: watch::Sender<()>,
    /// Limits how often each warning is logged.
    advice: Mutex<AdviceLimiter>,
}

impl Health {
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
        match reason {
            // A first start is no error, and the task of the certificate explains its failures.
            Unfit::Certificate if holds => tracing::info!("clients are sent elsewhere: {reason}"),
            // The operator has set it.
            Unfit::Budget { .. } | Unfit::BudgetTurn { .. } if holds => {
                tracing::warn!("clients are sent elsewhere: {reason}")
            }
            _ if holds => tracing::error!("clients are sent elsewhere: {reason}"),
            _ => {}
        }
        match (was_fit, is_fit) {
            (true, false) => self.became_unfit.send_replace(()),
            (false, true) => tracing::info!("clients are accepted again"),
            _ => {}
        }
    }

    /// Returns a receiver that is notified when the node becomes unfit.
    pub(crate) fn unfit_changes(&self) -> watch::Receiver<()> {
        self.became_unfit.subscribe()
    }

    /// Returns whether clients are sent elsewhere, because the node is stopping or unfit.
    pub(crate) fn sends_away(&self) -> bool {
        self.is_draining() || !self.unfit().is_empty()
    }

    /// Stops accepting clients.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the node is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns the node's condition for `/health`.
    pub(crate) fn condition(&self) -> Condition {
        let failure = self.context.tasks.failure();
        let unfit = self.unfit().clone();
        let status = match (&failure, self.is_draining()) {
            (Some(_), _) => "failing",
            (None, true) => "draining",
            (None, false) if unfit.is_empty() => "healthy",
            (None, false) if unfit.iter().all(|reason| *reason == Unfit::Certificate) => "no_certificate",
            (None, false)
                if unfit.iter().all(|reason| matches!(reason, Unfit::Budget { .. } | Unfit::BudgetTurn { .. })) =>
            {
                "budget"
            }
            (None, false) => "cut_off",
        };
        let failures = failure.iter().map(ToString::to_string);
        let problems: Vec<_> = failures.chain(unfit.iter().map(ToString::to_string)).collect();
        Condition { status, is_fit: problems.is_empty(), problems }
    }

    /// Records another node's clock reading and warns the operator if this clock is wrong.
    pub(crate) fn note_clock(&self, node: NodeId, theirs: UnixTime) {
        let wrong = self.clock_watch().add_reading(Instant::now(), node, self.context.clock.now(), theirs);
        self.update_clock_fitness();
        if let Some(wrong) = wrong {
            let direction = if wrong > 0 { "ahead of" } else { "behind" };
            tracing::error!(
                "this machine's clock is {} s {direction} the clocks of other nodes: they refuse this node's records, or \
                 it refuses theirs, until the system's time is right (see timedatectl)",
                wrong.unsigned_abs()
            );
        }
    }

    /// Checks whether this machine's clock was set since the last check. Returns the step in seconds, positive if the
    /// clock was set forward.
    pub(crate) fn check_clock_step(&self) -> Option<i64> {
        let step = self.clock_watch().check_step(Instant::now(), self.context.clock.millis());
        if let Some(step) = step {
            self.context.metrics.clock_steps.inc();
            tracing::warn!(seconds = step, "this machine's clock was set; comparing it with other nodes' clocks");
            // Earlier comparisons are invalid now.
            self.set_unfit(Unfit::Clock, false);
            self.clock_set.send_replace(());
        }
        step
    }

    /// Returns a receiver that is notified when this machine's clock is set.
    pub(crate) fn clock_sets(&self) -> watch::Receiver<()> {
        self.clock_set.subscribe()
    }

    /// Marks the node unfit if its clock is wrong. Also called after the members change, because only members are
    /// witnesses.
    pub(crate) fn update_clock_fitness(&self) {
        let is_wrong = self.clock_offset().is_some_and(|offset| offset.unsigned_abs() > MAX_CLOCK_SKEW.as_secs());
        self.set_unfit(Unfit::Clock, is_wrong);
    }

    /// Returns the seconds by which other nodes' clocks are ahead of this one. Returns `None` if there are too few
    /// readings. Only members count, because a listed stranger can refuse links and lie about the time. A node without
    /// other members counts all readings.
    pub(crate) fn clock_offset(&self) -> Option<i64> {
        let view = self.members.view.load();
        let is_alone = view.len() <= 1;
        self.clock_watch().offset(Instant::now(), |node| is_alone || view.contains(node))
    }

    /// Warns the operator that another node refused this one, with advice.
    pub(crate) fn warn_refused(&self, node: NodeId, refusal: AdmissionRefusal) {
        let advice = self.advice().advice_for(Instant::now(), refusal);
        if let Some(advice) = advice {
            tracing::warn!(by = node.short(), "refused: {refusal}; {advice}");
        }
    }

    /// Warns the operator that the directory is unusable because the two clocks differ.
    pub(crate) fn warn_directory_clock(&self, error: DirectoryError) {
        const ADVICE: &str = "nobody is found by it until the system's time is right (see timedatectl)";
        // A node with members does not depend on the directory.
        if self.members.view.load().len() <= 1 && self.is_due(ADVICE) {
            tracing::error!("{error}: {ADVICE}");
        }
    }

    /// Warns the operator that a client was refused at the connection limit.
    pub(crate) fn warn_full(&self, connections: usize) {
        const ADVICE: &str =
            "client.max_connections is reached, and clients are rejected: raise it, or find out who connects";
        if self.is_due(ADVICE) {
            tracing::warn!(connections, "{ADVICE}");
        }
    }

    /// Warns the operator that a trusted proxy does not tell its clients' addresses.
    pub(crate) fn warn_proxy(&self, fault: ProxyFault) {
        const ADVICE: &str = "a proxy of client.trusted_proxies does not tell a client's address, and the connection was \
                              refused: let it write X-Forwarded-For and remove Forwarded, or the PROXY protocol's header";
        if self.is_due(ADVICE) {
            tracing::warn!(fault = fault.as_str(), "{ADVICE}");
        }
    }

    /// Warns the operator that `accept` failed.
    pub(crate) fn warn_accept_failed(&self, error: &std::io::Error) {
        const ADVICE: &str = "cannot accept connections; retrying";
        if self.is_due(ADVICE) {
            tracing::warn!(%error, "{ADVICE}");
        }
    }

    /// Warns the operator that this node's name does not resolve.
    pub(crate) fn warn_unresolved(&self, error: &(dyn std::error::Error + 'static)) {
        const ADVICE: &str = "cannot resolve this node's own name; keeping the last addresses";
        if self.is_due(ADVICE) {
            tracing::warn!(error, "{ADVICE}");
        }
    }

    /// Returns whether this advice was not given recently.
    fn is_due(&self, advice: &'static str) -> bool {
        self.advice().is_due(Instant::now(), advice)
    }

    fn unfit(&self) -> MutexGuard<'_, BTreeSet<Unfit>> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock_watch(&self) -> MutexGuard<'_, ClockWatch> {
        self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advice(&self) -> MutexGuard<'_, AdviceLimiter> {
        self.advice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
