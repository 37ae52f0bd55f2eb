//! The sessions of this node, by id and by attached inbox. Delivers messages, notes and outcomes to them.
//!
//! The maps are sharded. A message takes one lookup in one shard.

mod attached_inboxes;
pub(crate) mod event;
pub(crate) mod flights;
pub(crate) mod handle;

use std::sync::Arc;

use arc_swap::ArcSwap;
use chappe_common::{
    client::{ErrorCode, RelayKind},
    lease::{Address, Inbox, SignedLease},
};
use dashmap::{DashMap, mapref::entry::Entry};
use prometheus_client::metrics::counter::Counter;

use self::{
    attached_inboxes::TooMany,
    event::{Message, ReplyTo, SessionEvent},
    handle::{Batch, Relayed, SessionHandle},
};
use crate::{
    client_protocol::reply::{self, ForwardedBy},
    config::LiveConfig,
    limits::{byte_channel::TrySendError, rates::OfferRate, shrink},
    metrics::Metrics,
    websocket::writer::WriteError,
    wire::{
        frame::{Header, Note, Outcome},
        ids::{PeerAddr, SessionId, Ticket},
    },
};

#[derive(Debug)]
struct Attached {
    session: SessionHandle,
    /// Shared with the publisher, to save memory.
    lease: Arc<SignedLease>,
    /// Created by the first offer, since most inboxes never get one.
    offers: Option<Box<OfferRate>>,
}

/// Why a lease is not attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// The session has `limits.max_inboxes` already.
    TooMany,
    /// A newer lease of the inbox is attached. The client has proved to own the inbox, so it may see that lease.
    Stale { newer: Arc<SignedLease> },
}

impl From<TooMany> for NotAttached {
    fn from(_: TooMany) -> Self {
        Self::TooMany
    }
}

#[derive(Debug)]
pub(crate) struct Sessions {
    by_id: DashMap<SessionId, SessionHandle>,
    inboxes: DashMap<Inbox, Attached>,
    live: Arc<ArcSwap<LiveConfig>>,
    delivered: Counter,
    responses_dropped: Counter,
}

impl Sessions {
    pub(crate) fn new(live: Arc<ArcSwap<LiveConfig>>, metrics: &Metrics) -> Self {
        Self {
            by_id: DashMap::new(),
            inboxes: DashMap::new(),
            live,
            delivered: metrics.delivered.clone(),
            responses_dropped: metrics.responses_dropped.clone(),
        }
    }

    pub(crate) fn insert(&self, session: SessionHandle) {
        self.by_id.insert(session.id(), session);
    }

    /// Frees the unused capacity of the maps after a load spike.
    pub(crate) fn shrink(&self) {
        shrink::shrink_sharded_if_sparse(&self.by_id);
        shrink::shrink_sharded_if_sparse(&self.inboxes);
    }

    /// Removes a session. The session itself detaches its inboxes.
    pub(crate) fn remove(&self, id: SessionId) {
        self.by_id.remove(&id);
    }

    pub(crate) fn session(&self, id: SessionId) -> Option<SessionHandle> {
        self.by_id.get(&id).map(|session| session.clone())
    }

    /// Returns the session that has attached the inbox, if the access token of `address` is correct.
    pub(crate) fn find(&self, address: &Address) -> Option<SessionHandle> {
        let attached = self.inboxes.get(&address.inbox).filter(|attached| attached.lease.admits(address))?;
        Some(attached.session.clone())
    }

    pub(crate) fn is_attached(&self, inbox: &Inbox, session: SessionId) -> bool {
        self.inboxes.get(inbox).is_some_and(|attached| attached.session.id() == session)
    }

    /// Returns the session that may get a message to `address`, or the message's outcome.
    fn admit(&self, address: &Address, kind: RelayKind) -> Result<SessionHandle, Outcome> {
        if kind != RelayKind::CallOffer {
            return self.find(address).ok_or(Outcome::NotHere);
        }
        let attached = self.inboxes.get_mut(&address.inbox).filter(|attached| attached.lease.admits(address));
        let mut attached = attached.ok_or(Outcome::NotHere)?;
        if attached.offers.get_or_insert_with(|| Box::new(OfferRate::new(&self.live.load().limits))).allows() {
            Ok(attached.session.clone())
        } else {
            Err(Outcome::Refused(ErrorCode::RateLimited))
        }
    }

    /// Returns the lease with which `inbox` is attached here.
    pub(crate) fn lease(&self, inbox: &Inbox) -> Option<Arc<SignedLease>> {
        self.inboxes.get(inbox).map(|attached| attached.lease.clone())
    }

