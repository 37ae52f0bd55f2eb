//! One session with a node: its connection, its key, and when what is due. Knows nothing of calls.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    keys::{NodeId, SecretKey},
    lease::{Inbox, Lease, prove_attach},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{Connection, connection::ConnectionError};
use futures_util::{FutureExt as _, future};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::refusals::{Refusal, Refusals};
use crate::{
    contact::{Contact, ContactId, Day},
    protocol::Attachment,
    sealing_key::SealingKey,
};

/// How long a lease lasts. Short enough that a node which hides a session's end misleads nobody for long.
const LEASE: Duration = Duration::from_secs(600);
/// How many inboxes one `attach` carries: each takes about 360 bytes of the 64 KiB.
const ATTACH_BATCH: usize = 96;
/// When a node that has said nothing is pinged, and when it is given up.
const PING_AFTER: Duration = Duration::from_secs(20);
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// How long a node may take to attach.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session that another has replaced still hears what was on its way.
const LINGER: Duration = Duration::from_secs(2);

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting until the node has attached every inbox: so many answers are due.
    Attaching { answers: usize, until: Instant },
    /// In use.
    Ready,
    /// Replaced by another session.
    Leaving { until: Instant },
}

pub(crate) struct Session {
    pub(crate) serial: u64,
    pub(crate) connection: Connection,
    /// The key to which offers are sealed. Forgotten with the session, and with it every offer that was recorded.
    pub(crate) key: SealingKey,
    pub(crate) stage: Stage,
    /// The node has said that it will stop.
    pub(crate) going_away: bool,
    attached: HashMap<Inbox, ContactId>,
    pub(crate) reattach_at: Option<Instant>,
    refusals: Refusals,
    last_heard: Instant,
    pinged: bool,
    last_seq: u64,
}

/// What a session has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ping,
    Reattach,
    /// Over: the node is silent, didn't attach, or was replaced.
    Silent,
    NotAttached,
    Left,
}

impl Session {
    pub(crate) fn new(serial: u64, connection: Connection, now: Instant) -> Self {
        let key = SealingKey::generate(&mut rand::rng());
        Self {
            serial,
            connection,
            key,
            stage: Stage::Attaching { answers: 0, until: now + ATTACH_TIMEOUT },
            going_away: false,
            attached: HashMap::new(),
            reattach_at: None,
            refusals: Refusals::default(),
            last_heard: now,
            pinged: false,
            last_seq: 0,
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.connection.node()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Whose inbox that is.
    pub(crate) fn owner(&self, inbox: Inbox) -> Option<ContactId> {
        self.attached.get(&inbox).copied()
    }

    pub(crate) fn inboxes(&self) -> usize {
        self.attached.len()
    }

    /// Fresh leases for the inboxes of `contacts`, in the batches in which they are sent.
    pub(crate) fn attachments<'a>(
        &mut self,
        contacts: impl Iterator<Item = &'a Contact>,
        unix_ms: u64,
    ) -> Vec<Vec<Attachment>> {
        // The newest `seq` wins an inbox; a clock that was set back must not lose it to an older lease of this session.
        self.last_seq = unix_ms.max(self.last_seq + 1);
        let now = UnixTime::from_secs(unix_ms / 1000);
        let mut all = Vec::new();
        for contact in contacts {
            for key in contact.own_inbox_keys(now) {
                self.attached.insert(Inbox::new(key.public()), contact.id());
                all.extend(self.attachment(&key, now));
            }
        }
        let mut batches = Vec::new();
        while !all.is_empty() {
            let rest = all.split_off(all.len().min(ATTACH_BATCH));
            batches.push(std::mem::replace(&mut all, rest));
        }
        batches
    }

    fn attachment(&self, key: &SecretKey, now: UnixTime) -> Option<Attachment> {
        let lease = Lease {
            inbox: Inbox::new(key.public()),
            node: self.node(),
            session_key: self.key.public(),
            seq: self.last_seq,
            expires_at: now + LEASE,
        };
        let lease = Signed::sign(lease, key).ok()?;
        let proof = prove_attach(key, self.connection.nonce(), &lease);
        Some(Attachment { lease: URL_SAFE_NO_PAD.encode(lease.as_bytes()), proof: URL_SAFE_NO_PAD.encode(proof) })
    }

    /// The inboxes that are attached and belong to none of `contacts` today: of days that have passed, and of contacts
    /// that were removed. They are forgotten here and have to be detached at the node.
    pub(crate) fn outdated<'a>(&mut self, contacts: impl Iterator<Item = &'a Contact>, now: UnixTime) -> Vec<String> {
        let wanted: std::collections::HashSet<Inbox> =
            contacts.flat_map(|contact| contact.own_inbox_keys(now)).map(|key| Inbox::new(key.public())).collect();
        let outdated: Vec<_> = self.attached.keys().filter(|inbox| !wanted.contains(inbox)).copied().collect();
        for inbox in &outdated {
            self.attached.remove(inbox);
        }
        outdated.iter().map(Inbox::to_base64url).collect()
    }

