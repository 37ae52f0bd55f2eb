//! Requests to nodes that have no response yet: each has an id, a deadline and one outcome. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chappe_common::{client::RelayKind, lease::Address};
use tokio::sync::oneshot;

use super::leases::{Attachment, SlotId};
use crate::{command::IceServersError, protocol::IceServer, seal::CallId};

/// How long a node may take to respond. It queries three homes concurrently and gives up on them sooner.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) enum Expected {
    /// The outcome for these inboxes, in the order of the message.
    Attached(Vec<RequestedInbox>),
    /// Completed when the node responds, dropped if it does not.
    Detached(oneshot::Sender<()>),
    /// The callee's lease. With `recheck`, only to see whether the callee has moved; otherwise to send the first message
    /// of the call's outbox.
    Resolved {
        call: CallId,
        address: Address,
        recheck: bool,
    },
    Delivered {
        call: CallId,
        kind: RelayKind,
        recipient: [u8; 32],
    },
    IceServers(oneshot::Sender<Result<Vec<IceServer>, IceServersError>>),
}

pub(super) struct RequestedInbox {
    pub(super) slot: SlotId,
    pub(super) is_renewal: bool,
}

impl From<&Attachment> for RequestedInbox {
    fn from(attachment: &Attachment) -> Self {
        Self { slot: attachment.slot, is_renewal: attachment.is_renewal }
    }
}

pub(super) struct PendingRequest {
    pub(super) session: u64,
    until: Instant,
    pub(super) expected: Expected,
}

#[derive(Default)]
pub(super) struct Requests {
    pending: HashMap<u64, PendingRequest>,
    last_id: u64,
}

impl Requests {
    pub(super) const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds the request with this id, from [`Self::next_id`]. It expires after [`REQUEST_TIMEOUT`].
    pub(super) fn insert(&mut self, id: u64, session: u64, expected: Expected, now: Instant) {
        self.pending.insert(id, PendingRequest { session, until: now + REQUEST_TIMEOUT, expected });
    }

    /// Removes the request with this id. Returns `None` if it is unknown or belongs to another session.
    pub(super) fn take(&mut self, session: u64, id: u64) -> Option<Expected> {
        self.pending.get(&id).filter(|pending| pending.session == session)?;
        self.pending.remove(&id).map(|pending| pending.expected)
    }

    /// Removes all requests of a session.
    pub(super) fn take_session(&mut self, session: u64) -> Vec<(u64, Expected)> {
        self.pending
            .extract_if(|_, pending| pending.session == session)
            .map(|(id, pending)| (id, pending.expected))
            .collect()
    }

    /// Removes a request whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<(u64, PendingRequest)> {
        let id = self.pending.iter().find(|(_, pending)| pending.until <= now).map(|(id, _)| *id)?;
        self.pending.remove_entry(&id)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_session_of_a_request_can_answer_it_and_only_once() {
        let mut requests = Requests::default();
        let id = requests.next_id();
        requests.insert(id, 1, Expected::Detached(oneshot::channel().0), Instant::now());
        assert!(requests.take(2, id).is_none());
        assert!(requests.take(1, id).is_some());
        assert!(requests.take(1, id).is_none());
    }

    #[test]
    fn requests_expire_at_their_deadline_and_end_with_their_session() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for session in [1, 1, 2] {
            let id = requests.next_id();
            requests.insert(id, session, Expected::Detached(oneshot::channel().0), now);
        }
        assert!(requests.take_expired(now).is_none());
        assert_eq!(requests.take_session(1).len(), 2);
        let deadline = requests.next_deadline().expect("one is left");
        assert_eq!(deadline, now + REQUEST_TIMEOUT);
        assert_eq!(requests.take_expired(deadline).map(|(_, pending)| pending.session), Some(2));
        assert_eq!(requests.next_deadline(), None);
    }
}
