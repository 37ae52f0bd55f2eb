//! The inboxes that one session has attached.

use chappe_common::{
    lease::{Inbox, SignedLease},
    time::UnixTime,
};

use crate::config::LimitsSection;

/// The inboxes of one session.
#[derive(Debug, Default)]
pub(crate) struct AttachedInboxes {
    /// Sorted: one message may name a thousand.
    attached: Vec<Inbox>,
}

impl AttachedInboxes {
    /// Takes an inbox in. `false`: the session has as many as it may.
    pub(crate) fn insert(&mut self, inbox: Inbox, limits: &LimitsSection) -> bool {
        let Err(place) = self.attached.binary_search(&inbox) else { return true };
        if self.attached.len() >= limits.max_inboxes {
            return false;
        }
        // Most sessions attach one and no more.
        self.attached.reserve_exact(1);
        self.attached.insert(place, inbox);
        true
    }

    /// Lets an inbox go.
    pub(crate) fn remove(&mut self, inbox: &Inbox) {
        if let Ok(place) = self.attached.binary_search(inbox) {
            self.attached.remove(place);
        }
    }

    /// Takes all inboxes out.
    pub(crate) fn take_all(&mut self) -> Vec<Inbox> {
        std::mem::take(&mut self.attached)
    }

    /// Whether none is attached.
    pub(crate) fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Whether the inbox is attached.
    pub(crate) fn contains(&self, inbox: &Inbox) -> bool {
        self.attached.binary_search(inbox).is_ok()
    }
}

/// By when a client should have attached anew: half of the shortest lease's rest, in seconds.
pub(crate) fn ttl<'a>(leases: impl Iterator<Item = &'a SignedLease>, now: UnixTime) -> u64 {
    leases.map(|lease| lease.expires_at.saturating_since(now).as_secs() / 2).min().unwrap_or(0)
}
