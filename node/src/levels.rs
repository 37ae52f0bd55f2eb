//! Reads a node's gauges, for `/metrics` and `/stats`. Separate from [`crate::metrics`], which depends on no subsystem.

use std::{sync::Arc, time::Instant};

use crate::{core::Core, homes::StoredCounts, metrics::Levels};

pub(crate) fn levels(core: &Arc<Core>) -> Levels {
    let budget = core.budget.as_ref().map(|budget| budget.status(core.context.clock.now()));
    let StoredCounts { leases, codes } = core.homes.counts();
    Levels {
        sessions: core.sessions.sessions(),
        members: core.members.view.load().len(),
        links: core.links.len(),
        leases,
        codes,
        inboxes: core.sessions.inboxes(),
        tasks: core.context.tasks.len() + core.connections.len(),
        clock_offset: core.health.clock_offset().unwrap_or_default(),
        panics: core.context.tasks.panics(),
        certificate: core.tls.as_ref().and_then(|tls| tls.validity()),
        reach: core.reachability.counts(Instant::now(), core.members.own_record.load().epoch),
        hidden_by: core.reachability.hidden_by().len(),
        refused_successions: core.trust.all().refused,
        budget_used: budget.map_or(0, |budget| budget.used),
        budget: budget.map_or(0, |budget| budget.monthly_bytes),
        budget_level: budget.map_or(0, |budget| budget.level as u64),
        is_rate_exceeded: budget.is_some_and(|budget| budget.is_rate_exceeded),
    }
}
