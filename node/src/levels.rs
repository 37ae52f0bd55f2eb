//! What stands at the moment in a node, for `/metrics` and `/stats`.

use std::sync::Arc;

use crate::{core::Core, metrics::Levels};

/// What stands at the moment in a node.
pub(crate) fn levels(core: &Arc<Core>) -> Levels {
    let (leases, codes) = core.homes().len();
    Levels {
        sessions: core.local.sessions(),
        members: core.view.load().len(),
        links: core.links.len(),
        leases,
        codes,
        inboxes: core.local.inboxes(),
        tasks: core.tasks.len() + core.connections.len(),
        clock_offset: core.clock_offset().unwrap_or_default(),
        panics: core.tasks.panics(),
    }
}