    /// The node has answered an `attach`; `ttl` says by when it wants another. Says whether the session is ready now and
    /// was not before.
    pub(crate) fn handle_attached(&mut self, ttl: Duration, unix: UnixTime, now: Instant) -> bool {
        // No later than shortly after midnight, when tomorrow has become today and a new tomorrow is to be attached.
        let midnight = Duration::from_secs(Day::SECONDS - unix.as_secs() % Day::SECONDS + 1);
        let again = now + ttl.clamp(Duration::from_secs(5), LEASE / 2).min(midnight);
        self.reattach_at = Some(self.reattach_at.map_or(again, |at| if at <= now { again } else { at.min(again) }));
        match &mut self.stage {
            Stage::Attaching { answers, .. } if *answers > 1 => {
                *answers -= 1;
                false
            }
            stage @ Stage::Attaching { .. } => {
                *stage = Stage::Ready;
                true
            }
            Stage::Ready | Stage::Leaving { .. } => false,
        }
    }

    /// All leases are about to be renewed.
    pub(crate) fn begin_try(&mut self) {
        self.refusals.begin_try();
    }

    /// The node has not attached what it was asked for, some of it new where it `has_new` inboxes. Says whether the
    /// session stays, for another try.
    pub(crate) fn handle_refused(&mut self, is_for_now: bool, has_new: bool) -> bool {
        self.refusals.handle_refused(Refusal { in_use: self.is_ready(), is_for_now, has_new })
    }

    /// Another session has taken over.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { until: now + LINGER };
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = false;
    }

    pub(crate) fn mark_pinged(&mut self) {
        self.pinged = true;
    }

    pub(crate) fn next_deadline(&self) -> Instant {
        let silence = self.last_heard + if self.pinged { SILENT_AFTER } else { PING_AFTER };
        let stage = match self.stage {
            Stage::Attaching { until, .. } | Stage::Leaving { until } => Some(until),
            Stage::Ready => self.reattach_at,
        };
        stage.map_or(silence, |at| at.min(silence))
    }

    pub(crate) fn due(&self, now: Instant) -> Option<Due> {
        let silence = now.saturating_duration_since(self.last_heard);
        match self.stage {
            Stage::Attaching { until, .. } if until <= now => Some(Due::NotAttached),
            Stage::Leaving { until } if until <= now => Some(Due::Left),
            _ if self.pinged && silence >= SILENT_AFTER => Some(Due::Silent),
            _ if !self.pinged && silence >= PING_AFTER => Some(Due::Ping),
            Stage::Ready if self.reattach_at.is_some_and(|at| at <= now) => Some(Due::Reattach),
            _ => None,
        }
    }
}

/// The next text of any session, and which session it is of. Never, where there is none.
pub(crate) async fn next_text(sessions: &mut [Session]) -> (u64, Result<Utf8Bytes, ConnectionError>) {
    if sessions.is_empty() {
        return future::pending().await;
    }
    let texts = sessions.iter_mut().map(|session| {
        let serial = session.serial;
        async move { (serial, session.connection.next().await) }.boxed()
    });
    future::select_all(texts).await.0
}
