//! The sessions of this node, by id and by the inboxes they have attached.
//!
//! Sharded maps: a message looks into one shard of one of them.

use std::sync::Arc;

use chappe_common::{
    client::{ErrorCode, RelayKind},
    lease::{Address, Inbox, SignedLease},
};
use dashmap::{DashMap, mapref::entry::Entry};

use crate::{
    config::LimitsSection,
    room,
    session::{SessionEvent, handle::SessionHandle, rates::OfferRate},
    wire::{frame::Outcome, ids::SessionId},
};

#[derive(Debug)]
struct Attached {
    session: SessionHandle,
    /// Shared with the publisher.
    lease: Arc<SignedLease>,
    /// Made with the first offer: most inboxes never get one.
    offers: Option<Box<OfferRate>>,
}

/// The sessions of this node.
#[derive(Debug, Default)]
pub(crate) struct Local {
    sessions: DashMap<SessionId, SessionHandle>,
    inboxes: DashMap<Inbox, Attached>,
}

impl Local {
    /// Takes a session in.
    pub(crate) fn insert(&self, session: SessionHandle) {
        self.sessions.insert(session.id(), session);
    }

    /// Gives back the room of sessions that have gone.
    pub(crate) fn give_back(&self) {
        room::give_back_sharded(&self.sessions);
        room::give_back_sharded(&self.inboxes);
    }

    /// Lets a session go. Its inboxes are detached by itself.
    pub(crate) fn remove(&self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// The session with this id.
    pub(crate) fn session(&self, id: SessionId) -> Option<SessionHandle> {
        self.sessions.get(&id).map(|session| session.clone())
    }

    /// The session that has attached the inbox of `address`.
    pub(crate) fn find(&self, address: &Address) -> Option<SessionHandle> {
        let attached = self.inboxes.get(&address.inbox).filter(|attached| attached.lease.admits(address))?;
        Some(attached.session.clone())
    }

    /// Whether `session` has attached `inbox`.
    pub(crate) fn is_attached(&self, inbox: &Inbox, session: SessionId) -> bool {
        self.inboxes.get(inbox).is_some_and(|attached| attached.session.id() == session)
    }

    /// The session to whose client a message to `address` may be handed; or what becomes of it instead.
    pub(crate) fn admit(
        &self,
        address: &Address,
        kind: RelayKind,
        limits: &LimitsSection,
    ) -> Result<SessionHandle, Outcome> {
        if kind != RelayKind::CallOffer {
            return self.find(address).ok_or(Outcome::NotHere);
        }
        let attached = self.inboxes.get_mut(&address.inbox).filter(|attached| attached.lease.admits(address));
        let mut attached = attached.ok_or(Outcome::NotHere)?;
        if attached.offers.get_or_insert_with(|| Box::new(OfferRate::new(limits))).allows() {
            Ok(attached.session.clone())
        } else {
            Err(Outcome::Refused(ErrorCode::RateLimited))
        }
    }

    /// The lease with which `inbox` is attached here.
    pub(crate) fn lease(&self, inbox: &Inbox) -> Option<Arc<SignedLease>> {
        self.inboxes.get(inbox).map(|attached| attached.lease.clone())
    }

    /// Attaches an inbox to a session, unless a newer lease has it. The session that had it is told.
    pub(crate) fn attach(&self, session: &SessionHandle, lease: Arc<SignedLease>) -> bool {
        match self.inboxes.entry(lease.inbox) {
            Entry::Occupied(mut entry) => {
                if entry.get().lease.seq > lease.seq {
                    return false;
                }
                // The rate of offers is the inbox's, whoever has it.
                let offers = entry.get_mut().offers.take();
                let former = entry.insert(Attached { session: session.clone(), lease, offers });
                if former.session.id() != session.id() {
                    // A session whose queue is full is closed, and detaches all it has.
                    let _ = former.session.try_send(SessionEvent::Displaced(Box::new(former.lease.inbox)));
                }
                true
            }
            Entry::Vacant(entry) => {
                entry.insert(Attached { session: session.clone(), lease, offers: None });
                true
            }
        }
    }

    /// Detaches an inbox from a session; gives the lease back where it was attached to this one.
    pub(crate) fn detach(&self, session: SessionId, inbox: &Inbox) -> Option<Arc<SignedLease>> {
        let (_, attached) = self.inboxes.remove_if(inbox, |_, attached| attached.session.id() == session)?;
        Some(attached.lease)
    }

    /// A newer lease is known: detaches an older one of the same inbox, and tells its session.
    pub(crate) fn displace(&self, newer: &SignedLease) {
        if let Some((inbox, attached)) =
            self.inboxes.remove_if(&newer.inbox, |_, attached| attached.lease.seq < newer.seq)
        {
            let _ = attached.session.try_send(SessionEvent::Displaced(Box::new(inbox)));
        }
    }

    /// A lease of a session here counts no more: detaches it unless it was replaced, and tells its session.
    pub(crate) fn drop_lease(&self, lease: &SignedLease) {
        if let Some((inbox, attached)) =
            self.inboxes.remove_if(&lease.inbox, |_, attached| attached.lease.seq == lease.seq)
        {
            let _ = attached.session.try_send(SessionEvent::Displaced(Box::new(inbox)));
        }
    }

    /// Tells every session.
    pub(crate) fn for_each(&self, tell: impl Fn(&SessionHandle)) {
        for session in &self.sessions {
            tell(&session);
        }
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many inboxes are attached.
    pub(crate) fn inboxes(&self) -> usize {
        self.inboxes.len()
    }
}
