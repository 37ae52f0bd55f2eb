//! The sessions with nodes: up to [`MAX_SESSIONS`], of which at most one is in use, and the newest `seq` that any of them
//! signed for an inbox.

use std::{collections::HashMap, time::Instant};

use chappe_common::{lease::Inbox, time::UnixTime};
use chappe_discovery::{Connection, connection::ConnectionError};
use futures_util::{FutureExt as _, future};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    leases::{Attachment, SlotId},
    session::{Session, Stage},
};
use crate::{contact::Contact, nodes_in_use::NodeClaim};

/// The most sessions at once: the one in use, the one that replaces it, and the one that lingers.
const MAX_SESSIONS: usize = 3;

/// Changes to the inboxes of a session that its node has to be sent.
pub(super) struct LeaseChanges {
    pub(super) detached: Vec<Inbox>,
    pub(super) due: Vec<Attachment>,
}

#[derive(Default)]
pub(super) struct Sessions {
    list: Vec<Session>,
    next_serial: u64,
    /// A new session continues the `seq` of the one before, else its lease would count as outdated.
    seqs: HashMap<SlotId, u64>,
}

impl Sessions {
    /// Adds a session and returns its serial number.
    pub(super) fn add(&mut self, connection: Connection, claim: NodeClaim, now: Instant) -> u64 {
        if self.list.len() >= MAX_SESSIONS {
            // Only lingering sessions can exceed the limit.
            self.list.retain(|session| !matches!(session.stage, Stage::Leaving { .. }));
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.list.push(Session::new(serial, connection, claim, now));
        serial
    }

    pub(super) fn remove(&mut self, serial: u64) -> Option<Session> {
        let index = self.list.iter().position(|session| session.serial == serial)?;
        Some(self.list.remove(index))
    }

    pub(super) fn get(&self, serial: u64) -> Option<&Session> {
        self.list.iter().find(|session| session.serial == serial)
    }

    pub(super) fn get_mut(&mut self, serial: u64) -> Option<&mut Session> {
        self.list.iter_mut().find(|session| session.serial == serial)
    }

    /// The session on which messages are sent.
    pub(super) fn ready(&self) -> Option<&Session> {
        self.list.iter().find(|session| session.is_ready())
    }

    pub(super) fn is_attaching(&self) -> bool {
        self.list.iter().any(|session| matches!(session.stage, Stage::Attaching { .. }))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.list.iter_mut()
    }

    /// Updates the leases of a session for these contacts. With `only_detach`, signs no new leases. Returns `None` if there is
    /// no such session.
    pub(super) fn update_leases(
        &mut self,
        serial: u64,
        contacts: &[Contact],
        only_detach: bool,
        now: Instant,
        unix_ms: u64,
    ) -> Option<LeaseChanges> {
        let session = self.list.iter_mut().find(|session| session.serial == serial)?;
        let unix = UnixTime::from_secs(unix_ms / 1000);
        let detached = session.leases.update(contacts.iter(), &mut rand::rng(), now, unix);
        let due = if only_detach {
            Vec::new()
        } else {
            session.leases.due(contacts.iter(), &mut self.seqs, &mut rand::rng(), now, unix_ms)
        };
        self.seqs.retain(|slot, _| slot.is_near(unix));
        Some(LeaseChanges { detached, due })
    }

    /// Waits for the next text of any session. Returns its serial number too. Never resolves without a session.
    pub(super) async fn next_text(&mut self) -> (u64, Result<Utf8Bytes, ConnectionError>) {
        if self.list.is_empty() {
            return future::pending().await;
        }
        let texts = self.list.iter_mut().map(|session| {
            let serial = session.serial;
            async move { (serial, session.connection.next().await) }.boxed()
        });
        future::select_all(texts).await.0
    }

    pub(super) async fn close(self) {
        for session in self.list {
            session.connection.close().await;
        }
    }
}
