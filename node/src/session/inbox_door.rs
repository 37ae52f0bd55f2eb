//! The inboxes that one session has attached.

use chappe_common::{
    lease::{Inbox, SignedLease},
    time::UnixTime,
};

use crate::config::LimitsSection;

/// The inboxes of one session.
#[derive(Debug, Default)]
pub(crate) struct InboxDoor {
    attached: Vec<Inbox>,
}

impl InboxDoor {
    /// Takes an inbox in. `false`: the session has as many as it may.
    pub(crate) fn insert(&mut self, inbox: Inbox, limits: &LimitsSection) -> bool {
        if self.contains(&inbox) {
            return true;
        }
        if self.attached.len() >= limits.max_inboxes {
            return false;
        }
        // Most sessions attach one and no more.
        self.attached.reserve_exact(1);
        self.attached.push(inbox);
        true
    }

    /// Lets an inbox go.
    pub(crate) fn remove(&mut self, inbox: &Inbox) {
        self.attached.retain(|attached| attached != inbox);
    }

    /// Takes all inboxes out.
    pub(crate) fn take_all(&mut self) -> Vec<Inbox> {
        std::mem::take(&mut self.attached)
    }

    /// Whether the inbox is attached.
    pub(crate) fn contains(&self, inbox: &Inbox) -> bool {
        self.attached.contains(inbox)
    }
}

/// By when a client should have attached anew: half of the shortest lease's rest, in seconds.
pub(crate) fn ttl<'a>(leases: impl Iterator<Item = &'a SignedLease>, now: UnixTime) -> u64 {
    leases.map(|lease| lease.expires_at.saturating_since(now).as_secs() / 2).min().unwrap_or(0)
}