    /// Attaches an inbox to a session, and detaches it from any other session. Returns whether it is new to the
    /// session.
    ///
    /// # Errors
    /// The session has too many inboxes, or a newer lease is attached. The session keeps an earlier lease of the inbox.
    pub(crate) fn attach(&self, session: &SessionHandle, lease: Arc<SignedLease>) -> Result<bool, NotAttached> {
        let inbox = lease.inbox;
        // The entry stays locked meanwhile, so that the map and the session's own list of inboxes change together.
        match self.inboxes.entry(inbox) {
            Entry::Occupied(mut entry) => {
                let is_new = session.add_inbox(inbox, self.live.load().limits.max_inboxes)?;
                if entry.get().lease.seq > lease.seq {
                    if is_new {
                        session.remove_inbox(&inbox);
                    }
                    return Err(NotAttached::Stale { newer: entry.get().lease.clone() });
                }
                // The offer rate belongs to the inbox, so it moves to the new session.
                let offers = entry.get_mut().offers.take();
                let former = entry.insert(Attached { session: session.clone(), lease, offers });
                if former.session.id() != session.id() {
                    former.session.remove_inbox(&inbox);
                }
                Ok(is_new)
            }
            Entry::Vacant(entry) => {
                let is_new = session.add_inbox(inbox, self.live.load().limits.max_inboxes)?;
                entry.insert(Attached { session: session.clone(), lease, offers: None });
                Ok(is_new)
            }
        }
    }

    /// Detaches an inbox from a session. Returns its lease, or `None` if the session had not attached it.
    pub(crate) fn detach(&self, session: SessionId, inbox: &Inbox) -> Option<Arc<SignedLease>> {
        self.detach_if(inbox, |attached| attached.session.id() == session)
    }

    /// Detaches an inbox if its lease is older than `newer`.
    pub(crate) fn displace(&self, newer: &SignedLease) {
        self.detach_if(&newer.inbox, |attached| attached.lease.seq < newer.seq);
    }

    /// Detaches the inbox of an invalid lease, unless a newer lease has replaced it.
    pub(crate) fn drop_lease(&self, lease: &SignedLease) {
        self.detach_if(&lease.inbox, |attached| attached.lease.seq == lease.seq);
    }

    fn detach_if(&self, inbox: &Inbox, condition: impl Fn(&Attached) -> bool) -> Option<Arc<SignedLease>> {
        // `entry` would reserve room for an inbox that isn't there.
        let (_, attached) = self.inboxes.remove_if(inbox, |_, attached| {
            let removes = condition(attached);
            if removes {
                attached.session.remove_inbox(inbox);
            }
            removes
        })?;
        Some(attached.lease)
    }

    /// Calls `visit` for each session.
    pub(crate) fn for_each(&self, visit: impl Fn(&SessionHandle)) {
        for session in &self.by_id {
            visit(&session);
        }
    }

