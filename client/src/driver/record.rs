//! What the driver knows of one call: its keys, its counters, and what is still to be sent.

use std::time::{Duration, Instant};

use chappe_common::{client::RelayKind, lease::SignedLease, redacted::Redacted, time::UnixTime};
use tokio::sync::watch;

use super::outbox::{Item, Outbox};
use crate::{
    base64_bytes::Bytes,
    contact::Contact,
    handle::CallStatus,
    message::{Answer, Hangup, Ice, Offer, Reject},
    seal::{self, CallId, Direction, Envelope, Place, SealError, Seen},
    sealing_key::SealingKey,
};

/// How long the end of a call is tried to be told to the other side.
const FAREWELL: Duration = Duration::from_secs(10);

/// How a call began on this side.
pub(crate) enum Side {
    Caller {
        offer: Redacted<String>,
        /// Where the callee is, as the last `resolve` said.
        lease: Option<SignedLease>,
        /// The session key to which an offer was delivered.
        offered_to: Option<[u8; 32]>,
        /// When the lease is looked up again while it rings: the callee may have changed its node.
        recheck_at: Option<Instant>,
    },
    Callee {
        offer: Redacted<String>,
        /// The session key that opened the offer; the caller uses it until it has the answer.
        opened_with: SealingKey,
        answer: Option<Redacted<String>>,
    },
}

pub(crate) struct Record {
    pub(crate) call: CallId,
    pub(crate) contact: Contact,
    pub(crate) side: Side,
    /// Made for this call and forgotten with it.
    own_key: SealingKey,
    /// The other side's key for this call, once it has said it.
    pub(crate) peer_key: Option<[u8; 32]>,
    counter: u32,
    seen: Seen,
    pub(crate) outbox: Outbox,
    pub(crate) status: watch::Sender<CallStatus>,
    pub(crate) placed_at: Instant,
    /// When the record is forgotten, once the call is over.
    pub(crate) forget_at: Option<Instant>,
}

impl Record {
    pub(crate) fn new(call: CallId, contact: Contact, side: Side, peer_key: Option<[u8; 32]>, now: Instant) -> Self {
        Self {
            call,
            contact,
            side,
            own_key: SealingKey::generate(&mut rand::rng()),
            peer_key,
            counter: 0,
            seen: Seen::default(),
            outbox: Outbox::default(),
            status: watch::Sender::new(CallStatus::Ringing),
            placed_at: now,
            forget_at: None,
        }
    }

    /// The offer with which the record began has this counter.
    pub(crate) fn note(&mut self, counter: u32) {
        self.seen.insert(counter);
    }

    /// Whether anything of this call may have left this side.
    pub(crate) const fn has_spoken(&self) -> bool {
        self.counter > 0
    }

    pub(crate) fn is_caller(&self) -> bool {
        matches!(self.side, Side::Caller { .. })
    }

    const fn outward(&self) -> Direction {
        match self.side {
            Side::Caller { .. } => Direction::ToCallee,
            Side::Callee { .. } => Direction::ToCaller,
        }
    }

    /// The key to which `item` is sealed now, if there is one: an offer goes to a session, all else to the call's key as
    /// soon as that is known.
    pub(crate) fn recipient(&self, item: &Item) -> Option<[u8; 32]> {
        let session = match &self.side {
            Side::Caller { lease, .. } => lease.as_ref().map(|lease| lease.session_key),
            Side::Callee { .. } => None,
        };
        if *item == Item::Offer { session } else { self.peer_key.or(session) }
    }

    /// Forgets where the callee was, so that it is asked anew.
    pub(crate) fn forget_lease(&mut self) {
        if let Side::Caller { lease, .. } = &mut self.side {
            *lease = None;
        }
    }

    /// Seals `item` to `recipient`. Every attempt has a counter of its own.
    pub(crate) fn seal(
        &mut self,
        item: &Item,
        recipient: &[u8; 32],
        identity: &SealingKey,
        now: UnixTime,
    ) -> Result<String, SealError> {
        let place = Place { call: self.call, direction: self.outward(), kind: item.kind(), counter: self.counter };
        let reply_key = Bytes(self.own_key.public());
        let text = match (item, &self.side) {
            (Item::Offer, Side::Caller { offer, .. }) => {
                serde_json::to_vec(&Offer { sdp: String::clone(offer), reply_key, sent_at: now.as_secs() })
            }
            (Item::Answer, Side::Callee { answer: Some(answer), .. }) => {
                serde_json::to_vec(&Answer { sdp: String::clone(answer), reply_key })
            }
            (Item::Ice(candidates), _) => serde_json::to_vec(&Ice { candidates: candidates.clone() }),
            (Item::Reject { busy }, _) => serde_json::to_vec(&Reject { busy: *busy }),
            _ => serde_json::to_vec(&Hangup {}),
        };
        let text = text.expect("strings and numbers are JSON");
        let secret = self.contact.secret().sealing_secret();
        let payload = seal::seal(&secret, identity, recipient, place, &text, &mut rand::rng())?;
        self.counter += 1;
        Ok(payload)
    }

    /// Opens a message of the other side and counts it; `None` for what is not theirs, or has come before.
    /// `session_keys`: those of the sessions that are open now.
    pub(crate) fn open<'a>(
        &'a mut self,
        envelope: &Envelope,
        kind: RelayKind,
        session_keys: impl Iterator<Item = &'a SealingKey>,
    ) -> Option<Vec<u8>> {
        let inward = match self.outward() {
            Direction::ToCallee => Direction::ToCaller,
            Direction::ToCaller => Direction::ToCallee,
        };
        let secret = self.contact.secret().sealing_secret();
        let opened_with = match &self.side {
            Side::Caller { .. } => None,
            Side::Callee { opened_with, .. } => Some(opened_with),
        };
        // The caller's messages may be sealed to a session until it knows the call's key; the callee's never are.
        let sessions = opened_with.into_iter().chain(session_keys.filter(|_| opened_with.is_some()));
        let text = std::iter::once(&self.own_key)
            .chain(sessions)
            .find_map(|key| envelope.open(&secret, self.contact.identity(), key, inward, kind).ok())?;
        self.seen.insert(envelope.counter()).then_some(text)
    }

    /// The call is over: what was to be said before the farewell is pointless.
    pub(crate) fn end(&mut self, status: CallStatus, now: Instant) {
        self.status.send_replace(status);
        self.forget_at = Some(now + FAREWELL);
        if let Side::Caller { recheck_at, .. } = &mut self.side {
            *recheck_at = None;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.forget_at.is_some()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let recheck = match &self.side {
            Side::Caller { recheck_at, .. } => *recheck_at,
            Side::Callee { .. } => None,
        };
        [self.outbox.next_deadline(), recheck, self.forget_at].into_iter().flatten().min()
    }
}

/// Opens an offer of `contact` that belongs to no call known so far.
pub(crate) fn open_offer(envelope: &Envelope, contact: &Contact, session_key: &SealingKey) -> Option<Offer> {
    let secret = contact.secret().sealing_secret();
    let (kind, direction) = (RelayKind::CallOffer, Direction::ToCallee);
    let text = envelope.open(&secret, contact.identity(), session_key, direction, kind).ok()?;
    serde_json::from_slice(&text).ok()
}
