//! The inboxes that one session has attached, and how many offers each may get.

use chappe_common::{
    client::{ErrorCode, RelayKind},
    lease::{Inbox, SignedLease},
    time::UnixTime,
};

use super::rates::OfferRate;
use crate::{config::LimitsSection, federation::frame::Outcome};

#[derive(Debug)]
struct Attached {
    inbox: Inbox,
    /// Made with the first offer: most inboxes never get one.
    offers: Option<Box<OfferRate>>,
}

/// The inboxes of one session.
#[derive(Debug, Default)]
pub(crate) struct InboxDoor {
    attached: Vec<Attached>,
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
        self.attached.push(Attached { inbox, offers: None });
        true
    }

    /// Lets an inbox go.
    pub(crate) fn remove(&mut self, inbox: &Inbox) {
        self.attached.retain(|attached| attached.inbox != *inbox);
    }

    /// Takes all inboxes out.
    pub(crate) fn take_all(&mut self) -> Vec<Inbox> {
        self.attached.drain(..).map(|attached| attached.inbox).collect()
    }

    /// Whether the inbox is attached.
    pub(crate) fn contains(&self, inbox: &Inbox) -> bool {
        self.attached.iter().any(|attached| attached.inbox == *inbox)
    }

    /// Whether a message to `inbox` may be handed to the client.
    pub(crate) fn judge(&mut self, inbox: &Inbox, kind: RelayKind, limits: &LimitsSection) -> Result<(), Outcome> {
        let attached = self.attached.iter_mut().find(|attached| attached.inbox == *inbox).ok_or(Outcome::NotHere)?;
        if kind == RelayKind::CallOffer
            && !attached.offers.get_or_insert_with(|| Box::new(OfferRate::new(limits))).allows()
        {
            return Err(Outcome::Refused(ErrorCode::RateLimited));
        }
        Ok(())
    }
}

/// By when a client should have attached anew: half of the shortest lease's rest, in seconds.
pub(crate) fn ttl<'a>(leases: impl Iterator<Item = &'a SignedLease>, now: UnixTime) -> u64 {
    leases.map(|lease| lease.expires_at.saturating_since(now).as_secs() / 2).min().unwrap_or(0)
}