    /// Returns the number of sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.by_id.len()
    }

    /// Returns the number of attached inboxes.
    pub(crate) fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    /// Delivers a message to the client that has attached the inbox of `to`.
    pub(crate) fn deliver_to_inbox(&self, batch: &mut Batch, kind: RelayKind, to: &Address, payload: &[u8]) -> Outcome {
        match self.admit(to, kind) {
            Ok(session) => deliver(&session, batch, kind, &to.inbox, payload),
            Err(outcome) => outcome,
        }
    }

    /// Delivers a message of a pairing. Returns `None` if the session's task has to check it ([`Sessions::submit`]).
    pub(crate) fn deliver_to_session(
        &self,
        batch: &mut Batch,
        kind: RelayKind,
        to: SessionId,
        from: PeerAddr,
        payload: &[u8],
    ) -> Option<Outcome> {
        let Some(session) = self.session(to) else { return Some(Outcome::NotHere) };
        match session.relay(batch, from, kind, payload) {
            Relayed::Delivered => Some(Outcome::Delivered),
            Relayed::Undecided => None,
            Relayed::Full => Some(Outcome::Refused(ErrorCode::Congested)),
            Relayed::Closed => Some(Outcome::NotHere),
        }
    }

    /// Queues a message of a pairing for the session's task, which checks it. The outcome goes to `message.reply`.
    pub(crate) fn submit(&self, to: SessionId, message: Message) {
        let reply = message.reply.clone();
        let Some(session) = self.session(to) else { return self.reply(&reply, Outcome::NotHere) };
        match session.try_send(SessionEvent::Message(Box::new(message))) {
            Ok(()) => {}
            Err(TrySendError::Full) => self.reply(&reply, Outcome::Refused(ErrorCode::Congested)),
            Err(TrySendError::Closed) => self.reply(&reply, Outcome::NotHere),
        }
    }

    /// Sends a note to a session. Returns whether the session exists and has room.
    pub(crate) fn send_note(&self, to: SessionId, from: PeerAddr, note: Note) -> bool {
        self.session(to).is_some_and(|session| session.try_send(SessionEvent::Note(Box::new((from, note)))).is_ok())
    }

    /// Sends an outcome to the sender of the message.
    pub(crate) fn reply(&self, to: &ReplyTo, outcome: Outcome) {
        match to {
            ReplyTo::Session(ticket) => self.handle_outcome(*ticket, outcome),
            // If the outcome is lost, the sender reports `unreachable` after its timeout.
            ReplyTo::Link { link, token } => {
                if link.try_relay(&Header::Outcome { token: *token, outcome }).is_err() {
                    self.responses_dropped.inc();
                }
            }
        }
    }

    /// Sends a session the outcome of its message.
    pub(crate) fn handle_outcome(&self, ticket: Ticket, outcome: Outcome) {
        // The session may have ended. A session with a full queue ends, so the lost outcome doesn't matter.
        if let Some(session) = self.session(ticket.session) {
            let _ = session.try_send(SessionEvent::Outcome { ticket: ticket.number, outcome });
        }
    }

    /// Reports a delivered message to its session. The session's task is only woken if something else depends on it.
    pub(crate) fn handle_delivered(&self, batch: &mut Batch, ticket: Ticket) {
        let Some(session) = self.session(ticket.session) else { return };
        if session.handle_delivered(batch, ticket.number) {
            self.delivered.inc();
        } else {
            let _ = session.try_send(SessionEvent::Outcome { ticket: ticket.number, outcome: Outcome::Delivered });
        }
    }

    /// Answers the messages that an ended session has not handled with [`Outcome::NotHere`]. Returns its unhandled
    /// notes.
    pub(crate) fn answer_unhandled(&self, events: impl IntoIterator<Item = SessionEvent>) -> Vec<(PeerAddr, Note)> {
        let mut notes = Vec::new();
        for event in events {
            match event {
                SessionEvent::Message(message) => self.reply(&message.reply, Outcome::NotHere),
                SessionEvent::Note(boxed) => notes.push(*boxed),
                _ => {}
            }
        }
        notes
    }
}

/// Delivers a message to the client of a session that has attached `inbox`. It doesn't check the offer rate, so it is
/// not for offers.
pub(crate) fn deliver(
    session: &SessionHandle,
    batch: &mut Batch,
    kind: RelayKind,
    inbox: &Inbox,
    payload: &[u8],
) -> Outcome {
    let inbox_text = inbox.base64url_bytes();
    match session.write(batch, &reply::forwarded(kind, ForwardedBy::Inbox(&inbox_text), payload)) {
        Ok(()) => Outcome::Delivered,
        Err(WriteError::Full | WriteError::BudgetExceeded) => Outcome::Refused(ErrorCode::Congested),
        Err(WriteError::Closed) => Outcome::NotHere,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chappe_common::keys::{NodeId, PublicKey};

    use super::*;

    #[test]
    fn messages_that_wait_for_a_session_that_ends_are_answered() {
        let sessions = Sessions::new(LiveConfig::shared_defaults(), &Metrics::default());
        let sender = SessionHandle::new(SessionId::from_raw(1), 1024, None);
        sessions.insert(sender.clone());
        let ending = SessionHandle::new(SessionId::from_raw(2), 1024, None);
        let from = PeerAddr { node: NodeId::new(PublicKey::from_bytes([1; 32])), session: sender.id() };
        let message = |ticket: u64| {
            SessionEvent::Message(Box::new(Message {
                kind: RelayKind::Offer,
                from,
                payload: Bytes::from_static(b"1"),
                reply: ReplyTo::Session(Ticket { session: sender.id(), number: ticket }),
            }))
        };
        assert_eq!(ending.try_send(message(7)), Ok(()));
        assert_eq!(ending.try_send(SessionEvent::Note(Box::new((from, Note::Closed)))), Ok(()));
        assert_eq!(sessions.answer_unhandled(ending.close()), vec![(from, Note::Closed)]);
        let received = sender.take_event();
        assert!(
            matches!(received, Some(SessionEvent::Outcome { ticket: 7, outcome: Outcome::NotHere })),
            "{received:?}"
        );
        assert_eq!(ending.try_send(message(8)), Err(TrySendError::Closed));
    }
}
